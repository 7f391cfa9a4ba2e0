"""Differences between rows of the report, paired by seed."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from nsneg_jax.errors import UsageError
from nsneg_jax.report.rows import Figure, Row


class Difference(NamedTuple):
    """Mean over `pairs` pairs of runs, and its standard error if there are two or more."""

    mean: float
    error: float | None
    pairs: int

    @property
    def clear(self) -> bool:
        """Whether the mean is more than two standard errors from zero."""
        return self.error is not None and abs(self.mean) > 2 * self.error


def differences(rows: Sequence[Row], baseline: str) -> dict[str, dict[str, Difference]]:
    """Returns the differences of each row from the row `baseline`, by row and column.

    Runs are paired by the seed of their pre-training, which cancels the seed's common effects (the
    order of the images, the initial weights). Columns without a pair are left out.

    Args:
        rows: rows from `rows.pool`.
        baseline: name of one of the rows.

    Raises:
        UsageError: there is no such row.
    """
    named = {row.name: row for row in rows}
    if baseline not in named:
        raise UsageError(
            f"There is no row {baseline!r} to compare with. Give one of "
            f"{', '.join(map(repr, named))}, or add the runs of that row."
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
    """Returns figures by seed, of runs that do not share theirs; a mean would hide the spread."""
    values: dict[int, list[float]] = {}
    for figure in figures:
        seed = figure.result.content.get("encoder_seed")
        if isinstance(seed, int):
            values.setdefault(seed, []).append(figure.value)
    return {seed: ones[0] for seed, ones in values.items() if len(ones) == 1}


def _difference(pairs: Sequence[float]) -> Difference:
    error = statistics.stdev(pairs) / math.sqrt(len(pairs)) if len(pairs) > 1 else None
    return Difference(statistics.fmean(pairs), error, len(pairs))
