"""Counts the images of a run that could not be read, lists them, and stops a run with too many."""

import threading
from collections.abc import Iterator
from pathlib import Path

import jax

from nsneg_jax.errors import UsageError, printable
from nsneg_jax.files import write_text
from nsneg_jax.input.loading import report
from nsneg_jax.input.samples import Unreadable
from nsneg_jax.training.signals import StopSignals
from nsneg_jax.training.workdir import UNREADABLE


def listed(workdir: Path) -> list[str]:
    """Returns the paths of the images that a run could not read so far."""
    names = sorted(workdir.glob(f"{Path(UNREADABLE).stem}*{Path(UNREADABLE).suffix}"))
    return [path for name in names for path, _ in _lines(name)]


def _lines(file: Path) -> Iterator[tuple[str, str]]:
    """Yields path and reason of each line."""
    for line in file.read_text("utf-8", "replace").splitlines():
        path, _, reason = line.partition("\t")
        yield path, reason


class UnreadableImages:
    """Reports each unreadable image once, and lists them in WORKDIR/unreadable.tsv. Thread-safe.

    The file has a line per image: path, tab, reason. Each process counts what it reads; processes
    other than 0 write to unreadable-INDEX.tsv.

    Args:
        workdir: workdir of the run.
        images: images in the data set.
        fraction: largest part of them that may be unreadable; one image always may.
        signals: of a run that can stop and resume: asked to stop it once there are more. None
            raises the error of `check` at once.
    """

    def __init__(
        self,
        workdir: Path,
        images: int,
        fraction: float,
        signals: StopSignals | None = None,
    ) -> None:
        name = Path(UNREADABLE)
        if jax.process_index():
            name = name.with_stem(f"{name.stem}-{jax.process_index()}")
        self._path = workdir / name
        self._images = images
        self._fraction = fraction
        self._limit = max(1, int(fraction * images))
        self._signals = signals
        self._found: dict[str, str] = {}
        # A resumed run has not met all of them yet; who repairs a file must find it named here.
        self._earlier = dict(_lines(self._path)) if self._path.exists() else {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Number of images found so far."""
        return len(self._found)

    def __call__(self, found: Unreadable) -> None:
        """Counts an image, unless it was counted before."""
        with self._lock:
            if found.path in self._found:
                return
            self._found[found.path] = found.reason
            report(found)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            now = {printable(path): printable(reason) for path, reason in self._found.items()}
            all_of_run = sorted((self._earlier | now).items())
            write_text(self._path, "".join(f"{path}\t{reason}\n" for path, reason in all_of_run))
        if len(self) > self._limit:
            if self._signals is None:
                self.check()
            else:
                self._signals.request("too many unreadable images")

    def summary(self, replaced: int) -> str:
        """Returns the message at the end of a training with `replaced` samples of other images."""
        return (
            f"note: images that could not be read: {len(self)}, listed in {self._path}; training "
            f"samples with another image in their place: {replaced:,}"
        )

    def check(self) -> None:
        """Raises UsageError if more images are unreadable than may be."""
        if len(self) > self._limit:
            first, reason = next(iter(self._found.items()))
            raise UsageError(
                f"{len(self)} of {self._images:,} images could not be read, but "
                f"data.max_bad_fraction={self._fraction:g} allows {self._limit}. The first is "
                f"{printable(first)}: {reason}. All are listed in {self._path}. Replace each by "
                "a good copy of the same name and run the same command again, or allow more with "
                "--config.data.max_bad_fraction."
            )
