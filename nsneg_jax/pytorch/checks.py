"""Checks the arrays of a PyTorch file: kinds, names, shapes, dtypes and values."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from nsneg_jax.errors import UsageError
from nsneg_jax.pytorch.names import COUNTER

_LISTED = 5  # keys to name in a message
_HALVES = (np.dtype(np.float16), np.dtype(jnp.bfloat16))


def check_values(arrays: Mapping[Any, Any], origin: str) -> None:
    """Raises UsageError unless all are arrays under names."""
    for name, array in arrays.items():
        if not isinstance(name, str) or not isinstance(array, np.ndarray):
            raise UsageError(
                f"The entry {name!r} in {origin} is a {type(array).__name__}, not a plain tensor "
                "under a name. Give a file with a state dict of only tensors."
            )


def check_keys(found: Mapping[str, np.ndarray], expected: Mapping[str, tuple], origin: str) -> None:
    """Raises UsageError, naming missing, surplus and wrongly shaped entries."""
    missing = [name for name in expected if name not in found]
    surplus = [name for name in found if name not in expected]
    wrong = [
        f"{name} of shape {tuple(array.shape)}, expected {expected[name]}"
        for name, array in found.items()
        if name in expected and tuple(array.shape) != expected[name]
    ]
    problems = [
        f"{label} {listed(names)}"
        for label, names in (
            ("misses", missing), ("has, beyond what belongs to it,", surplus), ("has", wrong)
        )
        if names
    ]  # fmt: skip
    if problems:
        raise UsageError(
            f"{origin} {'; '.join(problems)}. Nothing was written; the file is incomplete or holds "
            "another network."
        )


def widened(arrays: Mapping[str, np.ndarray], dtype: str) -> tuple[dict[str, np.ndarray], str]:
    """Converts half precision to `dtype`, which is exact.

    Args:
        arrays: arrays by name.
        dtype: 'float32' or 'float64'.

    Returns:
        The arrays, and the half dtypes that were converted, such as 'float16', '' if none was.
    """
    halves = sorted({str(a.dtype) for a in arrays.values() if a.dtype in _HALVES})
    if not halves:
        return dict(arrays), ""
    wide = {n: a.astype(dtype) if a.dtype in _HALVES else a for n, a in arrays.items()}
    return wide, " and ".join(halves)


def check_dtypes(arrays: Mapping[str, np.ndarray], common: str, origin: str) -> None:
    """Raises UsageError unless counters and pointers are int64 and the others `common`."""
    for name, array in arrays.items():
        expected = "int64" if name.endswith((COUNTER, "queue_ptr")) else common
        if str(array.dtype) != expected:
            raise UsageError(
                f"{name} in {origin} has dtype {array.dtype}, expected {expected}. Convert it "
                "with PyTorch first."
            )


def check_finite(arrays: Mapping[str, np.ndarray], origin: str) -> None:
    """Raises UsageError, naming the first array that has a NaN or an infinity."""
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            bad = int(array.size - np.isfinite(array).sum())
            raise UsageError(
                f"{name} in {origin} has {bad:,} of {array.size:,} values that are NaN or "
                "infinite, so the network would answer NaN. Nothing was written; get a checkpoint "
                "from before the training diverged."
            )


def listed(names: Iterable[str]) -> str:
    """Returns the first names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
