"""Tokens of a vision transformer: the projection of pixels, and positions."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from nsneg_jax.models.convolution import linear
from nsneg_jax.models.encoder import Frozen

_TEMPERATURE = 10_000.0  # of MoCo-v3's sines and cosines
_SHARPNESS = -0.75  # of PyTorch's bicubic interpolation


class Projection(nnx.Module):
    """The affine map of the pixels of a square to a token, as a convolution's kernel and bias.

    Initial values are uniform by Xavier's rule for one square, and a bias of zero.
    """

    def __init__(
        self,
        size: int,
        features: int,
        *,
        frozen: bool,
        rng: np.random.Generator | None,
        param_dtype: DTypeLike,
    ):
        shape = (size, size, 3, features)
        bound = (6 / (3 * size**2 + features)) ** 0.5
        values = np.zeros(shape) if rng is None else rng.uniform(-bound, bound, shape)
        variable = Frozen if frozen else nnx.Param
        self.kernel = variable(jnp.asarray(values, param_dtype))
        self.bias = variable(jnp.zeros((features,), param_dtype))


class TokenProjection(nnx.Module):
    """Cuts images into squares and projects each to a token.

    Args:
        size: side of a square in pixels.
        features: length W of a token.
        frozen: whether kernel and bias are no parameters, see `Frozen`.
        rng: generator of the initial values; None leaves them zero.
        param_dtype: dtype of kernel and bias.
    """

    def __init__(
        self,
        size: int,
        features: int,
        *,
        frozen: bool,
        rng: np.random.Generator | None,
        param_dtype: DTypeLike,
    ):
        self.proj = Projection(size, features, frozen=frozen, rng=rng, param_dtype=param_dtype)
        self.size = size

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images [N, H, W, 3] to tokens [N, H / size * W / size, features], row by row."""
        count, height, width, channels = x.shape
        size = self.size
        rows, columns = height // size, width // size
        x = x.reshape(count, rows, size, columns, size, channels).transpose(0, 1, 3, 2, 4, 5)
        pixels, features = size * size * channels, self.proj.bias.shape[0]
        kernel = self.proj.kernel[...].reshape(pixels, features)
        y = linear(x.reshape(count * rows * columns, pixels), kernel) + self.proj.bias[...]
        return y.astype(x.dtype).reshape(count, rows * columns, features)


def sincos_positions(rows: int, columns: int, features: int) -> np.ndarray:
    """Returns MoCo-v3's fixed positions: sines and cosines of the row, then of the column.

    Args:
        rows, columns: tokens of an image.
        features: W, a multiple of 4.

    Returns:
        float64 [1, 1 + rows * columns, W]; the first, of the class token, is zero.
    """
    count = features // 4
    rates = _TEMPERATURE ** -(np.arange(count) / count)
    row, column = np.divmod(np.arange(rows * columns), columns)
    parts = [wave(np.outer(place, rates)) for place in (row, column) for wave in (np.sin, np.cos)]
    positions = np.concatenate(parts, axis=1)
    return np.concatenate([np.zeros((1, features)), positions])[None]


def interpolated(positions: jax.Array, rows: int, columns: int) -> jax.Array:
    """Interpolates learnable positions to the grid of an image, bicubically as PyTorch does.

    Args:
        positions: [1, 1 + g * g, W], of the class token and of a square grid.
        rows, columns: tokens of the image.

    Returns:
        [1, 1 + rows * columns, W]; `positions` themselves if their grid is the image's.
    """
    _, places, features = positions.shape
    side = round((places - 1) ** 0.5)
    if (rows, columns) == (side, side):
        return positions
    grid = positions[0, 1:].reshape(side, side, features)
    weights = [jnp.asarray(_cubic(side, count), positions.dtype) for count in (rows, columns)]
    grid = jnp.einsum(
        "ri,cj,ijw->rcw", *weights, grid, precision=jax.lax.Precision.HIGHEST
    ).reshape(1, rows * columns, features)
    return jnp.concatenate([positions[:, :1], grid], axis=1)


def _cubic(inputs: int, outputs: int) -> np.ndarray:
    """Returns the weights [outputs, inputs] of a cubic interpolation, float64.

    Places are centres of equal parts of a line; beyond its ends the last values continue.
    """
    places = (np.arange(outputs) + 0.5) * inputs / outputs - 0.5
    first = np.floor(places).astype(int)
    weights = np.zeros((outputs, inputs))
    a = _SHARPNESS
    for tap in range(-1, 3):
        d = np.abs(places - first - tap)
        near = ((a + 2) * d - (a + 3)) * d**2 + 1
        far = a * (((d - 5) * d + 8) * d - 4)
        value = np.where(d <= 1, near, np.where(d < 2, far, 0))
        np.add.at(weights, (np.arange(outputs), np.clip(first + tap, 0, inputs - 1)), value)
    return weights
