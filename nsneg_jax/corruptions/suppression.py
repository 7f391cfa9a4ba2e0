"""Versions of a picture that lack one kind of information: its shape, details, areas or colours.

Accuracy over the severities shows what a classifier relies on, one kind of information at a time
(Burgert et al. 2025, "ImageNet-trained CNNs are not biased towards texture", suppress shape by
shuffling patches, texture by smoothing and colour by graying; Geirhos et al. 2018, "Generalisation
in humans and deep neural networks", filter low and high frequencies). The levels are ours. None is
a corruption of ImageNet-C, and none is in its means.
"""

import jax
import jax.numpy as jnp
import numpy as np

from nsneg_jax.corruptions.registry import SUPPRESSION, corruption
from nsneg_jax.corruptions.resampling import gaussian, scale, separable

GRIDS = (2, 4, 8, 16, 32)  # tiles along a side
LOW_PASS = (1.0, 2.0, 4.0, 7.0, 10.0)  # sigma in pixels at 224
HIGH_PASS = (7.0, 4.0, 2.0, 1.0, 0.7)
GRAY = (0.2, 0.4, 0.6, 0.8, 1.0)
_MOST_TILES = GRIDS[-1] ** 2
_LEAST_SIGMA = 0.3  # pixels; smaller ones change nothing
_LUMA = (0.299, 0.587, 0.114)


def tiles(side: int, severity: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the tiles of `patch_shuffle`.

    A rest of the side that the tiles do not share evenly stays in place, at the right and below.

    Returns:
        int32 [S * S], the tile of each pixel, -1 in the rest; int32 [S * S], its place within the
        tile, as a distance from the tile's first pixel; int32 [1024], the first pixel of each tile,
        -1 where there are fewer.
    """
    grid = min(GRIDS[severity - 1], side)
    tile = side // grid
    row, column = np.mgrid[:side, :side]
    inside = (row < grid * tile) & (column < grid * tile)
    of_pixel = np.where(inside, row // tile * grid + column // tile, -1)
    within = row % tile * side + column % tile
    first = np.full(_MOST_TILES, -1)
    number = np.arange(grid * grid)
    first[: len(number)] = number // grid * tile * side + number % grid * tile
    return (
        of_pixel.ravel().astype(np.int32),
        within.ravel().astype(np.int32),
        first.astype(np.int32),
    )


@corruption("patch_shuffle", "suppression", tiles, severities=len(GRIDS), kind=SUPPRESSION)
def patch_shuffle(
    images: jax.Array, keys: jax.Array, tile: jax.Array, within: jax.Array, first: jax.Array
) -> jax.Array:
    """Puts the tiles of a grid in random order: the shape goes, the parts stay.

    Args:
        images, keys: see noise.py.
        tile, within, first: see `tiles`.
    """
    n, channels, side, _ = images.shape
    pixels = images.reshape(n, channels, side * side)

    def shuffled(picture: jax.Array, key: jax.Array) -> jax.Array:
        chance = jax.random.uniform(key, first.shape)
        order = jnp.argsort(jnp.where(first < 0, jnp.inf, chance))
        source = first[order[tile]] + within
        return picture[:, jnp.where(tile < 0, jnp.arange(side * side), source)]

    return jax.vmap(shuffled)(pixels, keys).reshape(images.shape)


def _blur(levels: tuple[float, ...], side: int, severity: int) -> tuple[np.ndarray]:
    return (gaussian(side, max(levels[severity - 1] * scale(side), _LEAST_SIGMA)),)


@corruption(
    "low_pass",
    "suppression",
    lambda side, severity: _blur(LOW_PASS, side, severity),
    severities=len(LOW_PASS),
    kind=SUPPRESSION,
)
def low_pass(images: jax.Array, keys: jax.Array, blur: jax.Array) -> jax.Array:
    """Applies a Gaussian blur by its matrix: texture and details go, the coarse shape stays."""
    return separable(images, blur, blur)


@corruption(
    "high_pass",
    "suppression",
    lambda side, severity: _blur(HIGH_PASS, side, severity),
    severities=len(HIGH_PASS),
    kind=SUPPRESSION,
)
def high_pass(images: jax.Array, keys: jax.Array, blur: jax.Array) -> jax.Array:
    """Subtracts a blurred picture, and adds middle gray: areas go, contours and details stay."""
    return images - separable(images, blur, blur) + 0.5


@corruption("gray", "suppression", GRAY, kind=SUPPRESSION)
def gray(images: jax.Array, keys: jax.Array, part: jax.Array) -> jax.Array:
    """Replaces a part of the colours by their luma; 1 leaves none. Draws no random numbers."""
    luma = jnp.einsum("nchw,c->nhw", images, jnp.array(_LUMA), precision=jax.lax.Precision.HIGHEST)
    return images + part * (luma[:, None] - images)
