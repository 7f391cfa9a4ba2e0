"""Computes the features of all images of a source with a trained encoder."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from nsneg_jax.evaluation.passes import Reading, central_batches, one_late
from nsneg_jax.input.labelled import steps_per_pass
from nsneg_jax.input.loading import report
from nsneg_jax.input.samples import Unreadable
from nsneg_jax.input.sources.protocol import Source
from nsneg_jax.methods.probe import frozen_features
from nsneg_jax.models.encoder import Encoder, Tree
from nsneg_jax.parallel import mesh
from nsneg_jax.training.progress import Progress

_BATCHES_A_LINE = 100  # batches per line of the log


class Features(NamedTuple):
    """Features of the images of a source that can be read, in its order.

    Attributes:
        features: float32 [n, F].
        labels: int32 [n].
        indices: int32 [n], places of the images in the source.
    """

    features: np.ndarray
    labels: np.ndarray
    indices: np.ndarray


class Extractor:
    """Computes pooled features in inference mode, in a program compiled once.

    Args:
        encoder: the network.
        reading: how to read the images.
        dtype: dtype of the computation.
        devices: devices to split the batch over.
    """

    def __init__(self, encoder: Encoder, reading: Reading, dtype: str, devices: Mesh) -> None:
        self._features = compile_features(encoder, dtype, devices)
        self._gathered = jax.jit(lambda array: array, out_shardings=mesh.replicated(devices))
        self._batches = partial(central_batches, reading, devices=devices)
        self._batch_size = reading.batch_size
        self._is_compiled = False

    def __call__(
        self,
        params: Tree,
        stats: Tree,
        source: Source,
        on_unreadable: Callable[[Unreadable], None] = report,
    ) -> Features:
        """Returns the features of `source`, all of them on every process.

        Args:
            params, stats: parameters and statistics of the encoder.
            source: the images.
            on_unreadable: called for each image that cannot be read; it is left out.
        """
        batch, total = self._batch_size, steps_per_pass(len(source), self._batch_size)
        found = np.empty((0, 0), np.float32)
        valid = np.zeros(total * batch, bool)
        with Progress(total, 0, unit="batch") as display:
            if not self._is_compiled:
                display.compiling("the features")
            batches = self._batches(source=source, on_unreadable=on_unreadable)
            running = (
                (self._features(params, stats, each["image"]), self._gathered(each["valid"]))
                for each in batches
            )
            for done, (features, readable) in enumerate(one_late(running)):
                if not self._is_compiled:
                    display.first("batch")
                    self._is_compiled = True
                if done == 0:
                    found = np.empty((total * batch, features.shape[1]), np.float32)
                found[done * batch : (done + 1) * batch] = features
                valid[done * batch : (done + 1) * batch] = readable
                display.advance(done + 1)
                if (done + 1) % _BATCHES_A_LINE == 0 or display.is_due():
                    display.refresh(done + 1, f"{(done + 1) * batch:,} images")
        if valid[: len(source)].all():
            indices = np.arange(len(source), dtype=np.int32)
            return Features(found[: len(source)], np.asarray(source.labels), indices)
        indices = np.flatnonzero(valid).astype(np.int32)
        return Features(found[indices], np.asarray(source.labels)[indices], indices)


def compile_features(encoder: Encoder, dtype: str, devices: Mesh) -> jax.stages.Wrapped:
    """Compiles the program from params, stats and uint8 images [N, S, S, 3] to features.

    The images are split over the devices; the features, float32 [N, F], are replicated.
    """

    def features(params: Tree, stats: Tree, images: jax.Array) -> jax.Array:
        backbone = {"params": params, "stats": stats}
        return frozen_features(encoder, dtype, backbone, images).astype(jnp.float32)

    whole, split = mesh.replicated(devices), mesh.split_batch(devices)
    return jax.jit(features, in_shardings=(whole, whole, split), out_shardings=whole)
