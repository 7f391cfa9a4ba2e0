"""The digital corruptions but JPEG, which has a file of its own, and saturate (not in the mean)."""

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
# strength, sigma and largest shift of a corner; the generator multiplies them by 244, as here,
# where 224 was meant
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
    """Draws each channel towards its mean over the picture. Draws no numbers."""
    mean = images.mean(axis=(2, 3), keepdims=True)
    return mean + factor * (images - mean)


def elastic_settings(side: int, severity: int) -> tuple[np.ndarray, np.ndarray]:
    """What `elastic_transform` takes, all lengths scaled with the side."""
    strength, sigma, corner = (_ELASTIC_UNIT * value for value in ELASTIC[severity - 1])
    edge = ("reflect", 3.0)
    strength *= scale(side) * white_noise_gain(side, sigma, sigma * scale(side), *edge)
    settings = np.array([strength, corner * scale(side)], np.float32)
    return settings, gaussian(side, sigma * scale(side), *edge)


@corruption("elastic_transform", "digital", elastic_settings, kind=TEST, stream=60)
def elastic_transform(
    images: jax.Array, keys: jax.Array, settings: jax.Array, blur: jax.Array
) -> jax.Array:
    """A random affine map, then smooth random shifts of every pixel.

    Args:
        images, keys: see noise.py.
        settings: float [2], strength of the shifts and the largest shift of a corner in pixels.
        blur: float [S, S], makes the shifts smooth.
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
    # a loop of two, because XLA on CPU would fuse the two and do the first four times
    both = jax.tree.map(lambda *pair: jnp.stack(pair), affine, shifts)
    return jax.lax.scan(lambda x, sources: (_bilinear(x, sources), None), images, both)[0]


def pixelate_boxes(side: int, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """What `pixelate` takes. The small picture is this fraction of the picture at any side."""
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
    """Makes the picture smaller and larger again by Pillow's BOX filter. Draws nothing.

    Args:
        images, keys: see noise.py.
        down, up: float [size, S] and [S, size].
    """
    levels = 255 * images
    for matrix in (down, up):
        # Pillow works along the width first and rounds in between
        levels = jnp.floor(separable(levels, columns=matrix) + 0.5)
        levels = jnp.floor(separable(levels, rows=matrix) + 0.5)
    return levels / 255


@corruption("saturate", "digital", SATURATE, kind=EXTRA, stream=90)
def saturate(images: jax.Array, keys: jax.Array, settings: jax.Array) -> jax.Array:
    """Scales and shifts the saturation of HSV; grays turn red where shifted. Draws nothing.

    Args:
        images, keys: see noise.py.
        settings: float [2], factor and shift.
    """
    factor, shift = settings
    # with hue and value kept, the distances from the largest channel are in proportion to the
    # saturation; the hue of grays is 0, which is red
    value = images.max(axis=1, keepdims=True)
    chroma = value - images.min(axis=1, keepdims=True)
    saturation = chroma / jnp.where(value > 0, value, 1)
    wanted = jnp.clip(factor * saturation + shift, 0, 1)
    red = jnp.array([0, 1, 1], images.dtype)[:, None, None]
    distance = jnp.where(chroma > 0, (value - images) / jnp.where(chroma > 0, chroma, 1), red)
    return value - value * wanted * distance


def _affine_sources(corners: jax.Array, y: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where each pixel comes from when three points of the picture move by `corners`."""
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
    """Where each pixel comes from.

    Attributes:
        places: int32 [N, 4, S * S]. The four neighbours in the flattened picture, row by row.
        down, right: float [N, 1, S * S] in [0, 1), between the neighbours.
    """

    places: jax.Array
    down: jax.Array
    right: jax.Array

    @classmethod
    def at(cls, y: jax.Array, x: jax.Array, mirror_pixel: bool) -> "_Sources":
        """At (y, x), float [N, S, S]; beyond the edges a mirror on or beside the last pixel."""
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
