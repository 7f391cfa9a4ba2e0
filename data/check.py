"""Reads every image of a data set, and lists those that cannot be read.

    python -m data.check datasets/imagenet100

ROOT is any folder of images, or 'arrayrecord:PATH', or another source of a config, such as
'tfds:NAME', 'hf:PATH' or 'cifar10:PATH', with --split.
Standard output gets one line per unreadable image: its path, a tab and the reason. With --odd also
the images that can be read but may surprise, with 'odd: ' before the reason: CMYK, a side under 32
pixels, another format than the ending says, or a name that differs from another in the ending only
(both would have the same texture). Progress and a summary go to standard error. Exit status: 0 all
images can be read, 2 some cannot, 75 stopped by a signal.
"""

import argparse
import os
import sys
import warnings
from array import array
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from nsneg_jax.errors import EXPLAINED, UsageError, escape_output, printable, tell
from nsneg_jax.files import expand
from nsneg_jax.input.decode import Header, UnreadableImage, decode_image, header_of
from nsneg_jax.input.sources import storage
from nsneg_jax.input.sources.folders import layout
from nsneg_jax.input.sources.folders.folder import IMAGE_ENDINGS
from nsneg_jax.input.sources.lists.class_list import class_names
from nsneg_jax.input.sources.packed import INDEX
from nsneg_jax.input.sources.protocol import FileSource
from nsneg_jax.input.sources.source import of_files, open_files
from nsneg_jax.training.signals import ended_by_signals

# A file in a format without endings here has a wrong one.
_ENDINGS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
_OF_FOLDERS = ("folder", "arrayrecord")  # whose splits are folders, which can be listed
_FORMATS = {ending: form for form, endings in _ENDINGS.items() for ending in endings}
_TINY = 32  # pixels of a side
_GROUP = 16  # images that a thread reads at once


class Finding(NamedTuple):
    """What is to say of one image.

    Attributes:
        path: path of the image.
        kind: kind of its fault, see `UnreadableImage`, or of its oddness.
        text: the reason in words.
        is_fault: whether it cannot be read.
    """

    path: str
    kind: str
    text: str
    is_fault: bool = False

    def line(self) -> str:
        """Returns the line for standard output."""
        return f"{printable(self.path)}\t{'' if self.is_fault else 'odd: '}{printable(self.text)}"


class Tally:
    """Counts of a split: images by format, findings by kind, sizes."""

    def __init__(self) -> None:
        self.formats: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.odd: Counter[str] = Counter()
        self._heights, self._widths = array("i"), array("i")

    def add(self, header: Header | None, findings: Sequence[Finding]) -> None:
        """Counts an image."""
        if header is not None:
            self.formats[header.format] += 1
            self._heights.append(header.height)
            self._widths.append(header.width)
        for finding in findings:
            (self.faults if finding.is_fault else self.odd)[finding.kind] += 1

    def summary(self, name: str) -> str:
        """Returns some lines that say how the split is."""
        faults = self.faults.total()
        lines = [f"{name}: {self.formats.total() + faults:,} images, {faults:,} unreadable"]
        for title, counts in (
            ("unreadable", self.faults),
            ("odd", self.odd),
            ("formats", self.formats),
        ):
            if counts:
                listed = ", ".join(f"{kind} {count:,}" for kind, count in counts.most_common())
                lines.append(f"  {title.ljust(11)}{listed}")
        if self._heights:
            heights, widths = np.array(self._heights), np.array(self._widths)
            short = np.minimum(heights, widths)
            most = np.argmax(heights.astype(np.int64) * widths)
            lines.append(
                f"  sizes      shorter side {short.min():,} to {short.max():,} pixels, median "
                f"{int(np.median(short)):,}; largest {widths[most]:,} x {heights[most]:,}"
            )
        return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    escape_output()
    try:
        with ended_by_signals("what is listed is not all; run the same command again"):
            options = parse(arguments)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's name no file
                good = [check(split, options) for split in splits(options)]
            return 0 if all(good) else 2
    except EXPLAINED as error:
        return tell(error)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line; argparse exits with status 2 on a malformed one.

    Raises:
        UsageError: a value is out of range.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__}.check", description=__doc__.split("\n")[0]
    )
    parser.add_argument("root", type=expand, help="folder of images, 'arrayrecord:PATH' ...")
    parser.add_argument(
        "--split", default="", help="names separated by commas, '.' for ROOT itself; '': all"
    )
    parser.add_argument("--classes", default="", help="only these: names, or a file with them")
    parser.add_argument("--tfds_dir", default="", help="of 'tfds:' sources; '': TFDS's default")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="to read and decode")
    parser.add_argument("--odd", action="store_true", help="list odd images, too")
    options = parser.parse_args(arguments)
    if not 1 <= options.threads <= 999:
        raise UsageError(f"--threads is {options.threads}, but must be from 1 to 999.")
    options.root = of_files(options.root)
    return options


