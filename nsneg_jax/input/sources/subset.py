"""Some images of a data set."""

from collections.abc import Sequence

import numpy as np

from nsneg_jax.input.sources.source import Source


class Subset:
    """Some images of a source, as a `Source`."""

    def __init__(self, source: Source, indices: Sequence[int]) -> None:
        self._source = source
        self._indices = np.asarray(indices)
        self.name = f"{source.name}, {len(indices)} of {len(source)} images"
        self.classes = source.classes
        self.labels = np.asarray(source.labels)[self._indices]

    def __len__(self) -> int:
        return len(self._indices)

    def image(self, index: int) -> np.ndarray:
        return self._source.image(int(self._indices[index]))
