"""Colour operations on a batch of pictures, each with its own amount.

A batch is three planes, red, green and blue, float [N, H, W] each in [0, 1]. What mixes colours
then looks at one place of each plane, so that a compiler can do many such operations in one pass.
"""

import jax
import jax.numpy as jnp

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as in Pillow's convert("L")

Planes = tuple[jax.Array, jax.Array, jax.Array]


def planes_of(images: jax.Array) -> Planes:
    """Red, green and blue of images [N, H, W, 3]."""
    return images[..., 0], images[..., 1], images[..., 2]


def images_of(planes: Planes) -> jax.Array:
    """The inverse of `planes_of`."""
    return jnp.stack(planes, axis=-1)


def per_sample(values: jax.Array) -> jax.Array:
    """[N] as [N, 1, 1], to meet a plane."""
    return values[:, None, None]


def choose(chosen: jax.Array, x: Planes, otherwise: Planes) -> Planes:
    """The pictures of `x` where `chosen` (bool [N]) says so."""
    red, green, blue = (
        jnp.where(per_sample(chosen), a, b) for a, b in zip(x, otherwise, strict=True)
    )
    return red, green, blue


def luma(x: Planes) -> jax.Array:
    """ITU-R 601 luma [N, H, W] (Pillow's `convert("L")`)."""
    return _LUMA[0] * x[0] + _LUMA[1] * x[1] + _LUMA[2] * x[2]


def grayscale(x: Planes) -> Planes:
    """The luma in all three channels."""
    return (luma(x),) * 3


def blend(x: Planes, kind: jax.Array, amount: jax.Array, mean: jax.Array) -> Planes:
    """Brightness, contrast or saturation (Pillow's `ImageEnhance`).

    Args:
        x: planes.
        kind: int [N], `BRIGHTNESS` (blends with black), `CONTRAST` (with the mean of the grayscale
            picture, which Pillow rounds to a whole grey level) or `SATURATION` (with the grayscale
            picture).
        amount: float [N], at least 0; 1 returns the picture bit for bit.
        mean: [N, 1, 1], of the luma; looked at by `CONTRAST` alone.
    """
    kind, amount = per_sample(kind), per_sample(amount.astype(x[0].dtype))
    target = jnp.where(kind == SATURATION, luma(x), jnp.where(kind == CONTRAST, mean, 0))
    red, green, blue = (jnp.clip(amount * c + (1 - amount) * target, 0, 1) for c in x)
    return red, green, blue


def turn_hue(x: Planes, shift: jax.Array) -> Planes:
    """Turns the hue in HSV space (torchvision's `adjust_hue`).

    Args:
        x: planes.
        shift: float [N] in turns; 0 returns the picture bit for bit, 1/3 moves red to green.
    """
    red, green, blue = x
    shift = per_sample(shift.astype(red.dtype))
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    divisor = jnp.where(chroma > 0, chroma, 1)
    # Channels are compared with one another, never with `value`: a compiler may compute the two
    # sides of an equality with different roundings, and the hue would then be a wrong one.
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
