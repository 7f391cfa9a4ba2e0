"""Image files that are records of larger files."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from nsneg_jax.input.decode import decode_image


class RecordSource(ABC):
    """A `FileSource` of image files that are records of larger files.

    Subclasses have `location`, `files` and `encoded`, and fill `name`, `classes`, `labels` and
    `present`.

    Attributes:
        paths: see `FileSource.path`, in the order of the images.
    """

    name: str
    classes: tuple[str, ...]
    labels: np.ndarray
    present: np.ndarray
    paths: Sequence[str]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def path(self, index: int) -> str:
        """Returns the path of image `index`, see `FileSource`."""
        return self.paths[index]

    def size(self, index: int) -> int | None:
        """Returns None, because only the record itself has its length."""
        return None

    @abstractmethod
    def location(self, index: int) -> str:
        """Returns where image `index` is, for messages."""

    @abstractmethod
    def files(self) -> Sequence[str]:
        """Returns the paths of the files that hold the records, in a fixed order."""

    @abstractmethod
    def encoded(self, index: int) -> bytes:
        """Returns the bytes of image file `index`.

        Raises:
            UnreadableImage: its record is empty or damaged.
        """

    def image(self, index: int) -> np.ndarray:
        """Reads image `index` as uint8 [H, W, 3], see `decode_image`.

        Raises:
            UnreadableImage: its record is damaged, or holds no image.
        """
        return decode_image(self.encoded(index), self.location(index))
