"""Devices and shardings: one mesh axis, `data`; batches are split over it, the rest replicated."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DTYPES = ("float32", "bfloat16", "float64")  # that a job may compute in


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over `devices`, by default all there are.

    Process by process, not in the order that suits the network best, which `jax.make_mesh` takes:
    each process then holds the part of a batch that it has loaded, and the batch is the same
    whatever the number of processes.
    """
    if devices is None:
        devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))


def use_dtype(dtype: str) -> None:
    """Switches the process to 64 bits where it is to compute in 'float64'."""
    if dtype == "float64":
        jax.config.update("jax_enable_x64", True)


def computation(devices: Mesh, dtype: str, precision: str) -> dict[str, str]:
    """What results were computed with, to be kept with them."""
    device = devices.devices.flat[0].device_kind
    return {"dtype": dtype, "precision": precision, "device": device}


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def put(tree: Any, shardings: Any) -> Any:
    """The arrays of `tree` on the devices; of several processes, each has all of them before.

    Args:
        tree: of arrays.
        shardings: a sharding for all of them, or a prefix of `tree` with shardings.
    """
    shardings = jax.tree.broadcast(shardings, tree)
    if all(sharding.is_fully_addressable for sharding in jax.tree.leaves(shardings)):
        return jax.device_put(tree, shardings)

    def put_leaf(leaf: Any, sharding: NamedSharding) -> jax.Array:
        array = np.asarray(leaf)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(put_leaf, tree, shardings)


def split_batch(mesh: Mesh) -> NamedSharding:
    """Axis 0 split over the devices."""
    return split_axis(mesh, 0)


def split_axis(mesh: Mesh, axis: int) -> NamedSharding:
    """That axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))
