"""The interface of data sets."""

from collections.abc import Sequence
from typing import Protocol, TypeGuard

import numpy as np

from nsneg_jax.input.sources.classes import UNLABELLED


class Source(Protocol):
    """Random access to one split of a data set.

    Attributes:
        name: for messages, e.g. 'folder:/data/imagenet100 [train]'.
        classes: names of the classes, sorted; `UNLABELLED` if they are unknown.
        labels: int32 [len], indices into `classes`; 0 if unknown.
    """

    name: str
    classes: tuple[str, ...]
    labels: np.ndarray

    def __len__(self) -> int:
        """Number of images, without decoding any."""
        ...

    def image(self, index: int) -> np.ndarray:
        """Reads image `index` as RGB, uint8 [H, W, 3]; do not write to it. Thread-safe."""
        ...


class FileSource(Source, Protocol):
    """A `Source` of image files.

    Attributes:
        present: int32, indices of the classes with images, ascending.
    """

    present: np.ndarray

    def path(self, index: int) -> str:
        """Returns the path 'CLASS/NAME.JPEG' of image `index`, without 'CLASS/' if unknown."""
        ...

    def encoded(self, index: int) -> bytes:
        """Returns the bytes of the file of image `index`."""
        ...

    def location(self, index: int) -> str:
        """Returns where image `index` is, for messages: the path of its file, if it has one."""
        ...

    def size(self, index: int) -> int | None:
        """Returns the length of the file of image `index` in bytes; None if not known cheaply."""
        ...

    def files(self) -> Sequence[str]:
        """Returns the paths of all files that hold the images, in a fixed order."""
        ...


def has_files(source: Source) -> TypeGuard[FileSource]:
    """Whether the images of a source are files."""
    return hasattr(source, "encoded")


def has_classes(source: Source) -> bool:
    """Whether the classes of the images of a source are known."""
    return source.classes != UNLABELLED


def image_name(source: Source, index: int) -> str:
    """Names an image: its path below the folder of its split, or as its data set names it.

    Args:
        source: the images.
        index: place of the image; its name where the data set has none.
    """
    for naming in ("file_name", "path"):
        name = getattr(source, naming, None)
        if name is not None:
            return str(name(index))
    return str(index)
