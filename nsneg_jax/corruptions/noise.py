"""The noise corruptions. Strengths are grey values, so they do not depend on the side.

Here and in the other files a corruption is a function of float32 pictures [N, 3, S, S] (whole grey
levels divided by 255), one typed key per picture, and the settings of the severity. It returns
pictures of the same shape, which the caller clips to [0, 1]. Settings are arrays where possible, so
that severities share a compiled program.
"""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np

from nsneg_jax.corruptions.registry import EXTRA, TEST, corruption

GAUSSIAN_SD = (0.08, 0.12, 0.18, 0.26, 0.38)
SHOT_PHOTONS = (60, 25, 12, 5, 3)  # mean count of a white pixel
IMPULSE_FRACTION = (0.03, 0.06, 0.09, 0.17, 0.27)
SPECKLE_SD = (0.15, 0.2, 0.35, 0.45, 0.6)


@corruption("gaussian_noise", "noise", GAUSSIAN_SD, kind=TEST, stream=0)
def gaussian_noise(images: jax.Array, keys: jax.Array, deviation: jax.Array) -> jax.Array:
    """Adds normal noise, independent per pixel and channel."""
    return images + deviation * _normal(keys, images.shape[1:])


def shot_settings(side: int, severity: int) -> tuple[np.ndarray, ...]:
    """Returns the settings of `shot_noise`."""
    photons = SHOT_PHOTONS[severity - 1]
    return np.asarray(photons, np.int32), *poisson_tables(photons)


@corruption("shot_noise", "noise", shot_settings, kind=TEST, stream=5)
def shot_noise(
    images: jax.Array,
    keys: jax.Array,
    photons: jax.Array,
    threshold: jax.Array,
    alias: jax.Array,
) -> jax.Array:
    """Counts photons: draws a Poisson number whose mean is the value.

    Args:
        images, keys: see above.
        photons: int32 [], mean count of a white pixel.
        threshold, alias: see `poisson_tables`.
    """
    chance = _uniform(keys, images.shape[1:]) * (photons + 1)
    column = jnp.minimum(chance.astype(jnp.int32), photons)
    cell = jnp.round(255 * images).astype(jnp.int32) * threshold.shape[1] + column
    settled = chance - column < jnp.take(threshold, cell)
    return jnp.where(settled, column, jnp.take(alias, cell)).astype(images.dtype) / photons


@corruption("impulse_noise", "noise", IMPULSE_FRACTION, kind=TEST, stream=10)
def impulse_noise(images: jax.Array, keys: jax.Array, fraction: jax.Array) -> jax.Array:
    """Turns a fraction of the values black or white, each half the time (salt and pepper)."""
    chance = _uniform(keys, images.shape[1:])
    return jnp.where(chance < fraction, (chance < fraction / 2).astype(images.dtype), images)


@corruption("speckle_noise", "noise", SPECKLE_SD, kind=EXTRA, stream=75)
def speckle_noise(images: jax.Array, keys: jax.Array, deviation: jax.Array) -> jax.Array:
    """Adds normal noise whose deviation is proportional to the value."""
    return images * (1 + deviation * _normal(keys, images.shape[1:]))


@lru_cache(maxsize=8)
def poisson_tables(photons: int) -> tuple[np.ndarray, np.ndarray]:
    """Makes tables of Walker's alias method for the Poisson numbers of 256 grey levels.

    A uniform number picks a column; its fraction, compared with the threshold, decides between the
    column's number and its alias. Rejection sampling would take as long as its slowest pixel.

    Args:
        photons: mean count of a white pixel. Higher counts are white too, and become this one.

    Returns:
        Thresholds, float32, and aliases, int32, both [256, C] with one C for all severities;
        columns 0..photons are used.
    """
    mean = np.arange(256)[:, None] / 255 * photons
    count = np.arange(photons)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, photons)))])
    with np.errstate(divide="ignore", invalid="ignore"):
        log_mass = np.where(count > 0, count * np.log(mean), 0) - mean - log_factorial
    mass = np.exp(log_mass)
    mass = np.concatenate([mass, np.maximum(1 - mass.sum(1, keepdims=True), 0)], axis=1)
    height = mass / mass.sum(1, keepdims=True) * (photons + 1)
    threshold, alias = np.ones_like(height), np.tile(np.arange(photons + 1), (256, 1))
    for row in range(256):
        rest = height[row]
        low = [c for c in range(photons + 1) if rest[c] < 1]
        high = [c for c in range(photons + 1) if rest[c] >= 1]
        while low and high:
            poor, rich = low.pop(), high[-1]
            threshold[row, poor], alias[row, poor] = rest[poor], rich
            rest[rich] -= 1 - rest[poor]
            if rest[rich] < 1:
                low.append(high.pop())
    unused = ((0, 0), (0, max(SHOT_PHOTONS) - photons))
    return np.pad(threshold, unused).astype(np.float32), np.pad(alias, unused).astype(np.int32)


def _normal(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)


def _uniform(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.vmap(lambda key: jax.random.uniform(key, shape, jnp.float32))(keys)
