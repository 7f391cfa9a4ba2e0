"""The corruptions of ImageNet-C (Hendrycks & Dietterich 2019), batched on the device.

The parameters are those of the authors' generator for pictures of 224 pixels. For another side,
lengths are multiplied by side / 224 and have the least values that each function states, and noise
that is blurred keeps the deviation it has at 224; noise of single pixels, colours, the fractions of
pixelate and the 8x8 blocks of JPEG stay as they are.

The authors evaluate the pictures they released, which were saved as JPEG files of quality 85, and
whose frost comes from photographs: results on pictures made here are `generated` ones. See
docs/robustness.md.
"""

import hashlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from nsneg_jax.corruptions import blur, digital, jpeg, noise, registry, spatter, weather
from nsneg_jax.corruptions.registry import TABLE, corruption, groups, names, settings_of
from nsneg_jax.errors import UsageError

__all__ = [
    "CORRUPTIONS", "EXTRA", "SEVERITIES", "TABLE",
    "corrupt", "corruption", "definition", "groups", "image_keys", "lower", "names", "programs",
    "settings_of",
]  # fmt: skip

# each enters the table when its file is imported
_FILES = (noise, blur, weather, spatter, digital, jpeg)

CORRUPTIONS: tuple[str, ...] = names(registry.TEST)  # of the benchmark's mean
EXTRA: tuple[str, ...] = names(registry.EXTRA)
SEVERITIES: tuple[int, ...] = tuple(range(1, 1 + TABLE[CORRUPTIONS[0]].severities))

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
        name: of the table: one of `CORRUPTIONS` or `EXTRA`, or one that was added.
        severity: from 1 to 5, or to as many as one that was added has.
        keys: typed keys [N]; one key serves all names and severities, whose draws are independent.

    Returns:
        uint8 [N, S, S, 3]; fractions of a grey level are cut off, as in the authors' generator.

    Raises:
        UsageError: for another name, severity, dtype or shape.
    """
    if name not in TABLE:
        raise UsageError(f"The corruption is {name!r}, but must be one of {', '.join(TABLE)}.")
    most = TABLE[name].severities
    if isinstance(severity, bool) or severity not in range(1, 1 + most):
        raise UsageError(
            f"The severity of {name} is {severity!r}, but must be a whole number from 1 to {most}."
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
    return _corrupt(images, TABLE[name].function, keys, *_inputs(name, severity, shape[1]))


def programs(side: int) -> list[tuple[str, int]]:
    """A (name, severity) of each program that `corrupt` compiles for pictures of that side."""
    first: dict[tuple[str | tuple[int, ...], ...], tuple[str, int]] = {}
    for name, severity in settings_of():
        _, arrays = _inputs(name, severity, side)
        first.setdefault((name, *(array.shape for array in arrays)), (name, severity))
    return list(first.values())


def lower(
    images: jax.ShapeDtypeStruct, name: str, severity: int, keys: jax.ShapeDtypeStruct
) -> jax.stages.Lowered:
    """The program of `corrupt` for arrays of these shapes and shardings."""
    inputs = _inputs(name, severity, images.shape[1])
    return _corrupt.lower(images, TABLE[name].function, keys, *inputs)


def definition(name: str, severity: int, side: int) -> str:
    """A digest of all that decides what a corruption does to pictures of that side."""
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.uint8)
    keys = jax.eval_shape(lambda indices: image_keys(0, indices), jax.ShapeDtypeStruct((1,), int))
    digest = hashlib.sha256(lower(image, name, severity, keys).as_text().encode())
    draws, arrays = _inputs(name, severity, side)
    for array in (draws, *arrays):
        digest.update(array.tobytes())
    return digest.hexdigest()


def _inputs(name: str, severity: int, side: int) -> tuple[np.uint32, tuple[np.ndarray, ...]]:
    """What the program of a corruption takes besides pictures and keys."""
    entry = TABLE[name]
    return entry.draws(int(severity)), entry.arrays(side, int(severity))


@partial(jax.jit, static_argnums=1)
def _corrupt(
    images: jax.Array,
    function: registry.Function,
    keys: jax.Array,
    draws: jax.Array,
    arrays: tuple[jax.Array, ...],
) -> jax.Array:
    keys = jax.vmap(lambda key: jax.random.fold_in(key, draws))(keys)
    # planes, so that the products with matrices find rows side by side in memory
    planes = images.transpose(0, 3, 1, 2).astype(jnp.float32) / 255
    corrupted = function(planes, keys, *arrays)
    # a whole level may have come out a rounding error too low
    levels = jnp.floor(255 * jnp.clip(corrupted, 0, 1) + 1e-3)
    return levels.astype(jnp.uint8).transpose(0, 2, 3, 1)
