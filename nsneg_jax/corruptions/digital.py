"""The digital corruptions except JPEG (see jpeg.py), and saturate, which is not in the mean."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nsneg_jax.corruptions.registry import EXTRA, TEST, corruption
from nsneg_jax.corruptions.resampling import (
    box,
    gaussian,
    reflect,
    scale,
    separable,
    white_noise_gain,
)

CONTRAST = (0.4, 0.3, 0.2, 0.1, 0.05)
SATURATE = ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2))  # factor, shift
PIXELATE = (0.6, 0.5, 0.4, 0.3, 0.25)
# Unit of strength, sigma and largest shift of a corner: the generator multiplies by 244, probably
# meaning 224.
_ELASTIC_UNIT = 244
ELASTIC = (
    (2, 0.7, 0.1),
    (2, 0.08, 0.2),
    (0.05, 0.01, 0.02),
    (0.07, 0.01, 0.02),
    (0.12, 0.01, 0.02),
)


@corruption("contrast", "digital", CONTRAST, kind=TEST, stream=55)
def contrast(images: jax.Array, keys: jax.Array, factor: jax.Array) -> jax.Array:
    """Moves each channel towards its mean over the picture. Draws no random numbers."""
    mean = images.mean(axis=(2, 3), keepdims=True)
    return mean + factor * (images - mean)


def elastic_settings(side: int, severity: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the settings of `elastic_transform`, with lengths scaled by the side."""
    strength, sigma, corner = (_ELASTIC_UNIT * value for value in ELASTIC[severity - 1])
    edge = ("reflect", 3.0)
    strength *= scale(side) * white_noise_gain(side, sigma, sigma * scale(side), *edge)
    settings = np.array([strength, corner * scale(side)], np.float32)
    return settings, gaussian(side, sigma * scale(side), *edge)


