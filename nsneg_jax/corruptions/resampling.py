"""Linear maps along the two axes of a picture, as matrices made when a program is traced.

A matrix includes the treatment of edges, and CPUs and accelerators are both best at products with
one: a blur, a zoom and a change of resolution all become `separable`.
"""

from functools import lru_cache
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

Array = TypeVar("Array", np.ndarray, jax.Array)

PUBLISHED_SIDE = 224  # side of the pictures that the published lengths are for


def scale(side: int) -> float:
    """Returns the factor of published lengths for pictures of `side` pixels."""
    return side / PUBLISHED_SIDE


def separable(
    images: jax.Array,
    rows: jax.Array | np.ndarray | None = None,
    columns: jax.Array | np.ndarray | None = None,
) -> jax.Array:
    """Applies a linear map along the height, then one along the width.

    Args:
        images: float [N, C, H, W].
        rows: float [H', H]; None leaves the height alone.
        columns: float [W', W]; None leaves the width alone.

    Returns:
        Float [N, C, H', W'].
    """
    n, c, height, width = images.shape
    planes = images.reshape(n * c, height, width)

    def each(matrix: jax.Array | np.ndarray) -> jax.Array:
        # One product per plane: a single product would be split into blocks by the number of
        # planes, and the last bits of a picture would depend on the size of its batch.
        return jnp.broadcast_to(matrix, (n * c, *matrix.shape))

    if rows is not None:
        planes = jnp.matmul(each(rows), planes, precision=jax.lax.Precision.HIGHEST)
    if columns is not None:
        across = each(columns).swapaxes(1, 2)
        planes = jnp.matmul(planes, across, precision=jax.lax.Precision.HIGHEST)
    return planes.reshape(n, c, *planes.shape[1:])


@lru_cache(maxsize=64)
def gaussian(side: int, sigma: float, edge: str = "nearest", truncate: float = 4.0) -> np.ndarray:
    """Returns the matrix of SciPy's `gaussian_filter`, float32 [side, side].

    Args:
        side: side of the picture in pixels.
        sigma: sigma in pixels.
        edge: 'nearest' (the last pixel repeats) or 'reflect' (d c b a | a b c d | d c b a).
        truncate: the kernel ends at this many sigmas.
    """
    radius = int(truncate * sigma + 0.5)
    distance = np.arange(-radius, radius + 1)
    taps = np.exp(-0.5 * (distance / sigma) ** 2)
    source = np.arange(side)[:, None] + distance
    source = np.clip(source, 0, side - 1) if edge == "nearest" else reflect(source, side)
    matrix = np.zeros((side, side))
    np.add.at(matrix, (np.arange(side)[:, None], source), taps / taps.sum())
    return matrix.astype(np.float32)


def reflect(index: Array, side: int) -> Array:
    """Maps integers to 0..side-1 by mirrors at the outer edges of the first and last pixel."""
    index = index % (2 * side)
    return index * (index < side) + (2 * side - 1 - index) * (index >= side)


def white_noise_gain(
    side: int, published: float, sigma: float, edge: str = "nearest", truncate: float = 4.0
) -> float:
    """Returns the factor that gives blurred white noise of `side` pixels its deviation at 224.

    A shorter blur averages fewer independent values, so smaller pictures would get stronger noise.
    The factor is 1 at 224 pixels.

    Args:
        side: side of the pictures in pixels.
        published: sigma of the blur at 224 pixels.
        sigma: sigma of the blur at `side`, in pixels.
        edge, truncate: see `gaussian`.
    """

    def deviation(size: int, sigma: float) -> float:
        row = gaussian(size, sigma, edge, truncate)[size // 2].astype(np.float64)
        return float(row @ row)  # each of the two axes contributes the square root

    return deviation(PUBLISHED_SIDE, published) / deviation(side, sigma)


def zoom_sources(side: int, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Enlarges the middle by `factor` >= 1 along one axis, cut to `side`.

    It interpolates linearly and keeps the corners, as SciPy's `zoom(order=1)` does.

    Returns:
        Per pixel, the first of its two source neighbours, int32 [side] in 0..side-2, and the weight
        of the second, float32 [side].
    """
    window = int(np.ceil(side / factor))
    start = (side - window) // 2
    enlarged = round(window * factor)
    place = np.arange(side) + (enlarged - side) // 2
    position = start + place * (window - 1) / max(enlarged - 1, 1)
    first = np.minimum(position.astype(np.int32), side - 2)
    return first, (position - first).astype(np.float32)


def zoom_matrix(side: int, factor: float) -> np.ndarray:
    """Returns `zoom_sources` as a matrix for `separable`, float32 [side, side]."""
    first, weight = zoom_sources(side, factor)
    matrix = np.zeros((side, side), np.float32)
    matrix[np.arange(side), first] = 1 - weight
    matrix[np.arange(side), first + 1] = weight
    return matrix


@lru_cache(maxsize=64)
def box(size: int, side: int) -> np.ndarray:
    """Returns the matrix of Pillow's BOX filter from `side` to `size` pixels, [size, side]."""
    step = side / size
    support = max(step, 1.0)
    centre = (np.arange(size)[:, None] + 0.5) * step
    offset = (np.arange(side) + 0.5 - centre) / support
    matrix = ((offset > -0.5) & (offset <= 0.5)).astype(np.float64)
    return (matrix / matrix.sum(axis=1, keepdims=True)).astype(np.float32)
