"""Measures how our input pipeline scales with threads and with worker processes."""

import contextlib
import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks import input_profile
from benchmarks.input_profile import Batches
from nsneg_jax.errors import UsageError
from nsneg_jax.input.loading import Loaders

_TURNS = 3
_WARM_UP = 4  # batches; more than are loaded ahead
_PROFILED_SECONDS = 10.0
_ORDERED = 50  # batches whose order is timed

Make = Callable[[Loaders], Batches]


def scaling(
    make: Make, order: Sequence[np.ndarray], batch_size: int, seconds: float
) -> list[dict[str, object]]:
    """Measures 1, 2, 4 ... threads and workers, up to four per processor, in turns.

    Args:
        make: makes our batches for given loaders.
        order: which images each batch has; it is drawn by this process, whatever loads them.
        batch_size: images per batch.
        seconds: time to measure for, over all.

    Returns:
        Per number of threads or workers: images per second and processor time per image of all
        processes; with workers the processor time per image of this process alone, and what is
        left of it without drawing the order, which is the hand-over; with threads the time that an
        image holds Python's lock, where py-spy is installed.
    """
    ordering = _order_ms(order) / batch_size
    counts = list(itertools.takewhile(lambda n: n <= 4 * (os.cpu_count() or 1), _doubling()))
    cases = [Loaders(threads=n, workers=0) for n in counts]
    cases += [Loaders(threads=1, workers=n) for n in counts]
    turn_seconds = seconds / (_TURNS * len(cases))
    measured: dict[Loaders, list[tuple[float, float, float]]] = {case: [] for case in cases}
    for _ in range(_TURNS):
        for case in cases:
            measured[case].append(_measure(make(case), batch_size, turn_seconds))
    found: list[dict[str, object]] = []
    for case, turns in measured.items():
        speed, everyone, parent = (statistics.median(column) for column in zip(*turns, strict=True))
        row: dict[str, object] = {
            "workers" if case.workers else "threads": case.workers or case.threads,
            "images_per_second": round(speed, 1),
            "cpu_ms_per_image": round(everyone, 3),
        }
        if case.workers:
            row["parent_ms_per_image"] = round(parent, 3)
            row["hand_over_ms_per_image"] = round(parent - ordering, 3)
        elif case.threads in (counts[0], os.cpu_count()):
            row["lock_ms_per_image"] = _lock(make(case), batch_size)
        found.append(row)
    return found


def table(rows: list[dict[str, object]]) -> str:
    """Formats the rows as a table in Markdown."""
    names = ["images_per_second", "cpu_ms_per_image", "parent_ms_per_image"]
    names += ["hand_over_ms_per_image", "lock_ms_per_image"]
    lines = [
        "| | images/s | processor time | of the parent | hand-over | holds the lock |",
        "|---|" + "---|" * 5,
    ]
    for row in rows:
        kind = "workers" if "workers" in row else "threads"
        cells = [f"{row[kind]} {kind}", *(str(row.get(name, "")) for name in names)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n(times in ms per image)"


def _doubling() -> Iterator[int]:
    return (2**power for power in itertools.count())


def _order_ms(order: Sequence[np.ndarray]) -> float:
    """Returns the milliseconds of processor time that drawing one batch's order takes."""
    order[0]
    start = time.process_time()
    for step in range(1, 1 + _ORDERED):
        order[step]
    return 1000 * (time.process_time() - start) / _ORDERED


def _measure(batches: Batches, batch_size: int, seconds: float) -> tuple[float, float, float]:
    with contextlib.closing(batches):
        for _ in range(_WARM_UP):
            next(batches)
        start, parent, children = time.perf_counter(), time.process_time(), _children_seconds()
        images, elapsed = 0, 0.0
        while elapsed < seconds:
            next(batches)
            images += batch_size
            elapsed = time.perf_counter() - start
        parent = time.process_time() - parent
        children = _children_seconds() - children
    return images / elapsed, 1000 * (parent + children) / images, 1000 * parent / images


def _children_seconds() -> float:
    """Returns the processor time of this process's children that still run (Linux)."""
    ticks = 0
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = file.read_text().rpartition(")")[2].split()
            if int(fields[1]) == os.getpid():
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _lock(batches: Batches, batch_size: int) -> float | None:
    try:
        stages = input_profile.profile(batches, batch_size, _PROFILED_SECONDS)["stages"]
    except UsageError:  # py-spy is not installed
        return None
    return round(sum(stage["lock_ms_per_image"] for stage in stages.values()), 3)
