"""The blur corruptions. Lengths scale by side / 224, down to the minimum that each states."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np

from nsneg_jax.corruptions.registry import EXTRA, TEST, corruption
from nsneg_jax.corruptions.resampling import gaussian, scale, separable, zoom_sources

DEFOCUS = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))  # radius, deviation of the rim
GLASS = ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))  # sigma, shift, passes
MOTION = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))  # radius, sigma
ZOOM = ((1, 1.11, 0.01), (1, 1.16, 0.01), (1, 1.21, 0.02), (1, 1.26, 0.02), (1, 1.31, 0.03))
GAUSSIAN_SIGMA = (1, 2, 3, 4, 6)


def scaled_gaussian(side: int, sigma: float) -> np.ndarray:
    """Returns the matrix of a blur with a `sigma` for 224 pixels; scaled, at least 0.4 pixels."""
    return gaussian(side, max(0.4, sigma * scale(side)))


@lru_cache(maxsize=16)
def disc(side: int, radius: float, rim: float) -> np.ndarray:
    """Returns a disc with a soft rim, float32 [2R + 1, 2R + 1] with a sum of about 1.

    Args:
        side: side of the pictures in pixels; R is 8, or 7 in smaller ones, unless the radius needs
            more.
        radius: radius in pixels at 224; scaled, at least 1 pixel.
        rim: deviation of the softening in pixels, at any side.
    """
    taps = 3 if radius <= 8 else 5
    radius = max(1.0, radius * scale(side))
    reach = max(min(8, side // 2 - 1), int(np.ceil(radius)))
    squares = np.arange(-reach, reach + 1) ** 2
    inside = (squares[:, None] + squares <= radius**2).astype(np.float64)
    half = taps // 2
    weights = np.exp(-0.5 * (np.arange(-half, half + 1) / rim) ** 2)
    weights /= weights.sum()
    soft = inside
    for axis in (0, 1):
        padded = np.pad(soft, [(half, half) if a == axis else (0, 0) for a in (0, 1)], "reflect")
        shifted = (np.take(padded, np.arange(len(soft)) + t, axis) for t in range(taps))
        soft = sum(weight * picture for weight, picture in zip(weights, shifted, strict=True))
    return (soft / inside.sum()).astype(np.float32)


@corruption(
    "defocus_blur",
    "blur",
    lambda side, severity: (disc(side, *DEFOCUS[severity - 1]),),
    kind=TEST,
    stream=15,
)
def defocus_blur(images: jax.Array, keys: jax.Array, disc: jax.Array) -> jax.Array:
    """Convolves with a disc of shape [2R + 1, 2R + 1]. Draws no random numbers."""
    side, reach = images.shape[-1], disc.shape[0] // 2
    # In the frequency domain, because a disc is not separable.
    size = -(-(side + 2 * reach) // 16) * 16
    padded = jnp.pad(images, ((0, 0), (0, 0), (reach, reach), (reach, reach)), mode="reflect")
    spectrum = jnp.fft.rfft2(padded, (size, size)) * jnp.fft.rfft2(disc, (size, size))
    blurred = jnp.fft.irfft2(spectrum, (size, size))
    return blurred[..., 2 * reach : 2 * reach + side, 2 * reach : 2 * reach + side]


def glass_settings(side: int, severity: int) -> tuple[np.ndarray, ...]:
    """Returns the settings of `glass_blur`; sigma at least 0.4 pixels, shift at least 1 pixel."""
    sigma, shift, passes = GLASS[severity - 1]
    scaled = np.asarray(max(1, round(shift * scale(side))), np.int32)
    return scaled_gaussian(side, sigma), scaled, np.asarray(passes, np.int32)


@corruption("glass_blur", "blur", glass_settings, kind=TEST, stream=20)
def glass_blur(
    images: jax.Array, keys: jax.Array, blur: jax.Array, shift: jax.Array, passes: jax.Array
) -> jax.Array:
    """Blurs, moves pixels about, and blurs again.

    Args:
        images, keys: see noise.py.
        blur: float [S, S], matrix of the blur.
        shift: int32 [], at least 1.
        passes: int32 [].
    """
    n, channels, side, _ = images.shape
    pixels = jnp.floor(255 * separable(images, blur, blur) + 1e-3).reshape(n, channels, -1)

    def draw(key: jax.Array, turn: jax.Array) -> tuple[jax.Array, jax.Array]:
        # Half a random word per number: for such small ranges, 16 bits are nearly uniform.
        bits = jax.random.bits(jax.random.fold_in(key, turn), (side, side), jnp.uint32)
        halves = (bits & 0xFFFF, bits >> 16)
        down, right = ((half.astype(jnp.int32) * (2 * shift) >> 16) - shift for half in halves)
        return down, right

    def one_pass(turn: jax.Array, pixels: jax.Array) -> jax.Array:
        down, right = jax.vmap(draw, (0, None))(keys, turn)
        sources = glass_sources(down, right, shift)
        return jnp.take_along_axis(pixels, sources[:, None], axis=2)

    pixels = jax.lax.fori_loop(0, passes, one_pass, pixels)
    return separable(pixels.reshape(images.shape) / 255, blur, blur)


def glass_sources(down: jax.Array, right: jax.Array, shift: int | jax.Array) -> jax.Array:
    """Returns the source of each pixel after one pass of the generator's loop, in parallel.

    The generator visits the pixels that are more than `shift` from the top and left edges and at
    least `shift` from the others, from the last row up and the last column leftwards, and gives
    each the value of a nearby pixel. (It means to swap the two, but NumPy's views void the second
    half of the swap; the released pictures were made this way.) A pixel visited earlier already
    holds a value from elsewhere. All these chains are followed at once by doubling the stride six
    times; a chain of more than 64 links has probability 2^-64.

    Args:
        down, right: int32 [N, S, S] in [-shift, shift - 1].
        shift: at least 1.

    Returns:
        int32 [N, S * S], places in the flattened picture.
    """
    n, side, _ = down.shape
    place = jnp.arange(side)
    visited = (place > shift) & (place <= side - shift)
    here = place[:, None] * side + place
    there = here + jnp.where(visited[:, None] & visited, down * side + right, 0)
    row, column = there // side, there % side
    follow = (there > here) & (row <= side - shift) & (column > shift) & (column <= side - shift)
    # A negative number marks the end of a chain.
    links = jnp.where(follow, there, -1 - there).reshape(n, side * side)

    def double(_: int, links: jax.Array) -> jax.Array:
        onward = jnp.take_along_axis(links, jnp.maximum(links, 0), axis=1)
        return jnp.where(links < 0, links, onward)

    # A loop keeps XLA on CPU from fusing the six gathers and computing the first 32 times.
    links = jax.lax.fori_loop(0, 6, double, links)
    return jnp.where(links < 0, -1 - links, links)


@corruption(
    "motion_blur",
    "blur",
    lambda side, severity: (motion_weights(side, *MOTION[severity - 1]),),
    kind=TEST,
    stream=25,
)
def motion_blur(images: jax.Array, keys: jax.Array, weights: jax.Array) -> jax.Array:
    """Blurs along a line at an angle of -45 to 45 degrees."""
    draw = lambda key: jax.random.uniform(key, (), jnp.float32, -45, 45)  # noqa: E731
    return motion(images, jax.vmap(draw)(keys), weights)


def motion_weights(side: int, radius: float, sigma: float) -> np.ndarray:
    """Returns half a Gaussian, as in ImageMagick's motion blur; float32 [2 * R + 1].

    Args:
        side: side of the pictures in pixels.
        radius: half the length of the line in pixels at 224; scaled and rounded up.
        sigma: sigma in pixels at 224; scaled, at least 0.5 pixels.
    """
    steps = np.arange(2 * int(np.ceil(radius * scale(side))) + 1)
    weights = np.exp(-0.5 * (steps / max(0.5, sigma * scale(side))) ** 2)
    return (weights / weights.sum()).astype(np.float32)


def motion(images: jax.Array, angles: jax.Array, weights: jax.Array) -> jax.Array:
    """Does ImageMagick's motion blur: averages pixels at whole steps along a line, by weight.

    Args:
        images: float [N, C, S, S] in [0, 1].
        angles: float [N] in degrees; the line goes right at 0 and down at 90.
        weights: float [T]; the first is for the pixel itself.

    Returns:
        [N, C, S, S], whole grey levels divided by 255; edges repeated.
    """
    taps = weights.shape[0]
    radians = jnp.deg2rad(angles)
    direction = jnp.stack([jnp.sin(radians), jnp.cos(radians)], axis=1)
    offsets = jnp.ceil(jnp.arange(taps)[:, None, None] * direction - 0.5).astype(jnp.int32)
    padded = jnp.pad(images, ((0, 0), (0, 0), (taps, taps), (taps, taps)), mode="edge")

    def window(image: jax.Array, offset: jax.Array) -> jax.Array:
        # int32 like the offsets; a plain 0 would be int64 in JAX's 64-bit mode.
        return jax.lax.dynamic_slice(image, (jnp.int32(0), *(taps + offset)), images.shape[1:])

    def add(total: jax.Array, tap: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return total + tap[0] * jax.vmap(window)(padded, tap[1]), None

    total, _ = jax.lax.scan(add, jnp.zeros_like(images), (weights, offsets))
    return jnp.round(255 * total) / 255


def zoom_settings(side: int, severity: int) -> tuple[np.ndarray, ...]:
    """Returns the settings of `zoom_blur`; the factors do not depend on the side."""
    sources = [zoom_sources(side, float(factor)) for factor in np.arange(*ZOOM[severity - 1])]
    first, weight = zip(*sources, strict=True)
    return np.stack(first), np.stack(weight)


@corruption("zoom_blur", "blur", zoom_settings, kind=TEST, stream=30)
def zoom_blur(images: jax.Array, keys: jax.Array, first: jax.Array, weight: jax.Array) -> jax.Array:
    """Averages the picture with growing enlargements of its middle. Draws no random numbers.

    Args:
        images, keys: see noise.py.
        first, weight: int32 and float [Z, S], `resampling.zoom_sources` of each enlargement.
    """

    def add(total: jax.Array, zoom: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        # Four times as fast on CPU as products with matrices.
        first, weight = zoom

        def along(x: jax.Array, axis: int, weight: jax.Array) -> jax.Array:
            ends = (jnp.take(x, first + i, axis, mode="clip") for i in (0, 1))
            return (1 - weight) * next(ends) + weight * next(ends)

        return total + along(along(images, 2, weight[:, None]), 3, weight), None

    return jax.lax.scan(add, images, (first, weight))[0] / (first.shape[0] + 1)


@corruption(
    "gaussian_blur",
    "blur",
    lambda side, severity: (scaled_gaussian(side, GAUSSIAN_SIGMA[severity - 1]),),
    kind=EXTRA,
    stream=80,
)
def gaussian_blur(images: jax.Array, keys: jax.Array, blur: jax.Array) -> jax.Array:
    """Applies a Gaussian blur by its matrix. Draws no random numbers."""
    return separable(images, blur, blur)
