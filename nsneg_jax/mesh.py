"""Devices and shardings: one mesh axis, `data`; batches are split over it, the rest replicated."""

from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over `devices`, by default all there are."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def use_dtype(dtype: str) -> None:
    """Switches the process to 64 bits where it is to compute in 'float64'."""
    if dtype == "float64":
        jax.config.update("jax_enable_x64", True)


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """Axis 0 split over the devices."""
    return split_axis(mesh, 0)


def split_axis(mesh: Mesh, axis: int) -> NamedSharding:
    """That axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))
