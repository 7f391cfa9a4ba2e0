"""Some images of another source, as they are or without their border."""

import hashlib
import os
from collections.abc import Sequence

import numpy as np

from nsneg_jax.errors import UsageError
from nsneg_jax.input.decode import UnreadableImage
from nsneg_jax.input.sources.protocol import FileSource, image_name


class Derived:
    """A `FileSource` of chosen images of another one.

    Worker processes get a copy, so this module imports neither JAX nor grain.

    Args:
        source: the other source.
        records: int [n], indices of the images in `source`, in order.
        name: name for messages; that of `source` if empty.
        border: pixels to cut from each side of each image.

    Attributes:
        classes, labels, present: see `FileSource`; those of the images chosen.
        folder: folder of the split of `source`; None if it is none of files in folders.
    """

    def __init__(
        self,
        source: FileSource,
        records: Sequence[int] | np.ndarray,
        *,
        name: str = "",
        border: int = 0,
    ) -> None:
        self._source = source
        self._records = np.asarray(records, np.int64)
        self._border = border
        self.name = name or source.name
        self.classes = source.classes
        self.labels = np.asarray(source.labels)[self._records]
        self.present = np.unique(self.labels).astype(np.int32)
        self.folder: str | None = getattr(source, "folder", None)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._records)

    def image(self, index: int) -> np.ndarray:
        """Reads image `index` as uint8 [H, W, 3], without its border.

        Raises:
            UnreadableImage: the file is missing, damaged or no image, or nothing but border.
        """
        image = self._source.image(self._of(index))
        cut = self._border
        if not cut:
            return image
        height, width = image.shape[:2]
        if min(height, width) <= 2 * cut:
            reason = f"it has {width}x{height} pixels, of which {cut} on each side are a border"
            raise UnreadableImage(self.location(index), reason)
        return np.ascontiguousarray(image[cut : height - cut, cut : width - cut])

    def path(self, index: int) -> str:
        """Returns the path of image `index`, see `FileSource`."""
        return self._source.path(self._of(index))

    def file_name(self, index: int) -> str:
        """Returns the name of image `index`, see `image_name`."""
        return image_name(self._source, self._of(index))

    def encoded(self, index: int) -> bytes:
        """Returns the bytes of the file of image `index`, with the border."""
        return self._source.encoded(self._of(index))

    def location(self, index: int) -> str:
        """Returns where image `index` is, see `FileSource`."""
        return self._source.location(self._of(index))

    def size(self, index: int) -> int | None:
        """Returns the length of the file of image `index`, see `FileSource`."""
        return self._source.size(self._of(index))

    def files(self) -> Sequence[str]:
        """Returns the paths of all files of `source`."""
        return self._source.files()

    def _of(self, index: int) -> int:
        return int(self._records[index])


def part_of(source: FileSource, low: int, high: int, name: str) -> Derived:
    """Returns a part of the images of each class of a source.

    Digests of the images' paths without ending order each class, so that the part depends neither
    on the location of the data nor on other classes, and a set and its textures have the same.
    Parts that meet, such as 0 to 80 and 80 to 100, share no image and leave none out.

    Args:
        source: all images.
        low, high: where the part of a class begins and ends, in percent.
        name: name of the part, for messages.

    Raises:
        UsageError: it is no part, or an empty one.
    """
    if not 0 <= low < high <= 100:
        raise UsageError(
            f"The split {name!r} is no part of {source.name}: percentages must rise from 0 to 100, "
            "as in 'train[:80%]' and 'train[80%:]'."
        )
    by_class: dict[int, list[tuple[bytes, str, int]]] = {}
    for index, label in enumerate(np.asarray(source.labels).tolist()):
        path = source.path(index)
        by_class.setdefault(label, []).append((_digest(path), path, index))
    chosen: list[int] = []
    for images in by_class.values():
        begin, end = ((len(images) * percent + 50) // 100 for percent in (low, high))
        chosen += [index for _, _, index in sorted(images)[begin:end]]
    records = sorted(chosen)
    if not len(records):
        raise UsageError(
            f"The split {name!r} has none of the {len(source)} images of {source.name}. Choose a "
            "larger part."
        )
    return Derived(source, records, name=f"{source.name.partition(' [')[0]} [{name}]")


def _digest(path: str) -> bytes:
    stem = os.path.splitext(path)[0]
    return hashlib.sha256(stem.encode("utf-8", "surrogateescape")).digest()
