"""Colour operations on a batch of pictures, with an amount per picture.

A batch is three planes (red, green, blue), each float [N, H, W] in [0, 1]. Operations that mix
colours are then elementwise, so a compiler can fuse many of them into one pass.
"""

import jax
import jax.numpy as jnp

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as in Pillow's convert("L")

Planes = tuple[jax.Array, jax.Array, jax.Array]


def planes_of(images: jax.Array) -> Planes:
    """Splits images [N, H, W, 3] into red, green and blue."""
    return images[..., 0], images[..., 1], images[..., 2]


def images_of(planes: Planes) -> jax.Array:
    """The inverse of `planes_of`."""
    return jnp.stack(planes, axis=-1)


def per_sample(values: jax.Array) -> jax.Array:
    """Reshapes [N] to [N, 1, 1], to broadcast against a plane."""
    return values[:, None, None]


def choose(chosen: jax.Array, x: Planes, otherwise: Planes) -> Planes:
    """Takes pictures from `x` where `chosen` (bool [N]) is true, else from `otherwise`."""
    red, green, blue = (
        jnp.where(per_sample(chosen), a, b) for a, b in zip(x, otherwise, strict=True)
    )
    return red, green, blue


def luma(x: Planes) -> jax.Array:
    """Returns the ITU-R 601 luma [N, H, W] (Pillow's `convert("L")`, without its rounding)."""
    return _LUMA[0] * x[0] + _LUMA[1] * x[1] + _LUMA[2] * x[2]


def mean_luma(x: Planes, whole_levels: bool = False) -> jax.Array:
    """Returns the mean of each picture's luma, [N, 1, 1].

    Args:
        x: planes.
        whole_levels: whether to round pixels, luma and mean to whole levels of 255, as Pillow does.
    """
    if not whole_levels:
        return luma(x).mean(axis=(1, 2), keepdims=True)
    levels = jnp.rint(luma(_levels(x))).mean(axis=(1, 2), keepdims=True)
    return jnp.floor(levels + 0.5) / 255


def grayscale(x: Planes) -> Planes:
    """Puts the luma into all three channels."""
    return (luma(x),) * 3


def blend(
    x: Planes, kind: jax.Array, amount: jax.Array, mean: jax.Array, whole_levels: bool = False
) -> Planes:
    """Changes brightness, contrast or saturation (Pillow's `ImageEnhance`).

    Args:
        x: planes.
        kind: int [N]: `BRIGHTNESS` blends with black, `CONTRAST` with the mean of the grayscale
            picture (which Pillow rounds to a whole grey level), `SATURATION` with the grayscale
            picture itself.
        amount: float [N], at least 0; 1 returns the picture bit for bit.
        mean: float [N, 1, 1], mean of the luma; only `CONTRAST` reads it.
        whole_levels: whether to round the result down to whole levels of 255, as Pillow does.
    """
    kind, amount = per_sample(kind), per_sample(amount.astype(x[0].dtype))
    if whole_levels:
        return _blend_levels(x, kind, amount, mean)
    target = jnp.where(kind == SATURATION, luma(x), jnp.where(kind == CONTRAST, mean, 0))
    red, green, blue = (jnp.clip(amount * c + (1 - amount) * target, 0, 1) for c in x)
    return red, green, blue


def _blend_levels(x: Planes, kind: jax.Array, amount: jax.Array, mean: jax.Array) -> Planes:
    levels = _levels(x)
    gray, flat = jnp.rint(luma(levels)), jnp.rint(255 * mean)
    target = jnp.where(kind == SATURATION, gray, jnp.where(kind == CONTRAST, flat, 0))
    red, green, blue = (
        jnp.where(
            amount == 1,
            before,
            jnp.floor(jnp.clip(target + amount * (level - target), 0, 255)) / 255,
        )
        for before, level in zip(x, levels, strict=True)
    )
    return red, green, blue


def _levels(x: Planes) -> Planes:
    """Returns the nearest whole levels, 0 to 255."""
    red, green, blue = (jnp.rint(255 * c) for c in x)
    return red, green, blue


def turn_hue(x: Planes, shift: jax.Array) -> Planes:
    """Shifts the hue in HSV space (torchvision's `adjust_hue`).

    Args:
        x: planes.
        shift: float [N] in turns; 0 returns the picture bit for bit, 1/3 moves red to green.
    """
    red, green, blue = x
    shift = per_sample(shift.astype(red.dtype))
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    divisor = jnp.where(chroma > 0, chroma, 1)
    # Compare channels with one another, never with `value`: a compiler may round the two sides of
    # an equality differently, and the hue would then be wrong.
    sixths = jnp.where(
        (red >= green) & (red >= blue),
        (green - blue) / divisor,
        jnp.where(green >= blue, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )

    def turned(offset: int, channel: jax.Array) -> jax.Array:
        k = offset + sixths + 6 * shift
        k = k - 6 * jnp.floor(k / 6)
        new = jnp.clip(value - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0, 1), 0, 1)
        return jnp.where(shift != 0, new, channel)

    return turned(5, red), turned(3, green), turned(1, blue)
