"""Digests of the values in a checkpoint, by which damage is found when it is read."""

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

_THREADS = 4  # hashlib works outside Python's lock


def names_of_leaves(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a tree by name, such as 'params_q.conv1.kernel'."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(k, simple=True, separator="."): leaf for k, leaf in leaves}


def state_digests(state: Any) -> dict[str, str]:
    """Digests every array of a state. Every process must call it, and gets the same.

    Args:
        state: tree of NumPy arrays, or of jax arrays on any devices.

    Returns:
        'DTYPE[SHAPE] DIGEST' by name of the leaf, DIGEST being the SHA-256 of its values in C
        order and little-endian bytes, as hexadecimal digits.
    """
    leaves = names_of_leaves(state)
    arrays = [_on_host(leaf) for leaf in leaves.values()]
    with ThreadPoolExecutor(_THREADS) as pool:
        digests = list(pool.map(_sha256, arrays))
    return {
        name: f"{kind(leaf)} {digest}"
        for (name, leaf), digest in zip(leaves.items(), digests, strict=True)
    }


def kind(leaf: Any) -> str:
    """Returns 'DTYPE[SHAPE]' of an array, or of what describes one."""
    return f"{np.dtype(leaf.dtype).name}[{','.join(map(str, leaf.shape))}]"


def values_digest(values: Mapping[str, Any]) -> str:
    """Digests plain JSON values, whatever the order of their keys."""
    text = json.dumps(values, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _on_host(leaf: Any) -> np.ndarray:
    """Returns all values of an array, also if other processes hold some of them."""
    if isinstance(leaf, jax.Array):
        if leaf.is_fully_replicated:
            return np.asarray(leaf.addressable_data(0))
        if not leaf.is_fully_addressable:
            return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
    return np.asarray(leaf)


def _sha256(array: np.ndarray) -> str:
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return hashlib.sha256(little.tobytes()).hexdigest()
