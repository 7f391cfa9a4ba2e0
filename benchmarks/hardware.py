"""Counts what a compiled program computes and moves, and compares it with the device's peaks."""

import re
from typing import NamedTuple

import jax

from nsneg_jax.planning.flops import flops_of
from nsneg_jax.planning.hlo import array_bytes

_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\(([^)]*)\)")
_OPERAND = re.compile(r"%([\w.-]+)")


class Peak(NamedTuple):
    """The peaks of a device.

    Attributes:
        flops: FLOP/s of dense matrix products in bfloat16, or in float16 without bfloat16.
        bandwidth: bytes/s between the processor and its memory.
    """

    flops: float
    bandwidth: float


# By JAX's device_kind, from NVIDIA's data sheets. For newer devices these state FLOP/s with
# sparsity, twice these figures.
PEAKS = {
    "NVIDIA H200": Peak(989e12, 4.8e12),
    "NVIDIA H200 NVL": Peak(835e12, 4.8e12),
    "NVIDIA H100 80GB HBM3": Peak(989e12, 3.35e12),  # SXM
    "NVIDIA H100 NVL": Peak(835e12, 3.9e12),
    "NVIDIA H100 PCIe": Peak(756e12, 2.0e12),
    "NVIDIA A100-SXM4-80GB": Peak(312e12, 2.039e12),
    "NVIDIA A100-SXM4-40GB": Peak(312e12, 1.555e12),
    "NVIDIA A100 80GB PCIe": Peak(312e12, 1.935e12),
    "NVIDIA A100-PCIE-40GB": Peak(312e12, 1.555e12),
    "NVIDIA L4": Peak(121e12, 0.3e12),
    "Tesla V100-SXM2-16GB": Peak(125e12, 0.9e12),
    "Tesla V100-SXM2-32GB": Peak(125e12, 0.9e12),
    "Tesla V100-PCIE-16GB": Peak(112e12, 0.9e12),
    "Tesla V100-PCIE-32GB": Peak(112e12, 0.9e12),
}


class Work(NamedTuple):
    """The work of one run of a program on all devices together.

    Attributes:
        flops: FLOPs of matrix products and convolutions, see `flops_of`.
        bytes: bytes read and written by the compiled program's kernels, by XLA's count, and by the
            libraries that it calls, each array once; None if XLA gives no count.
    """

    flops: float
    bytes: float | None


def work_of(traced: jax.stages.Traced, compiled: jax.stages.Compiled, devices: int) -> Work:
    """Counts the work of a program on that many devices."""
    cost = compiled.cost_analysis() or {}
    cost = cost[0] if isinstance(cost, list) else cost
    moved = cost.get("bytes accessed")
    if moved is not None:
        moved = devices * (moved + library_bytes(compiled.as_text() or ""))
    return Work(flops_of(traced.jaxpr), moved)


def library_bytes(hlo: str) -> int:
    """Returns the bytes of operands and results in a compiled program's calls to libraries.

    Args:
        hlo: text from `jax.stages.Compiled.as_text()`. A call in a loop counts once.
    """
    sizes: dict[str, int] = {}
    calls = []
    for line in hlo.splitlines():
        if found := _INSTRUCTION.match(line):
            name, shape, opcode, operands = found.groups()
            sizes[name] = array_bytes(shape)
            if opcode == "custom-call":
                calls.append((name, *_OPERAND.findall(operands)))
    return sum(sizes.get(name, 0) for call in calls for name in call)


def rates(work: Work, seconds: float, device_kind: str, devices: int) -> dict[str, float | None]:
    """Returns the rates per second, on all devices together, and their share of the peaks."""
    peak = PEAKS.get(device_kind)

    def share(amount: float | None, most: float | None) -> float | None:
        return amount / seconds / (devices * most) if amount and most else None

    return {
        "flops_per_step": work.flops,
        "bytes_per_step": work.bytes,
        "flops_per_second": work.flops and work.flops / seconds,
        "bytes_per_second": work.bytes and work.bytes / seconds,
        "share_of_peak_flops": share(work.flops, peak and peak.flops),
        "share_of_peak_bandwidth": share(work.bytes, peak and peak.bandwidth),
    }
