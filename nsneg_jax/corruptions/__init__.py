"""The corruptions of ImageNet-C (Hendrycks & Dietterich 2019), batched on the device.

At 224 pixels the parameters equal the authors' generator. At another side, lengths scale by
side / 224 down to the minimum that each function states, and blurred noise keeps its deviation at
224. Noise of single pixels, colours, the fractions of pixelate and the 8x8 blocks of JPEG do not
change.

The authors evaluate their released pictures, which are JPEG files of quality 85 and take frost
from photographs. So results on pictures made here are reported as `generated`. See
docs/robustness.md.
"""

import hashlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from nsneg_jax.corruptions import (
    blur,
    digital,
    jpeg,
    noise,
    registry,
    spatter,
    suppression,
    weather,
)
from nsneg_jax.corruptions.registry import TABLE, corruption, groups, names, settings_of
from nsneg_jax.errors import UsageError

__all__ = [
    "CORRUPTIONS", "EXTRA", "SEVERITIES", "SUPPRESSIONS", "TABLE",
    "corrupt", "corruption", "definition", "groups", "image_keys", "lower", "names", "programs",
    "settings_of",
]  # fmt: skip

# Importing a file adds its corruptions to the table.
_FILES = (noise, blur, weather, spatter, digital, jpeg, suppression)

CORRUPTIONS: tuple[str, ...] = names(registry.TEST)  # in the benchmark's mean
EXTRA: tuple[str, ...] = names(registry.EXTRA)
SUPPRESSIONS: tuple[str, ...] = names(registry.SUPPRESSION)
SEVERITIES: tuple[int, ...] = tuple(range(1, 1 + TABLE[CORRUPTIONS[0]].severities))

_LEAST_SIDE = 16


def image_keys(seed: int, indices: jax.Array) -> jax.Array:
    """Makes typed keys [N] for `corrupt` from a seed and the indices of the pictures, int [N]."""
    return jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(jnp.asarray(indices))


def corrupt(images: jax.Array, name: str, severity: int, keys: jax.Array) -> jax.Array:
    """Corrupts each picture.

    Compiles once per name and shape, or two or three times where severities differ in more than
    numbers; may be called within `jit`. With JAX's default keys (threefry) a result depends only on
    the picture and its key, not on the rest of the batch.

    Args:
        images: uint8 [N, S, S, 3], S at least 16.
        name: one of `CORRUPTIONS`, `EXTRA` or `SUPPRESSIONS`, or an added corruption.
        severity: 1 to 5, or to the number of severities of an added corruption.
        keys: typed keys [N]; one key serves all names and severities, whose draws are independent.

    Returns:
        uint8 [N, S, S, 3]; fractions of a grey level are cut off, as in the authors' generator.

    Raises:
        UsageError: the name, severity, dtype or shape is none of these.
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
    """Returns one (name, severity) per program that `corrupt` compiles for pictures of `side`."""
    first: dict[tuple[str | tuple[int, ...], ...], tuple[str, int]] = {}
    for name, severity in (*settings_of(), *settings_of(registry.SUPPRESSION)):
        _, arrays = _inputs(name, severity, side)
        first.setdefault((name, *(array.shape for array in arrays)), (name, severity))
    return list(first.values())


def lower(
    images: jax.ShapeDtypeStruct, name: str, severity: int, keys: jax.ShapeDtypeStruct
) -> jax.stages.Lowered:
    """Lowers `corrupt` for arrays of these shapes and shardings."""
    inputs = _inputs(name, severity, images.shape[1])
    return _corrupt.lower(images, TABLE[name].function, keys, *inputs)


def definition(name: str, severity: int, side: int) -> str:
    """Hashes all that decides what a corruption does to pictures of `side`."""
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.uint8)
    keys = jax.eval_shape(lambda indices: image_keys(0, indices), jax.ShapeDtypeStruct((1,), int))
    digest = hashlib.sha256(lower(image, name, severity, keys).as_text().encode())
    draws, arrays = _inputs(name, severity, side)
    for array in (draws, *arrays):
        digest.update(array.tobytes())
    return digest.hexdigest()


def _inputs(name: str, severity: int, side: int) -> tuple[np.uint32, tuple[np.ndarray, ...]]:
    """Returns the inputs of a corruption's program besides pictures and keys."""
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
    # Planes keep rows contiguous in memory for the products with matrices.
    planes = images.transpose(0, 3, 1, 2).astype(jnp.float32) / 255
    corrupted = function(planes, keys, *arrays)
    # Rounding may have left a whole level slightly too low.
    levels = jnp.floor(255 * jnp.clip(corrupted, 0, 1) + 1e-3)
    return levels.astype(jnp.uint8).transpose(0, 2, 3, 1)