@corruption("elastic_transform", "digital", elastic_settings, kind=TEST, stream=60)
def elastic_transform(
    images: jax.Array, keys: jax.Array, settings: jax.Array, blur: jax.Array
) -> jax.Array:
    """Applies a random affine map, then smooth random shifts of every pixel.

    Args:
        images, keys: see noise.py.
        settings: float [2], strength of the shifts and largest shift of a corner in pixels.
        blur: float [S, S], smooths the shifts.
    """
    strength, corner = settings
    side = images.shape[-1]

    def draw(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        key_corners, key_field = jax.random.split(key)
        corners = jax.random.uniform(key_corners, (3, 2), jnp.float32, -1, 1)
        return corners, jax.random.uniform(key_field, (2, side, side), jnp.float32, -1, 1)

    corners, field = jax.vmap(draw)(keys)
    field = strength * separable(field, blur, blur)
    y, x = (jnp.arange(side, dtype=jnp.float32)[:, None], jnp.arange(side, dtype=jnp.float32))
    affine = _Sources.at(*_affine_sources(corner * corners, y, x), mirror_pixel=True)
    shifts = _Sources.at(y + field[:, 1], x + field[:, 0], mirror_pixel=False)
    # A loop of two keeps XLA on CPU from fusing both and computing the first four times.
    both = jax.tree.map(lambda *pair: jnp.stack(pair), affine, shifts)
    return jax.lax.scan(lambda x, sources: (_bilinear(x, sources), None), images, both)[0]


def pixelate_boxes(side: int, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the settings of `pixelate`; the small picture is `fraction` of any side."""
    size = int(side * fraction)
    return box(size, side), box(side, size)


@corruption(
    "pixelate",
    "digital",
    lambda side, severity: pixelate_boxes(side, PIXELATE[severity - 1]),
    kind=TEST,
    stream=65,
)
def pixelate(images: jax.Array, keys: jax.Array, down: jax.Array, up: jax.Array) -> jax.Array:
    """Shrinks and enlarges the picture by Pillow's BOX filter. Draws no random numbers.

    Args:
        images, keys: see noise.py.
        down, up: float [size, S] and [S, size].
    """
    levels = 255 * images
    for matrix in (down, up):
        # Pillow works along the width first and rounds in between.
        levels = jnp.floor(separable(levels, columns=matrix) + 0.5)
        levels = jnp.floor(separable(levels, rows=matrix) + 0.5)
    return levels / 255


@corruption("saturate", "digital", SATURATE, kind=EXTRA, stream=90)
def saturate(images: jax.Array, keys: jax.Array, settings: jax.Array) -> jax.Array:
    """Scales and shifts the HSV saturation; shifted greys turn red. Draws no random numbers.

    Args:
        images, keys: see noise.py.
        settings: float [2], factor and shift.
    """
    factor, shift = settings
    # At constant hue and value, distances from the largest channel are proportional to the
    # saturation; greys have hue 0, which is red.
    value = images.max(axis=1, keepdims=True)
    chroma = value - images.min(axis=1, keepdims=True)
    saturation = chroma / jnp.where(value > 0, value, 1)
    wanted = jnp.clip(factor * saturation + shift, 0, 1)
    red = jnp.array([0, 1, 1], images.dtype)[:, None, None]
    distance = jnp.where(chroma > 0, (value - images) / jnp.where(chroma > 0, chroma, 1), red)
    return value - value * wanted * distance


def _affine_sources(corners: jax.Array, y: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the source of each pixel when three points of the picture move by `corners`."""
    side = x.shape[-1]
    middle, arm = side // 2, side // 3
    points = jnp.array([[1, 1], [1, -1], [-1, -1]], jnp.float32) * arm + middle  # (x, y)
    moved = points + corners
    old = points[:2] - points[2]  # [edge, xy]
    new = moved[:, :2] - moved[:, 2:]
    a, b, c, d = jnp.moveaxis(new.reshape(-1, 4, 1, 1), 1, 0)
    right = x - moved[:, 2, 0][:, None, None]
    down = y - moved[:, 2, 1][:, None, None]
    # the pixel in terms of the two moved edges
    determinant = a * d - b * c
    first = (d * right - c * down) / determinant
    second = (a * down - b * right) / determinant
    source_x = points[2, 0] + first * old[0, 0] + second * old[1, 0]
    return points[2, 1] + first * old[0, 1] + second * old[1, 1], source_x


class _Sources(NamedTuple):
    """The source of each pixel.

    Attributes:
        places: int32 [N, 4, S * S]. Its four neighbours in the flattened picture, row by row.
        down, right: float [N, 1, S * S] in [0, 1), between the neighbours.
    """

    places: jax.Array
    down: jax.Array
    right: jax.Array

    @classmethod
    def at(cls, y: jax.Array, x: jax.Array, mirror_pixel: bool) -> "_Sources":
        """Makes sources at (y, x), float [N, S, S]; edges mirror on or beside the last pixel."""
        n, side, _ = y.shape

        def inside(index: jax.Array) -> jax.Array:
            if mirror_pixel:
                index = index % (2 * side - 2)
                return jnp.minimum(index, 2 * side - 2 - index)
            return reflect(index, side)

        top, left = jnp.floor(y), jnp.floor(x)
        rows = [inside(top.astype(jnp.int32) + i) for i in (0, 1)]
        columns = [inside(left.astype(jnp.int32) + i) for i in (0, 1)]
        places = jnp.stack([row * side + column for row in rows for column in columns], axis=1)
        fractions = ((part.reshape(n, 1, -1)) for part in (y - top, x - left))
        return cls(places.reshape(n, 4, -1), *fractions)


def _bilinear(images: jax.Array, sources: _Sources) -> jax.Array:
    pixels = images.reshape(*images.shape[:2], -1)
    corners = [
        jnp.take_along_axis(pixels, sources.places[:, corner, None], axis=2) for corner in range(4)
    ]
    upper = corners[0] + sources.right * (corners[1] - corners[0])
    lower = corners[2] + sources.right * (corners[3] - corners[2])
    return (upper + sources.down * (lower - upper)).reshape(images.shape)
