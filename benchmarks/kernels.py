"""Finds the most expensive kernels of a program with JAX's profiler."""

import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from jax.profiler import ProfileData

SHOWN = 20
# These events contain those that they call, which have their own events.
_CALLERS = re.compile(r"(while|conditional|call)\b")
_NAMED = re.compile(r'^\s+(?:ROOT )?%?([\w.-]+) = .*\bop_name="([^"]*)"', re.MULTILINE)


def profile(run: Callable[[], Any], steps: int, hlo: str) -> dict[str, Any]:
    """Runs a compiled program under the profiler; returns its `summary`.

    Args:
        run: starts a step and returns arrays to wait for.
        steps: number of steps.
        hlo: text of the program, from `jax.stages.Compiled.as_text()`.
    """
    with tempfile.TemporaryDirectory() as folder:
        jax.profiler.start_trace(folder)
        try:
            for _ in range(steps):
                result = run()
            jax.block_until_ready(result)
        finally:
            jax.profiler.stop_trace()
        return summary(Path(folder), steps, hlo)


def summary(folder: Path, steps: int, hlo: str) -> dict[str, Any]:
    """Returns the most expensive kernels of a trace.

    Args:
        folder: folder of the trace.
        steps: number of traced steps.
        hlo: text of the program.

    Returns:
        `steps`; `kernel_seconds_per_step`, the sum over all kernels (on CPU, over threads), and
        `kernels`, the `SHOWN` most expensive ones: `name`, `seconds_per_step`, `calls_per_step`,
        `share` of the sum and `operation`, its name in JAX, or None if unknown.
    """
    seconds, calls, instructions = _totals(folder)
    operations = {_as_kernel(name): operation for name, operation in _NAMED.findall(hlo)}
    total = sum(seconds.values())
    return {
        "steps": steps,
        "kernel_seconds_per_step": total / steps,
        "kernels": [
            {
                "name": name,
                "seconds_per_step": spent / steps,
                "calls_per_step": calls[name] / steps,
                "share": spent / total,
                "operation": operations.get(instructions[name]) or operations.get(_as_kernel(name)),
            }
            for name, spent in sorted(seconds.items(), key=lambda pair: -pair[1])[:SHOWN]
        ],
    }


def lines(found: dict[str, Any]) -> list[str]:
    """Formats the result of `profile` as a Markdown table."""
    rows = [
        f"| {1e3 * each['seconds_per_step']:.3f} | {100 * each['share']:.1f} % "
        f"| {each['calls_per_step']:g} | `{each['name'][:70]}` | {each['operation'] or ''} |"
        for each in found["kernels"]
    ]
    total = f"All kernels: {1e3 * found['kernel_seconds_per_step']:.2f} ms per step."
    head = ["| ms per step | share | calls | kernel | operation |", "|---|---|---|---|---|"]
    return [total, "", *head, *rows]


def _totals(folder: Path) -> tuple[dict[str, float], Counter[str], dict[str, str]]:
    """Returns seconds, calls and instruction per kernel."""
    seconds: dict[str, float] = defaultdict(float)
    calls = Counter[str]()
    instructions: dict[str, str] = {}
    for path in sorted(folder.rglob("*.xplane.pb")):
        for name, duration, instruction in _kernels(ProfileData.from_file(str(path))):
            seconds[name] += duration
            calls[name] += 1
            instructions.setdefault(name, _as_kernel(instruction))
    return seconds, calls, instructions


def _kernels(data: ProfileData) -> Iterator[tuple[str, float, str]]:
    """Yields name, seconds and HLO instruction of each kernel that ran.

    A GPU has a plane with one line per stream, a TPU a plane with a line of operations. On CPU,
    kernels are those events of the host's threads that state an instruction; with a device, such
    events are the host's part in starting them.
    """
    planes = list(data.planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:")]
    for plane in devices or planes:
        lines = list(plane.lines)
        if devices:
            streams = [line for line in lines if line.name.startswith("Stream")]
            lines = streams or [line for line in lines if line.name == "XLA Ops"]
        for line in lines:
            for event in line.events:
                instruction = str(dict(event.stats).get("hlo_op", ""))
                if (devices or instruction) and not _CALLERS.match(event.name):
                    yield event.name, event.duration_ns / 1e9, instruction


def _as_kernel(instruction: str) -> str:
    """Converts the name of an instruction to the name of its kernel."""
    return re.sub(r"[.-]", "_", instruction)
