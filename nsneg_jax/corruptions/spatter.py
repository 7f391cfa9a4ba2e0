"""Spatter: drops of water at severities 1 to 3, mud at 4 and 5. It is not in the mean."""

import jax
import jax.numpy as jnp
import numpy as np

from nsneg_jax.corruptions.registry import EXTRA, corruption
from nsneg_jax.corruptions.resampling import gaussian, scale, separable, white_noise_gain

# mean and deviation of the liquid, its sigma, least value, then for water the strength and for mud
# the sigma of the edge
SPATTER = (
    (0.65, 0.3, 4, 0.69, 0.6),
    (0.65, 0.3, 3, 0.68, 0.6),
    (0.65, 0.3, 2, 0.68, 0.5),
    (0.65, 0.3, 1, 0.65, 1.5),
    (0.67, 0.4, 1, 0.65, 1.5),
)
_WATER = (175, 238, 238)
_MUD = (63, 42, 20)
_FAR = 20  # distance in pixels at which the generator clips


def spatter_settings(side: int, severity: int) -> tuple[np.ndarray, ...]:
    """Returns the settings of `spatter`.

    Lengths scale by at least 0.6: mud is half the picture, reduced by two blurs in the ratio 2 to
    3, which below a pixel would reduce nothing.
    """
    mean, deviation, sigma, least, last = SPATTER[severity - 1]
    length = max(0.6, scale(side))
    deviation *= white_noise_gain(side, sigma, sigma * length)
    at_last = gaussian(side, last * length) if severity > 3 else np.asarray(last, np.float32)
    levels = np.array([mean, deviation, least], np.float32)
    return levels, gaussian(side, sigma * length), at_last


@corruption("spatter", "weather", spatter_settings, kind=EXTRA, stream=85)
def spatter(
    images: jax.Array, keys: jax.Array, levels: jax.Array, blur: jax.Array, last: jax.Array
) -> jax.Array:
    """Spatters a liquid, which is blurred noise above a level.

    Args:
        images, keys: see noise.py.
        levels: float [3]. Mean, deviation and least value of the liquid.
        blur: float [S, S], blurs the liquid.
        last: float []: strength of water; float [S, S]: blur of mud's edge.
    """
    side = images.shape[-1]
    draw = lambda key: jax.random.normal(key, (1, side, side), jnp.float32)  # noqa: E731
    liquid = levels[0] + levels[1] * separable(jax.vmap(draw)(keys), blur, blur)
    return (mud if jnp.ndim(last) else water)(images, liquid, levels[2], last)


def mud(images: jax.Array, liquid: jax.Array, least: jax.Array, blur: jax.Array) -> jax.Array:
    """Covers the picture where the blurred mask of `liquid` > `least` is over 0.8.

    Args:
        images: float [N, 3, S, S] in [0, 1].
        liquid: float [N, 1, S, S].
        least: float [].
        blur: float [S, S].
    """
    mask = separable((liquid > least).astype(images.dtype), blur, blur)
    mask = jnp.where(mask < 0.8, 0, mask)
    return images * (1 - mask) + mask * jnp.array(_MUD, images.dtype)[:, None, None] / 255


def water(images: jax.Array, liquid: jax.Array, least: jax.Array, strength: jax.Array) -> jax.Array:
    """Adds light where `liquid` > `least`, more of it inside a drop and at its lower right.

    The generator finds the rims of drops with Canny's detector and distances by OpenCV's chamfer
    approximation. Here rims lack Canny's hysteresis, and distances are exact up to the 20 pixels at
    which the generator clips them.

    Args:
        images: float [N, 3, S, S] in [0, 1].
        liquid: float [N, 1, S, S].
        least: float [].
        strength: float [], strength at the brightest place.
    """
    levels = jnp.floor(255 * jnp.clip(jnp.where(liquid < least, 0, liquid), 0, 1))[:, 0]
    relief = jnp.floor(_mean3(_distance(_rims(levels))) + 1e-3)
    relief = _equalised(relief, _FAR + 1)
    ridge = jnp.pad(relief, ((0, 0), (1, 1), (1, 1)), mode="reflect")
    weights = ((-2, -1, 0), (-1, 1, 1), (0, 1, 2))
    relief = jnp.clip(_weighted3(ridge, weights), 0, 255)
    drops = levels * jnp.round(_mean3(relief))
    drops = drops / jnp.maximum(drops.max(axis=(1, 2), keepdims=True), 1) * strength
    return images + drops[:, None] * jnp.array(_WATER, images.dtype)[:, None, None] / 255


