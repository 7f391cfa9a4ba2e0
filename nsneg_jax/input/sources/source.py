"""What a data set must offer to be trained on, and how its name in the configuration is read."""

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, TypeGuard

import numpy as np

from nsneg_jax.errors import UsageError
from nsneg_jax.files import expand, user_path
from nsneg_jax.input.sources import storage

_SHAPES_SIZE = 4000
_SHAPES = re.compile(r"shapes(?:/(?P<version>\w+))?(?::(?P<size>[0-9]+))?(?:@(?P<seed>[0-9]+))?")


class Source(Protocol):
    """Random access to one split of a data set.

    Attributes:
        name: for messages, e.g. 'folder:/data/imagenet100 [train]'.
        classes: names of the classes, sorted.
        labels: int32 [len], indices into `classes`.
    """

    name: str
    classes: tuple[str, ...]
    labels: np.ndarray

    def __len__(self) -> int:
        """Number of images, known without decoding any."""
        ...

    def image(self, index: int) -> np.ndarray:
        """Image `index` as uint8 [H, W, 3], RGB; not to be written to. Safe to call in threads."""
        ...


class FileSource(Source, Protocol):
    """A `Source` of image files.

    Attributes:
        present: int32, indices of the classes with images, ascending.
    """

    present: np.ndarray

    def path(self, index: int) -> str:
        """'CLASS/NAME.JPEG' of image `index`."""
        ...

    def encoded(self, index: int) -> bytes:
        """The file of image `index`."""
        ...


def has_files(source: Source) -> TypeGuard[FileSource]:
    """Whether the images of a source are files."""
    return hasattr(source, "path")


def open_source(
    spec: str, split: str, *, image_size: int, classes: str = "", tfds_dir: str = ""
) -> Source:
    """Opens the data set that `data.source` names.

    Args:
        spec: 'folder:ROOT' (see `Folder`), 'arrayrecord:ROOT' (see `ArrayRecord`),
            'tfds:NAME[/CONFIG][:VERSION]' (see `Tfds`), or 'shapes[/VERSION][:SIZE][@SEED]', the
            built-in procedural images (see `Shapes`): 'shapes' are 4000 of version 'clean' and
            seed 0, 'shapes/sketch:1000@7' a thousand of another version and seed.
        split: 'train', 'val' or the name of any other split there is.
        image_size: side of the procedural images in pixels; files have what size they have.
        classes: restricts files to these classes, see `class_names`; '' takes them all.
        tfds_dir: where data sets of TFDS are; '' takes its own choice.

    Raises:
        UsageError: an unknown data set, or one that cannot be used.
    """
    if is_files(spec):
        return open_files(spec, split, class_names(classes) if classes else None, tfds_dir=tfds_dir)
    shapes = _SHAPES.fullmatch(spec)
    if shapes:
        from nsneg_jax.input.shapes.source import Shapes

        if classes:
            raise UsageError(
                f"data.classes is {classes!r}, but the built-in shapes always have all of their "
                "classes. Leave it empty."
            )
        return Shapes(
            split,
            image_size=image_size,
            size=int(shapes["size"] or _SHAPES_SIZE),
            seed=int(shapes["seed"] or 0),
            version=shapes["version"] or "clean",
        )
    raise UsageError(
        f"data.source is {spec!r}, but must be 'folder:PATH' (images in PATH/{split}/CLASS/), "
        "'arrayrecord:PATH' (packed by `python -m data.arrayrecord`), "
        "'tfds:NAME[/CONFIG][:VERSION]' or 'shapes[/VERSION][:SIZE][@SEED]' (built in), such as "
        "'shapes', 'shapes:1000' or 'shapes/sketch:1000@7'. Set it with "
        "--config.data.source=folder:PATH."
    )


def is_files(spec: str) -> bool:
    """Whether `spec` names a data set of image files."""
    scheme, _, rest = spec.partition(":")
    return scheme in ("folder", "arrayrecord", "tfds") and bool(rest)


def open_files(
    spec: str,
    split: str,
    classes: Sequence[str] | None = None,
    *,
    partial: bool = False,
    tfds_dir: str = "",
) -> FileSource:
    """Opens a data set of image files, one for which `is_files` holds.

    Args:
        spec, split, tfds_dir: as of `open_source`.
        classes, partial: as of `Folder`.

    Raises:
        UsageError: it cannot be used.
    """
    scheme, _, rest = expand(spec).partition(":")
    if scheme == "folder":
        from nsneg_jax.input.sources.folder import Folder

        return Folder(rest, split, classes, partial)
    if scheme == "arrayrecord":
        from nsneg_jax.input.sources.packed import ArrayRecord

        return ArrayRecord(rest, split, classes, partial)
    from nsneg_jax.input.sources.tfds import Tfds

    return Tfds(rest, split, classes, partial, tfds_dir)


def of_files(spec_or_folder: str) -> str:
    """A data set of image files as commands are given it: a folder needs no 'folder:' before it."""
    return spec_or_folder if is_files(spec_or_folder) else f"folder:{spec_or_folder}"


def data_set_name(spec_or_folder: str) -> str:
    """A name for what is made of a data set: 'imagenet100' of 'folder:/data/imagenet100/'."""
    scheme, _, rest = of_files(spec_or_folder).partition(":")
    if scheme == "tfds":
        return re.split("[/:]", rest)[0]
    if not storage.is_remote(rest):
        rest = os.path.abspath(rest)
    return rest.rstrip("/").rpartition("/")[2]


def fingerprint(source: Source) -> dict[str, int | str]:
    """What tells a source from one of other files: how many, and digests of names and classes."""
    path = getattr(source, "path", str)
    return {
        "images": len(source),
        "classes": _digest(source.classes),
        "names": _digest(map(path, range(len(source)))),
    }


def _digest(names: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:12]


def check_same_data(source: Source, images_before: int | None, workdir: Path) -> None:
    """Raises UsageError where a run that goes on has another number of images than before.

    Args:
        source: of the run.
        images_before: how many there were; None if that is not known.
        workdir: of the run, for the message.
    """
    if images_before is not None and len(source) != images_before:
        raise UsageError(
            f"{source.name} has {len(source)} images, but the run in {workdir} was started with "
            f"{images_before}, and the order of the data depends on it. Give the same data to go "
            "on with it, or another --workdir for a new run."
        )


def class_names(classes: str) -> tuple[str, ...]:
    """Names of class folders from `data.classes`.

    Args:
        classes: names with commas between them, or the path of a text file with a class a line:
            its first word is the name; empty lines and lines that begin with '#' are skipped.

    Raises:
        UsageError: a file without a name in it, or a path to no file.
    """
    path = user_path(classes)
    if path.is_file():
        lines = path.read_text().splitlines()
        names = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
    elif path.suffix in (".txt", ".tsv") or "/" in classes:
        raise UsageError(
            f"data.classes is {classes!r}, which is no file. Give the path of a text file with a "
            "class a line, or the names of the classes with commas between them."
        )
    else:
        names = [name.strip() for name in classes.split(",") if name.strip()]
    if not names:
        raise UsageError(f"data.classes is {classes!r}, which names no class. Name one at least.")
    return tuple(names)
