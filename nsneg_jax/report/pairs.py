"""Differences between rows of the report, run against run of the same seed."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from nsneg_jax.errors import UsageError
from nsneg_jax.report.rows import Figure, Row


class Difference(NamedTuple):
    """Mean over `pairs` pairs of runs, and the standard error of that mean if there are two."""

    mean: float
    error: float | None
    pairs: int

    @property
    def clear(self) -> bool:
        """Whether zero is more than two standard errors away."""
        return self.error is not None and abs(self.mean) > 2 * self.error


def differences(rows: Sequence[Row], baseline: str) -> dict[str, dict[str, Difference]]:
    """How much better each row is than the row `baseline`, by row and column.

    Runs are paired by the seed of their pre-training, so that what a seed does to both (the order
    of the images, the initial weights) is not in the difference. Columns without a pair are left
    out.

    Args:
        rows: as `report_rows.pool` gives them.
        baseline: name of one of them.

    Raises:
        UsageError: there is no such row.
    """
    named = {row.name: row for row in rows}
    if baseline not in named:
        raise UsageError(
            f"There is no row {baseline!r} to compare with, only {', '.join(map(repr, named))}. "
            "Give one of these, or the runs of that row too."
        )
    reference = {
        column: _by_seed(figures) for column, figures in named.pop(baseline).figures.items()
    }
    found: dict[str, dict[str, Difference]] = {}
    for name, row in named.items():
        found[name] = {}
        for column, figures in row.figures.items():
            ours, theirs = _by_seed(figures), reference.get(column, {})
            pairs = [value - theirs[seed] for seed, value in ours.items() if seed in theirs]
            if pairs:
                found[name][column] = _difference(pairs)
    return found


def _by_seed(figures: Sequence[Figure]) -> dict[int, float]:
    """The figures of runs whose seed is known and no other's; a mean would hide their spread."""
    values: dict[int, list[float]] = {}
    for figure in figures:
        seed = figure.result.content.get("encoder_seed")
        if isinstance(seed, int):
            values.setdefault(seed, []).append(figure.value)
    return {seed: ones[0] for seed, ones in values.items() if len(ones) == 1}


def _difference(pairs: Sequence[float]) -> Difference:
    error = statistics.stdev(pairs) / math.sqrt(len(pairs)) if len(pairs) > 1 else None
    return Difference(statistics.fmean(pairs), error, len(pairs))