def splits(options: argparse.Namespace) -> list[str]:
    """Returns the splits to check: those named, else all of ROOT; '.' if ROOT is one itself.

    Raises:
        UsageError: they must be named.
    """
    named = [name.strip() for name in options.split.split(",") if name.strip()]
    scheme, _, root = options.root.partition(":")
    if named:
        return named
    if scheme not in _OF_FOLDERS:
        raise UsageError(f"{options.root} needs the names of its splits, as --split train,val.")
    if not storage.is_folder(root):
        return ["."]  # opening it says what is missing
    names = storage.folders(root)
    if scheme == "arrayrecord":
        found = [name for name in names if storage.exists(f"{root}/{name}/{INDEX}")]
    else:
        splits_there = any(name.lower() in layout.SPLITS for name in names)
        found = names if splits_there and not layout.loose_image(root, IMAGE_ENDINGS) else []
    return found or ["."]


def check(split: str, options: argparse.Namespace) -> bool:
    """Reads all images of a split and prints what it finds; returns whether all can be read.

    Raises:
        UsageError: a split that was named cannot be opened.
    """
    try:
        classes = class_names(options.classes) if options.classes else None
        source = open_files(options.root, split, classes, tfds_dir=options.tfds_dir)
    except UsageError as error:
        if options.split:
            raise
        tell(error)  # the other splits may be good
        return False
    scheme, _, root = options.root.partition(":")
    place = "" if split == "." else split
    where = source.name if scheme not in _OF_FOLDERS else storage.join(root, place).rstrip("/")
    tally = Tally()
    with tqdm(total=len(source), unit="image", smoothing=0.05, desc=split) as progress:
        for header, findings in _examined(source, options.threads):
            tally.add(header, findings)
            _tell(findings, options.odd)
            progress.update()
    for twin in twins(source):
        tally.add(None, [twin])
        _tell([twin], options.odd)
    sys.stdout.flush()
    print(tally.summary(where), file=sys.stderr, flush=True)
    return not tally.faults


def examine(source: FileSource, index: int) -> tuple[Header | None, list[Finding]]:
    """Reads and decodes image `index` of a source; an unreadable one has no header."""
    path = source.path(index)
    place = source.location(index)
    try:
        data = source.encoded(index)
        header = header_of(data, place)
        decode_image(data, place)
    except UnreadableImage as error:
        return None, [Finding(place, error.kind, error.reason, is_fault=True)]
    found = []
    if header.mode == "CMYK":
        found.append(Finding(place, "CMYK", "its colours are CMYK"))
    if min(header.height, header.width) < _TINY:
        size = f"{header.width} x {header.height}"
        found.append(Finding(place, f"under {_TINY} pixels", f"it has {size} pixels"))
    said = _FORMATS.get(os.path.splitext(path)[1].lower(), header.format)
    if said != header.format:
        found.append(Finding(place, "wrong ending", f"it is in the format {header.format}"))
    return header, found


def twins(source: FileSource) -> Iterator[Finding]:
    """Yields the images whose path differs from another's, earlier in order, in its ending only."""
    seen: dict[str, str] = {}
    before = -1
    for index, label in enumerate(source.labels.tolist()):
        if label != before:  # images are in the order of their classes
            seen.clear()
            before = label
        path = source.path(index)
        first = seen.setdefault(os.path.splitext(path)[0], path)
        if first != path:
            text = f"its name differs from {first} in the ending only"
            yield Finding(source.location(index), "names that differ in the ending only", text)


def _examined(source: FileSource, threads: int) -> Iterator[tuple[Header | None, list[Finding]]]:
    """Yields the findings of all images in order; threads work some images ahead."""

    def group(first: int) -> list[tuple[Header | None, list[Finding]]]:
        members = range(first, min(first + _GROUP, len(source)))
        return [examine(source, index) for index in members]

    under_way: deque[Future[list[tuple[Header | None, list[Finding]]]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, len(source), _GROUP):
            under_way.append(pool.submit(group, first))
            if len(under_way) > 4 * threads:
                yield from under_way.popleft().result()
        while under_way:
            yield from under_way.popleft().result()


def _tell(findings: Sequence[Finding], odd: bool) -> None:
    # Past the progress bar where both are on one terminal.
    write = tqdm.write if sys.stdout.isatty() else print
    for finding in findings:
        if finding.is_fault or odd:
            write(finding.line())


if __name__ == "__main__":
    sys.exit(main())
