"""Absent accelerators to compile for: their names, devices and data sheets.

A target is a kind of chip and a number: 'h100:8' is eight H100 in one host, 'h100:16' is two such
hosts, 'v5e:2x4' is a TPU slice by its topology. The compilers need no accelerator; each comes with
JAX's package for its chip.
"""

import importlib.util
import re
from typing import NamedTuple

import jax

from nsneg_jax.errors import UsageError

_GPUS_PER_HOST = 8


class Chip(NamedTuple):
    """A kind of chip.

    Attributes:
        title: full name.
        package: name of the compiler's package for pip; `module` is its module.
        memory: memory of a chip in bytes.
        bandwidth: bandwidth of the memory in bytes/s.
        flops: peak FLOP/s of matrix products by dtype, at JAX's default precision.
    """

    title: str
    package: str
    module: str
    memory: float
    bandwidth: float
    flops: dict[str, float]


def _tpu(title: str, memory: float, bandwidth: float, flops: float) -> Chip:
    # At JAX's default precision, TPUs multiply float32 as bfloat16.
    rates = {"bfloat16": flops, "float32": flops}
    return Chip(title, "jax[tpu]", "libtpu", memory, bandwidth, rates)


CHIPS = {
    # NVIDIA H100 Tensor Core GPU data sheet, SXM: dense rates, which are half of those with
    # sparsity (1,979 TFLOP/s bfloat16, 989 TF32); JAX's default for float32 is TF32
    "h100": Chip(
        "NVIDIA H100 SXM",
        "jax[cuda13]",
        "jax_cuda13_plugin",
        80e9,
        3.35e12,
        {"bfloat16": 989.4e12, "float32": 494.7e12, "float64": 66.9e12},
    ),
    # Google Cloud's pages docs.cloud.google.com/tpu/docs/v4, v5e, v5p and v6e
    "v4": _tpu("TPU v4", 32e9, 1.2e12, 275e12),
    "v5e": _tpu("TPU v5e", 16e9, 819e9, 197e12),
    "v5p": _tpu("TPU v5p", 95e9, 2.765e12, 459e12),
    "v6e": _tpu("TPU v6e", 32e9, 1.638e12, 918e12),
}

# What XLA would ask a card for: the properties of CUDA's device 'NVIDIA H100 80GB HBM3'.
_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84929347584
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  cuda_compute_capability { major: 9 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 13 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


class Target(NamedTuple):
    """Chips to compile for: `kind`, a key of `CHIPS`, and their number or topology."""

    kind: str
    topology: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.topology}"

    @property
    def chip(self) -> Chip:
        return CHIPS[self.kind]

    @property
    def chips(self) -> int:
        """Number of chips."""
        count = 1
        for size in self.topology.split("x"):
            count *= int(size)
        return count

    def share(self, devices: int) -> float:
        """Returns the fraction of a chip per device: a half if its two cores are devices."""
        return self.chips / devices

    @property
    def install(self) -> str:
        """The command that installs the compiler."""
        return f"pip install '{self.chip.package}=={jax.__version__}' -r requirements.txt"

    @property
    def is_installed(self) -> bool:
        """Returns whether the compiler is installed."""
        return importlib.util.find_spec(self.chip.module) is not None

    def check_installed(self) -> None:
        """Raises UsageError if the compiler is not installed."""
        if not self.is_installed:
            raise UsageError(
                f"The compiler for {self} is not installed here. Install it, best in a separate "
                f"environment, with {self.install}; no accelerator is needed."
            )

    def environment(self) -> dict[str, str]:
        """Returns the environment variables of a compiling process, to be set before JAX starts."""
        variables = {
            "JAX_PLATFORMS": "cpu",
            "JAX_ENABLE_COMPILATION_CACHE": "false",
            "TF_CPP_MIN_LOG_LEVEL": "1",
        }
        if self.kind == "h100":
            return variables
        # Else libtpu queries Google Cloud about this machine, and waits for its other users.
        return variables | {
            "TPU_SKIP_MDS_QUERY": "1",
            "TPU_WORKER_HOSTNAMES": "localhost",
            "TPU_WORKER_ID": "0",
            "TPU_ACCELERATOR_TYPE": "v5litepod-8",
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        }

    def devices(self) -> list[jax.Device]:
        """Returns devices to compile for, which cannot run anything; needs `environment` set.

        Raises:
            UsageError: there is no such topology.
        """
        from jax.experimental import topologies

        try:
            if self.kind == "h100":
                per_host = min(self.chips, _GPUS_PER_HOST)
                return topologies.get_topology_desc(
                    "h100",
                    "cuda",
                    target_config=_H100,
                    topology=f"1x{self.chips // per_host}x{per_host}",
                ).devices
            # Chips per host in three directions; a single chip is less than a host.
            bounds = {"chips_per_host_bounds": (1, 1, 1)} if self.chips == 1 else {}
            return topologies.get_topology_desc(
                platform="tpu", topology_name=str(self), **bounds
            ).devices
        except jax.errors.JaxRuntimeError as error:
            raise UsageError(
                f"There are no chips {self}: {' '.join(str(error).split())}. Give a topology that "
                "the chips come in, such as v5e:2x4, v5p:2x2x2 or v4:2x2x1."
            ) from error


def read_target(text: str) -> Target:
    """Parses the name of a target.

    Raises:
        UsageError: the name is invalid.
    """
    kind, _, topology = text.partition(":")
    if kind not in CHIPS:
        raise UsageError(
            f"The target is {text!r}, but must begin with one of {', '.join(CHIPS)}, as in h100:8 "
            "or v5e:2x4."
        )
    pattern = r"[1-9]\d*" if kind == "h100" else r"[1-9]\d*(x[1-9]\d*)+"
    if not re.fullmatch(pattern, topology):
        form = "the number of cards, as in h100:8"
        if kind != "h100":
            form = f"a topology, as in {kind}:{'2x4' if kind in ('v5e', 'v6e') else '2x2x1'}"
        raise UsageError(f"The target is {text!r}, but after {kind}: must come {form}.")
    target = Target(kind, topology)
    if kind == "h100" and target.chips > _GPUS_PER_HOST and target.chips % _GPUS_PER_HOST:
        raise UsageError(
            f"The target is {text!r}, but more than {_GPUS_PER_HOST} cards must be whole hosts of "
            f"{_GPUS_PER_HOST}."
        )
    return target
