"""Some images of another source, as they are or without their border."""

from collections.abc import Sequence

import numpy as np

from nsneg_jax.input.decode import UnreadableImage
from nsneg_jax.input.sources.source import FileSource


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
