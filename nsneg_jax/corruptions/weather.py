"""The weather corruptions except spatter, which is outside the benchmark's mean."""

import jax
import jax.numpy as jnp
import numpy as np

from nsneg_jax.corruptions.blur import motion, motion_weights
from nsneg_jax.corruptions.ice import frost_pictures
from nsneg_jax.corruptions.registry import TEST, corruption
from nsneg_jax.corruptions.resampling import scale, separable, zoom_matrix

# mean and deviation of the flakes, their size, least value, radius and sigma of their fall, weight
# of the picture
SNOW = (
    (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
    (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
    (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
    (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
    (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
)
FROST = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))  # of picture, of frost
FOG = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))  # weight, decay
BRIGHTNESS = (0.1, 0.2, 0.3, 0.4, 0.5)
_LUMA = (0.299, 0.587, 0.114)


def snow_settings(side: int, severity: int) -> tuple[np.ndarray, ...]:
    """Returns the settings of `snow`; flakes have at least 2 pixels, falls scale as motion blur."""
    mean, deviation, size, least, radius, sigma, weight = SNOW[severity - 1]
    zoom = zoom_matrix(side, max(2.0, size * scale(side)))
    levels = np.array([mean, deviation, least, weight], np.float32)
    return levels, zoom, motion_weights(side, radius, sigma)


@corruption("snow", "weather", snow_settings, kind=TEST, stream=35)
def snow(
    images: jax.Array, keys: jax.Array, levels: jax.Array, zoom: jax.Array, fall: jax.Array
) -> jax.Array:
    """Whitens the picture and lets flakes fall over it, at an angle of -135 to -45 degrees.

    Args:
        images, keys: see noise.py.
        levels: float [4]. Mean and deviation of the flakes, their least value, and the share of
            the picture that stays unwhitened.
        zoom: float [S, S], enlarges the flakes.
        fall: float [T], see `blur.motion`.
    """
    mean, deviation, least, weight = levels
    side = images.shape[-1]

    def draw(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        key_flakes, key_angle = jax.random.split(key)
        flakes = jax.random.normal(key_flakes, (1, side, side), jnp.float32)
        return flakes, jax.random.uniform(key_angle, (), jnp.float32, -135, -45)

    flakes, angles = jax.vmap(draw)(keys)
    flakes = separable(mean + deviation * flakes, zoom, zoom)
    flakes = jnp.clip(jnp.where(flakes < least, 0, flakes), 0, 1)
    flakes = motion(jnp.floor(255 * flakes) / 255, angles, fall)
    gray = sum(luma * images[:, c : c + 1] for c, luma in enumerate(_LUMA))
    whitened = weight * images + (1 - weight) * jnp.maximum(images, 1.5 * gray + 0.5)
    return whitened + flakes + flakes[:, :, ::-1, ::-1]


@corruption(
    "frost",
    "weather",
    lambda side, severity: (FROST[severity - 1], frost_pictures(side)),
    kind=TEST,
    stream=40,
)
def frost(images: jax.Array, keys: jax.Array, weights: jax.Array, pictures: jax.Array) -> jax.Array:
    """Blends with a random window of a random picture of ice.

    The benchmark blends with photographs; `ice.frost_pictures` replaces them.

    Args:
        images, keys: see noise.py.
        weights: float [2], weights of the image and the ice.
        pictures: uint8 [P, 3, H, W], no smaller than the images.
    """
    side = images.shape[-1]
    high = jnp.array([pictures.shape[0], *(edge - side + 1 for edge in pictures.shape[2:])])

    def window(key: jax.Array) -> jax.Array:
        # int32, so that draws do not depend on JAX's 64-bit mode.
        picture, top, left = jax.random.randint(key, (3,), 0, high, jnp.int32)
        start = picture, jnp.int32(0), top, left
        cut = jax.lax.dynamic_slice(pictures, start, (1, 3, side, side))
        return cut[0].astype(images.dtype) / 255

    return weights[0] * images + weights[1] * jax.vmap(window)(keys)


@corruption("fog", "weather", FOG, kind=TEST, stream=45)
def fog(images: jax.Array, keys: jax.Array, settings: jax.Array) -> jax.Array:
    """Adds a plasma fractal, then dims the picture to keep its largest value.

    Args:
        images, keys: see noise.py.
        settings: float [2], weight of the fog and decay of its finer parts.
    """
    weight, decay = settings
    side = images.shape[-1]
    brightest = images.max(axis=(1, 2, 3), keepdims=True)
    clouds = plasma(keys, 1 << (side - 1).bit_length(), decay)[:, None, :side, :side]
    return (images + weight * clouds) * brightest / (brightest + weight)


def plasma(keys: jax.Array, size: int, decay: float | jax.Array) -> jax.Array:
    """Makes periodic fractal height maps by the diamond-square method, scaled to [0, 1].

    Args:
        keys: typed keys [N].
        size: a power of two, at least 2.
        decay: square root of the ratio of random amplitudes between levels (the generator
            multiplies a random number by its amplitude twice).

    Returns:
        float32 [N, size, size].
    """
    draw = lambda key: jax.random.uniform(key, (size * size,), jnp.float32, -1, 1)  # noqa: E731
    chance = jax.vmap(draw)(keys)
    height = jnp.zeros((len(chance), 1, 1), jnp.float32)
    amplitude: float | jax.Array = 1.0  # the scaling below removes any common factor
    while (n := height.shape[1]) < size:
        wobble = amplitude * chance[:, n * n : 4 * n * n].reshape(-1, 3, n, n)
        # First the centre of each square, from its corners; then the middle of each edge, from its
        # two ends and the two centres beside it.
        pairs = height + jnp.roll(height, -1, 1)
        centre = (pairs + jnp.roll(pairs, -1, 2)) / 4 + wobble[:, 0]
        across = height + jnp.roll(height, -1, 2) + centre + jnp.roll(centre, 1, 1)
        along = height + jnp.roll(height, -1, 1) + centre + jnp.roll(centre, 1, 2)
        upper = jnp.stack([height, across / 4 + wobble[:, 1]], axis=3)
        lower = jnp.stack([along / 4 + wobble[:, 2], centre], axis=3)
        height = jnp.stack([upper, lower], axis=2).reshape(-1, 2 * n, 2 * n)
        amplitude = amplitude / decay**2
    height = height - height.min(axis=(1, 2), keepdims=True)
    return height / height.max(axis=(1, 2), keepdims=True)


@corruption("brightness", "weather", BRIGHTNESS, kind=TEST, stream=50)
def brightness(images: jax.Array, keys: jax.Array, shift: jax.Array) -> jax.Array:
    """Adds to the HSV value. Draws no random numbers."""
    # At constant hue and saturation, channels are proportional to the value.
    value = images.max(axis=1, keepdims=True)
    brighter = jnp.minimum(value + shift, 1)
    return jnp.where(value > 0, images / jnp.where(value > 0, value, 1), 1) * brighter
