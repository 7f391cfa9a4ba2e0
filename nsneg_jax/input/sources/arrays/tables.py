"""What a form of a data set gives: rows of pixels with labels."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any, Protocol

import numpy as np


class Rows(Protocol):
    """The bytes of equally large pictures, one row each; read by several threads at once."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> np.ndarray:
        """Returns uint8 [B]."""
        ...


class FileRows:
    """Rows of a file that is nothing else. Each process opens it anew.

    Args:
        path: the file.
        count: number of rows.
        size: bytes per row.
    """

    def __init__(self, path: str, count: int, size: int) -> None:
        self._path, self._count, self._size = path, count, size
        self._file: IO[bytes] | None = None

    def __reduce__(self) -> tuple[type["FileRows"], tuple[str, int, int]]:
        return FileRows, (self._path, self._count, self._size)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, row: int) -> np.ndarray:
        file = self._file
        if file is None:
            # Of two threads that come first, each may open it; one of the two is kept.
            file = self._file = open(self._path, "rb")  # noqa: SIM115
        data = os.pread(file.fileno(), self._size, row * self._size)
        if len(data) != self._size:
            raise OSError(f"the file has become shorter than {self._count} images")
        return np.frombuffer(data, np.uint8)


@dataclass(frozen=True)
class Table:
    """The images of a split, in the order of their file.

    Attributes:
        rows: the pixels; [row] is uint8 [B], `shape` in the order of the file.
        shape: axes of a picture as they are in the file, such as (3, 32, 32).
        axes: where height, width and channels are among them, such as (1, 2, 0); two for grey ones.
        labels: int64 [n], indices into `names`; None if there are none.
        names: names of the classes.
        place: file or archive of the images, for messages.
        files: paths of the files on the disk.
        numbers: int64 [n], numbers of the images in that file; None for 0, 1, 2 ...
    """

    rows: Rows | np.ndarray
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    labels: np.ndarray | None
    names: Sequence[str]
    place: str
    files: Sequence[str]
    numbers: np.ndarray | None = None

    def pixels(self, number: int) -> np.ndarray:
        """Returns the picture with a number in the file, uint8 [H, W, 3] or [H, W]."""
        row: Any = self.rows[number]
        return np.ascontiguousarray(row.reshape(self.shape).transpose(self.axes))
