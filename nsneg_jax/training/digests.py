"""Digests of the values in a checkpoint, by which damage is found when it is read.

The digest of an array is a sum over its words with a weight for each place, modulo 2^32, in two
lanes. The sum is exact in any order, so that an array split over any devices has the same digest
and needs no copy on the host. It tells damage from truth; it is no protection against a forger.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_LANES = (0x9E3779B9, 0x85EBCA6B)


def names_of_leaves(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a tree by name, such as 'params_q.conv1.kernel'."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(k, simple=True, separator="."): leaf for k, leaf in leaves}


def state_digests(state: Any) -> dict[str, str]:
    """Digests every array of a state.

    Args:
        state: tree of jax or NumPy arrays of numbers or bool; the former may be split over devices.

    Returns:
        'DTYPE[SHAPE] DIGEST' by name of the leaf, DIGEST being 16 hexadecimal digits.
    """
    leaves = names_of_leaves(state)
    sums = {name: _sums(_words(leaf)) for name, leaf in leaves.items()}
    return {
        name: f"{kind(leaves[name])} {int(high):08x}{int(low):08x}"
        for name, (high, low) in jax.device_get(sums).items()
    }


def kind(leaf: Any) -> str:
    """Returns 'DTYPE[SHAPE]' of an array, or of what describes one."""
    return f"{np.dtype(leaf.dtype).name}[{','.join(map(str, leaf.shape))}]"


def values_digest(values: Mapping[str, Any]) -> str:
    """Digests plain JSON values, whatever the order of their keys."""
    text = json.dumps(values, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _words(leaf: Any) -> Any:
    """Returns the bits of an array as uint8, uint16 or uint32 [*shape], [*shape, 2] if of 64."""
    size = np.dtype(leaf.dtype).itemsize
    unsigned = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint32}[size]
    if isinstance(leaf, jax.Array):
        return _bits(leaf, unsigned)
    # NumPy arrays stay so here, because JAX would narrow 64 bits to 32.
    leaf = np.asarray(leaf)
    words = np.ascontiguousarray(leaf).view(unsigned)
    return words.reshape(*leaf.shape, 2) if size == 8 else words.reshape(leaf.shape)


def _bits(leaf: jax.Array, unsigned: Any) -> jax.Array:
    if leaf.dtype == bool:
        return leaf.astype(jnp.uint8)
    return jax.lax.bitcast_convert_type(leaf, unsigned)


@jax.jit
def _sums(words: jax.Array) -> tuple[jax.Array, jax.Array]:
    words = words.astype(jnp.uint32)
    place = jnp.zeros(words.shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(words.ndim)):
        place += jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis) * jnp.uint32(stride)
        stride = stride * words.shape[axis] % 2**32
    high, low = (
        # An odd weight lets no change of one word vanish.
        jnp.sum(words * (_mixed(place ^ jnp.uint32(lane)) | 1), dtype=jnp.uint32)
        for lane in _LANES
    )
    return high, low


def _mixed(values: jax.Array) -> jax.Array:
    """Spreads uint32 values evenly: the last steps of MurmurHash3."""
    values = (values ^ (values >> 16)) * jnp.uint32(0x85EBCA6B)
    values = (values ^ (values >> 13)) * jnp.uint32(0xC2B2AE35)
    return values ^ (values >> 16)