def _weighted3(padded: jax.Array, weights: tuple[tuple[int, ...], ...]) -> jax.Array:
    height, width = (edge - 2 for edge in padded.shape[1:])
    return jnp.asarray(
        sum(
            weight * padded[:, i : i + height, j : j + width]
            for i, row in enumerate(weights)
            for j, weight in enumerate(row)
            if weight
        )
    )


def _mean3(x: jax.Array) -> jax.Array:
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1)), mode="reflect")
    return _weighted3(padded, ((1, 1, 1),) * 3) / 9


def _rims(levels: jax.Array) -> jax.Array:
    """Returns Canny's edges above his upper threshold of 150, bool [N, S, S]."""
    padded = jnp.pad(levels, ((0, 0), (1, 1), (1, 1)), mode="edge")
    across = _weighted3(padded, ((-1, 0, 1), (-2, 0, 2), (-1, 0, 1)))
    along = _weighted3(padded, ((-1, -2, -1), (0, 0, 0), (1, 2, 1)))
    strength = abs(across) + abs(along)
    around = jnp.pad(strength, ((0, 0), (1, 1), (1, 1)))
    height, width = levels.shape[1:]

    def at(i: int, j: int) -> jax.Array:
        return around[:, 1 + i : 1 + i + height, 1 + j : 1 + j + width]

    # A rim is where the slope is largest along its own direction, in four sectors.
    flat, steep = abs(along) < 0.4142 * abs(across), abs(along) > 2.4142 * abs(across)
    falling = across * along < 0
    before = jnp.where(flat, at(0, -1), jnp.where(steep, at(-1, 0), 0))
    after = jnp.where(flat, at(0, 1), jnp.where(steep, at(1, 0), 0))
    diagonal = ~flat & ~steep
    before = jnp.where(diagonal, jnp.where(falling, at(-1, 1), at(-1, -1)), before)
    after = jnp.where(diagonal, jnp.where(falling, at(1, -1), at(1, 1)), after)
    largest = (strength > before) & jnp.where(diagonal, strength > after, strength >= after)
    return largest & (strength > 150)


def _distance(marked: jax.Array, most: int = _FAR) -> jax.Array:
    """Returns the Euclidean distance to the nearest marked pixel, at most `most`, [N, S, S]."""
    far = float(most**2)
    squares = jnp.where(marked, 0.0, far)
    for axis in (1, 2):
        length = squares.shape[axis]
        reach = [(0, 0)] * 3
        reach[axis] = (most, most)
        padded = jnp.pad(squares, reach, constant_values=far)

        def nearer(
            step: int,
            best: jax.Array,
            padded: jax.Array = padded,
            length: int = length,
            axis: int = axis,
        ) -> jax.Array:
            shifted = jax.lax.dynamic_slice_in_dim(padded, step, length, axis)
            return jnp.minimum(best, shifted + (step - most) ** 2)

        squares = jax.lax.fori_loop(0, 2 * most + 1, nearer, squares)
    return jnp.sqrt(squares)


def _equalised(levels: jax.Array, count: int) -> jax.Array:
    """Does OpenCV's `equalizeHist` for whole levels below `count`, float [N, S, S]."""
    ladder = jnp.arange(count)[:, None, None, None]
    histogram = (levels == ladder).sum(axis=(2, 3))  # [count, N]
    below = jnp.cumsum(histogram, axis=0)
    first = histogram[jnp.argmax(histogram > 0, axis=0), jnp.arange(histogram.shape[1])]
    total = levels.shape[1] * levels.shape[2]
    table = jnp.round((below - first) * (255 / jnp.maximum(total - first, 1)))
    table = jnp.where(total == first, levels[:, 0, 0], table)
    return jnp.take_along_axis(
        table.T, levels.astype(jnp.int32).reshape(len(levels), -1), axis=1
    ).reshape(levels.shape)
