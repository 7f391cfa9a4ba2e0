"""Writes an encoder as a StableHLO program with its weights, which JAX runs without this package.

The format is JAX's own for exported programs (`jax.export`), which later versions of JAX read.
"""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nsneg_jax.embedding import Pretrained
from nsneg_jax.errors import RunError, UsageError
from nsneg_jax.extras import needed
from nsneg_jax.files import write_whole
from nsneg_jax.methods.probe import frozen_features

SUFFIX = ".stablehlo"
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
_CHECKED_BATCHES = (1, 3)  # images per batch; the program takes any number
_TOLERANCE = 1e-5  # of the largest feature


class Written(NamedTuple):
    """A program that was written.

    Attributes:
        image_size: side S of its images in pixels.
        features: F, features per image.
        difference: largest difference from the encoder's features, as a part of the largest one.
    """

    image_size: int
    features: int
    difference: float


def write(source: Pretrained, path: Path) -> Written:
    """Writes the program from uint8 images [N, S, S, 3] to float32 features [N, F].

    It includes the division by 255 and ImageNet's normalisation. N may be any number; S is the
    encoder's. One file serves all `PLATFORMS`. The file is read back and compared with the
    encoder's own features before it takes its place.

    Args:
        source: the encoder.
        path: file to write.

    Raises:
        UsageError: flatbuffers is not installed, or the size of the images is unknown.
        RunError: the program that was read back gives other features; no file is left.
    """
    with needed("stablehlo", "Writing a StableHLO program"):
        import flatbuffers  # noqa: F401, JAX imports it to write and read programs
    if source.image_size is None:
        raise UsageError(
            f"{source.origin} does not record the size of the images that its encoder was trained "
            "on, which a program needs. Give it with --image_size=PIXELS."
        )
    network = {"params": source.params, "stats": source.stats}

    def features(images: jax.Array) -> jax.Array:
        return frozen_features(source.encoder, source.dtype, network, images).astype(jnp.float32)

    size = source.image_size
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.uint8)
    exported = jax.export.export(jax.jit(features), platforms=PLATFORMS)(images)
    content = exported.serialize()
    differences: list[float] = []

    def write_checked(partial: Path) -> None:
        partial.write_bytes(content)
        differences.append(_difference(partial, source))

    write_whole(path, write_checked)
    return Written(size, exported.out_avals[0].shape[1], differences[0])


def _difference(path: Path, source: Pretrained) -> float:
    """Returns the largest difference of a program in a file from the encoder."""
    size = source.image_size or 0
    program = jax.jit(jax.export.deserialize(bytearray(path.read_bytes())).call)
    whole = replace(source, resize=0)  # images of the encoder's size are taken as they are
    rng = np.random.default_rng(0)
    largest = 0.0
    for count in _CHECKED_BATCHES:
        images = rng.integers(0, 256, (count, size, size, 3)).astype(np.uint8)
        expected = whole.embed(images, batch_size=count)
        found = np.asarray(program(images))
        scale = float(np.abs(expected).max()) or 1.0
        # not `max`, which may drop NaN
        largest = float(np.maximum(largest, np.abs(found - expected).max() / scale))
    if not largest <= _TOLERANCE:
        raise RunError(
            f"The StableHLO program of {source.origin} was read back and its features differ by "
            f"{largest:.1e} of the largest one from the encoder's, more than {_TOLERANCE:g}. No "
            "file is left. Please report this with the versions in starts.jsonl."
        )
    return largest
