"""The corruptions of ImageNet-C (Hendrycks & Dietterich 2019), batched on the device.

The parameters are those of the authors' generator for pictures of 224 pixels. For another side,
lengths are multiplied by side / 224 and have the least values that each function states, and noise
that is blurred keeps the deviation it has at 224; noise of single pixels, colours, the fractions of
pixelate and the 8x8 blocks of JPEG stay as they are.

The authors evaluate the pictures they released, which were saved as JPEG files of quality 85, and
whose frost comes from photographs: results on pictures made here are `generated` ones. See
docs/robustness.md.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nsneg_jax.corruptions import blur, digital, jpeg, noise, spatter, weather
from nsneg_jax.corruptions.ice import frost_pictures
from nsneg_jax.errors import UsageError

GROUPS: dict[str, tuple[str, ...]] = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
CORRUPTIONS: tuple[str, ...] = tuple(name for group in GROUPS.values() for name in group)
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")  # not in the benchmark's mean
SEVERITIES = (1, 2, 3, 4, 5)

# for each corruption, what a severity sets in pictures of some side, and the function that takes it
_Settings = Callable[[int, int], tuple[Any, ...]]
_FUNCTIONS: dict[str, tuple[_Settings, Callable[..., jax.Array]]] = {
    "gaussian_noise": (lambda side, s: (noise.GAUSSIAN_SD[s - 1],), noise.gaussian_noise),
    "shot_noise": (noise.shot_settings, noise.shot_noise),
    "impulse_noise": (lambda side, s: (noise.IMPULSE_FRACTION[s - 1],), noise.impulse_noise),
    "defocus_blur": (lambda side, s: (blur.disc(side, *blur.DEFOCUS[s - 1]),), blur.defocus_blur),
    "glass_blur": (blur.glass_settings, blur.glass_blur),
    "motion_blur": (
        lambda side, s: (blur.motion_weights(side, *blur.MOTION[s - 1]),),
        blur.motion_blur,
    ),
    "zoom_blur": (blur.zoom_settings, blur.zoom_blur),
    "snow": (weather.snow_settings, weather.snow),
    "frost": (lambda side, s: (weather.FROST[s - 1], frost_pictures(side)), weather.frost),
    "fog": (lambda side, s: (weather.FOG[s - 1],), weather.fog),
    "brightness": (lambda side, s: (weather.BRIGHTNESS[s - 1],), weather.brightness),
    "contrast": (lambda side, s: (digital.CONTRAST[s - 1],), digital.contrast),
    "elastic_transform": (digital.elastic_settings, digital.elastic_transform),
    "pixelate": (
        lambda side, s: digital.pixelate_boxes(side, digital.PIXELATE[s - 1]),
        digital.pixelate,
    ),
    "jpeg_compression": (
        lambda side, s: (jpeg.quantisation_tables(jpeg.QUALITY[s - 1]),),
        jpeg.jpeg_compression,
    ),
    "speckle_noise": (lambda side, s: (noise.SPECKLE_SD[s - 1],), noise.speckle_noise),
    "gaussian_blur": (
        lambda side, s: (blur.scaled_gaussian(side, blur.GAUSSIAN_SIGMA[s - 1]),),
        blur.gaussian_blur,
    ),
    "spatter": (spatter.spatter_settings, spatter.spatter),
    "saturate": (lambda side, s: (digital.SATURATE[s - 1],), digital.saturate),
}
_LEAST_SIDE = 16


def image_keys(seed: int, indices: jax.Array) -> jax.Array:
    """Typed keys [N] for `corrupt` from a seed and the pictures' own numbers (int [N])."""
    return jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(jnp.asarray(indices))


def corrupt(images: jax.Array, name: str, severity: int, keys: jax.Array) -> jax.Array:
    """Corrupts each picture.

    Compiled once for each name and shape, or two or three times where severities differ in more
    than numbers; may be called within `jit`. With JAX's default keys (threefry) a result depends on
    the picture and its key alone, not on the rest of the batch.

    Args:
        images: uint8 [N, S, S, 3], S at least 16.
        name: one of `CORRUPTIONS` or `EXTRA`.
        severity: 1..5.
        keys: typed keys [N]; one key serves all names and severities, whose draws are independent.

    Returns:
        uint8 [N, S, S, 3]; fractions of a grey level are cut off, as in the authors' generator.

    Raises:
        UsageError: for another name, severity, dtype or shape.
    """
    if name not in _FUNCTIONS:
        raise UsageError(
            f"The corruption is {name!r}, but must be one of {', '.join((*CORRUPTIONS, *EXTRA))}."
        )
    if isinstance(severity, bool) or severity not in SEVERITIES:
        raise UsageError(
            f"The severity of {name} is {severity!r}, but must be a whole number from 1 to 5."
        )
    if images.dtype != jnp.uint8:
        raise UsageError(
            f"The pictures to corrupt are of dtype {images.dtype}, but must be uint8, 0..255. "
            "Corrupt them before they are normalised."
        )
    shape = images.shape
    if len(shape) != 4 or shape[3] != 3 or shape[1] != shape[2] or shape[1] < _LEAST_SIDE:
        raise UsageError(
            f"The pictures to corrupt have the shape {shape}, but must be [N, S, S, 3] with a side "
            f"of at least {_LEAST_SIDE} pixels. Crop them to squares first."
        )
    if not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key) or keys.shape != shape[:1]:
        raise UsageError(
            f"The keys are {keys.dtype}{list(keys.shape)}, but must be one typed key for each of "
            f"the {shape[0]} pictures. `image_keys(seed, indices)` makes them."
        )
    return _corrupt(images, name, keys, *_inputs(name, severity, shape[1]))


def programs(side: int) -> list[tuple[str, int]]:
    """A (name, severity) of each program that `corrupt` compiles for pictures of that side."""
    first = {}
    for name in _FUNCTIONS:
        for severity in SEVERITIES:
            _, arrays = _inputs(name, severity, side)
            first.setdefault((name, *(array.shape for array in arrays)), (name, severity))
    return list(first.values())


def lower(
    images: jax.ShapeDtypeStruct, name: str, severity: int, keys: jax.ShapeDtypeStruct
) -> jax.stages.Lowered:
    """The program of `corrupt` for arrays of these shapes and shardings."""
    return _corrupt.lower(images, name, keys, *_inputs(name, severity, images.shape[1]))


def _inputs(name: str, severity: int, side: int) -> tuple[np.int32, tuple[np.ndarray, ...]]:
    """What the program of a corruption takes besides pictures and keys."""
    settings, _ = _FUNCTIONS[name]
    arrays = tuple(
        x if isinstance(x, np.ndarray) else np.asarray(x, np.float32)
        for x in settings(side, int(severity))
    )
    return np.int32(list(_FUNCTIONS).index(name) * len(SEVERITIES) + severity), arrays


@partial(jax.jit, static_argnums=1)
def _corrupt(
    images: jax.Array, name: str, keys: jax.Array, place: jax.Array, arrays: tuple[jax.Array, ...]
) -> jax.Array:
    keys = jax.vmap(lambda key: jax.random.fold_in(key, place))(keys)
    # planes, so that the products with matrices find rows side by side in memory
    planes = images.transpose(0, 3, 1, 2).astype(jnp.float32) / 255
    corrupted = _FUNCTIONS[name][1](planes, keys, *arrays)
    # a whole level may have come out a rounding error too low
    levels = jnp.floor(255 * jnp.clip(corrupted, 0, 1) + 1e-3)
    return levels.astype(jnp.uint8).transpose(0, 2, 3, 1)
