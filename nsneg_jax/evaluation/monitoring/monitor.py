"""Figures of an encoder's features while it is trained: kNN, a linear probe, and their rank."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jax.sharding import Mesh

from nsneg_jax.evaluation.features import Extractor
from nsneg_jax.evaluation.monitoring.logistic import probe_accuracies
from nsneg_jax.evaluation.monitoring.spread import RANKME_IMAGES, deviation, rankme
from nsneg_jax.evaluation.neighbours import TEMPERATURE, accuracies
from nsneg_jax.evaluation.passes import Reading
from nsneg_jax.evaluation.protocols.finite import check_features
from nsneg_jax.input.loading import report
from nsneg_jax.input.samples import Unreadable
from nsneg_jax.input.sources.protocol import Source
from nsneg_jax.models.encoder import Encoder, Tree

_NEIGHBOURS = (20, 200)


class Monitor:
    """Measures the features of an encoder during its training.

    It computes them in inference mode, in programs of its own, so that it changes nothing of the
    training.

    Args:
        encoder: the network.
        bank: the images that vote, and that the probe is fitted to; None leaves both out. They have
            the classes of the queries, and none of their images.
        queries: the images to classify, whose features the other figures are of.
        reading: how to read both.
        dtype: dtype of the computation.
        devices: devices to split the work over.
        on_unreadable: called for each image that cannot be read; it is left out.
    """

    def __init__(
        self,
        encoder: Encoder,
        bank: Source | None,
        queries: Source,
        reading: Reading,
        dtype: str,
        devices: Mesh,
        on_unreadable: Callable[[Unreadable], None] = report,
    ) -> None:
        self._on_unreadable = on_unreadable
        self._bank, self._queries = bank, queries
        encoder = dataclasses.replace(encoder, precision="float32")
        self._extract = Extractor(encoder, reading, dtype, devices)
        self._devices = devices

    def __call__(self, params: Tree, stats: Tree) -> dict[str, float]:
        """Returns the figures by name.

        With a bank these are 'knn_20', 'knn_200', 'probe_top1' and, with more than five classes,
        'probe_top5', in percent. 'rankme' and 'feature_std' (see `spread`) come always.

        Raises:
            RunError: a feature is not finite.
        """
        queries = self._extract(params, stats, self._queries, self._on_unreadable)
        check_features(queries.features, "those measured")
        figures: dict[str, float] = {}
        if self._bank is not None:
            bank = self._extract(params, stats, self._bank, self._on_unreadable)
            figures |= accuracies(bank, queries, _NEIGHBOURS, TEMPERATURE, self._devices)
            figures |= probe_accuracies(bank, queries, self._devices)
        few = some_of(len(queries.features), RANKME_IMAGES)
        features = queries.features[few]
        return figures | {"rankme": rankme(features), "feature_std": deviation(features)}


def some_of(images: int, most: int) -> np.ndarray:
    """Returns the indices of at most `most` of some images, int64, in order.

    They are drawn, the same ones each time: images at equal distances may all be of a few classes.
    """
    if images <= most:
        return np.arange(images, dtype=np.int64)
    return np.sort(np.random.RandomState(0).permutation(images)[:most]).astype(np.int64)
