"""Devices and shardings: one mesh axis, `data`; batches are split over it, the rest replicated."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DTYPES = ("float32", "bfloat16", "float64")  # for the computation of a job


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Makes a mesh over `devices`, by default all.

    Devices are ordered by process, not by network topology as in `jax.make_mesh`: each process then
    holds the part of a batch that it loaded, and the batch does not depend on the number of
    processes.
    """
    if devices is None:
        devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))


def use_dtype(dtype: str) -> None:
    """Switches the process to 64 bits if `dtype` is 'float64'."""
    if dtype == "float64":
        jax.config.update("jax_enable_x64", True)


def computation(devices: Mesh, dtype: str, precision: str) -> dict[str, str]:
    """Returns the hardware, dtype and precision of results, to be stored with them."""
    device = devices.devices.flat[0].device_kind
    return {"dtype": dtype, "precision": precision, "device": device}


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def split_longest(mesh: Mesh, shape: Sequence[int]) -> NamedSharding:
    """Returns the sharding that splits the longest axis which the devices share evenly.

    Args:
        mesh: the devices.
        shape: shape of the array; one without such an axis stays whole.
    """
    even = [axis for axis, length in enumerate(shape) if length and length % mesh.size == 0]
    if not even:
        return replicated(mesh)
    return split_axis(mesh, max(even, key=lambda axis: shape[axis]))


def put(tree: Any, shardings: Any) -> Any:
    """Puts the arrays of `tree` on the devices; every process must hold all of them.

    Args:
        tree: tree of arrays.
        shardings: one sharding for all, or a prefix of `tree` with shardings.
    """
    shardings = jax.tree.broadcast(shardings, tree)
    if all(sharding.is_fully_addressable for sharding in jax.tree.leaves(shardings)):
        return jax.device_put(tree, shardings)

    def put_leaf(leaf: Any, sharding: NamedSharding) -> jax.Array:
        array = np.asarray(leaf)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(put_leaf, tree, shardings)


def split_batch(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that splits axis 0 over the devices."""
    return split_axis(mesh, 0)


def split_axis(mesh: Mesh, axis: int) -> NamedSharding:
    """Returns the sharding that splits `axis` over the devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))
