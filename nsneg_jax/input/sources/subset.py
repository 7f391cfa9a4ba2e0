"""Some images of a data set."""

from collections.abc import Sequence

import numpy as np

from nsneg_jax.input.sources.source import FileSource


class Subset:
    """Some images of a source of files, as another."""

    def __init__(self, source: FileSource, indices: Sequence[int]) -> None:
        self._source = source
        self._indices = np.asarray(indices)
        self.name = f"{source.name}, {len(indices)} of {len(source)} images"
        self.classes = source.classes
        self.labels = np.asarray(source.labels)[self._indices]
        self.present = np.unique(self.labels).astype(np.int32)

    def __len__(self) -> int:
        return len(self._indices)

    def path(self, index: int) -> str:
        return self._source.path(int(self._indices[index]))

    def encoded(self, index: int) -> bytes:
        return self._source.encoded(int(self._indices[index]))

    def location(self, index: int) -> str:
        return self._source.location(int(self._indices[index]))

    def size(self, index: int) -> int | None:
        return self._source.size(int(self._indices[index]))

    def image(self, index: int) -> np.ndarray:
        return self._source.image(int(self._indices[index]))
