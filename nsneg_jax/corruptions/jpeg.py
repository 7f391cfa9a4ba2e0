"""JPEG compression and decompression as Pillow's libjpeg does them, without a file in between.

All loss happens before the entropy coding, so that is left out. Colours are halved in resolution
(4:2:0, Pillow's default), blocks of 8x8 get an exact cosine transform and are divided by the
standard's example tables (ITU-T T.81, annex K), and libjpeg's triangle filter enlarges the colours
again. libjpeg's transforms are exact to about a thousandth of a grey level, so its picture differs
from this one only where a coefficient lies halfway between two whole numbers.
"""

import jax
import jax.numpy as jnp
import numpy as np

from nsneg_jax.corruptions.registry import TEST, corruption
from nsneg_jax.corruptions.resampling import separable

QUALITY = (25, 18, 15, 10, 7)

_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
_FREQUENCY = np.arange(8)[:, None]
_COSINES = (
    np.cos(np.pi * _FREQUENCY * (2 * np.arange(8) + 1) / 16)
    * np.where(_FREQUENCY == 0, np.sqrt(1 / 8), np.sqrt(1 / 4))
).astype(np.float32)


def quantisation_tables(quality: int) -> np.ndarray:
    """Returns libjpeg's tables at a quality of 1..100, for luma and colour; float32 [2, 8, 8]."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    tables = (np.array([_LUMINANCE, _CHROMINANCE]) * percent + 50) // 100
    return np.clip(tables, 1, 255).astype(np.float32)


@corruption(
    "jpeg_compression",
    "digital",
    lambda side, severity: (quantisation_tables(QUALITY[severity - 1]),),
    kind=TEST,
    stream=70,
)
def jpeg_compression(images: jax.Array, keys: jax.Array, tables: jax.Array) -> jax.Array:
    """Compresses as JPEG; blocks have 8 pixels at any side. Draws no random numbers."""
    return compress(255 * images, tables) / 255


def compress(levels: jax.Array, tables: jax.Array) -> jax.Array:
    """Returns pictures as a JPEG file would give them back.

    Args:
        levels: float [N, 3, H, W], whole grey levels 0..255.
        tables: see `quantisation_tables`.

    Returns:
        The same shape, whole grey levels 0..255.
    """
    height, width = levels.shape[2:]
    padding = ((0, 0), (0, 0), (0, -height % 16), (0, -width % 16))
    red, green, blue = jnp.unstack(jnp.pad(levels, padding, mode="edge"), axis=1)
    luma = jnp.round(0.299 * red + 0.587 * green + 0.114 * blue)
    chroma = jnp.stack(
        [
            jnp.round(128 - 0.168735892 * red - 0.331264108 * green + 0.5 * blue),
            jnp.round(128 + 0.5 * red - 0.418687589 * green - 0.081312411 * blue),
        ],
        axis=1,
    )
    luma = _quantised(luma[:, None], tables[0])
    chroma = _quantised(_halved(chroma), tables[1])
    chroma = _doubled(chroma[:, :, : -(-height // 2), : -(-width // 2)])[:, :, :height, :width]
    luma, (cb, cr) = luma[:, 0, :height, :width], jnp.unstack(chroma - 128, axis=1)
    red = luma + jnp.round(1.402 * cr)
    green = luma + jnp.round(-0.344136286 * cb - 0.714136286 * cr)
    blue = luma + jnp.round(1.772 * cb)
    return jnp.clip(jnp.stack([red, green, blue], axis=1), 0, 255)


def _quantised(plane: jax.Array, table: jax.Array) -> jax.Array:
    n, c, height, width = plane.shape
    highest = jax.lax.Precision.HIGHEST
    blocks = (plane - 128).reshape(n, c, height // 8, 8, width // 8, 8)
    cosines = jnp.asarray(_COSINES)
    product = "ai,bj,ncyixj->ncyaxb"
    coefficients = jnp.einsum(product, cosines, cosines, blocks, precision=highest)
    table = table[:, None, :]
    coefficients = jnp.round(coefficients / table) * table
    blocks = jnp.einsum(product, cosines.T, cosines.T, coefficients, precision=highest)
    return jnp.clip(jnp.round(blocks + 128), 0, 255).reshape(plane.shape)


def _halved(chroma: jax.Array) -> jax.Array:
    n, c, height, width = chroma.shape
    total = chroma.reshape(n, c, height // 2, 2, width // 2, 2).sum(axis=(3, 5))
    # libjpeg rounds halves down in even columns and up in odd ones.
    return jnp.floor((total + 1 + jnp.arange(width // 2) % 2) / 4)


def _doubled(chroma: jax.Array) -> jax.Array:
    """Mixes three quarters of the nearest pixel and a quarter of the next, along both axes."""
    rows, columns = (_triangle(edge) for edge in chroma.shape[2:])
    sixteenths = jnp.round(16 * separable(chroma, rows, columns))
    return jnp.floor((sixteenths + 8 - jnp.arange(columns.shape[0]) % 2) / 16)


def _triangle(size: int) -> np.ndarray:
    place = np.arange(2 * size)
    nearest = place // 2
    next_nearest = np.clip(nearest + 2 * (place % 2) - 1, 0, size - 1)
    matrix = np.zeros((2 * size, size), np.float32)
    np.add.at(matrix, (place, nearest), 0.75)
    np.add.at(matrix, (place, next_nearest), 0.25)
    return matrix
