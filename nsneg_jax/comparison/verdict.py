"""The answer to whether negatives help: a rule that was fixed before any result.

For a variant, the *gain* of a test picture is how much more often it is recognised than by MoCo,
averaged over the seeds and over the columns in which shapes are kept. The mean gain has an interval
for two sources of chance: the seeds of the training, and which pictures are in the test.

* yes: the interval lies above 0.
* no: the interval lies below 0, or its upper end below the margin of one point.
* undecided: anything else; also if neither encoder is five points above chance on clean pictures,
  because then nothing has been learnt that negatives could change.

The interval is the 90 % one, so that 'yes' and 'no' are each a test at the level of 5 % (two
one-sided tests, Schuirmann 1987).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

LEVEL = 0.9
MARGIN = 1.0  # points of top-1: less of a gain is none
LEAST_LEARNT = 5.0  # points above chance

YES, NO, UNDECIDED = "yes", "no", "undecided"


class Gain(NamedTuple):
    """A mean difference in points of top-1, and its interval.

    Attributes:
        mean: mean difference.
        low, high: ends of the interval; infinite with one seed.
        by_seed: mean difference of each seed.
    """

    mean: float
    low: float
    high: float
    by_seed: tuple[float, ...]


def gain(ours: np.ndarray, theirs: np.ndarray) -> Gain:
    """Returns the mean difference of paired runs on the same pictures, with its interval.

    The squared standard error is the sum of two. Seeds: the variance of the differences of pairs,
    over their number. Pictures: the variance of their gains, over their number, with the four
    halves that Agresti and Min (2005) add to the table of matched answers, without which no
    difference on a few pictures would count as a certain one. The quantile is Student's, with the
    degrees of freedom of Welch and Satterthwaite. Both variances contain the chance of single
    pictures in single runs, so the interval is slightly too wide rather than too narrow.

    Args:
        ours, theirs: float [seeds, N], in [0, 1]: whether each picture is recognised, or in which
            share of its versions; row i of both has the same seed, column j the same picture.

    Raises:
        ValueError: the shapes differ, or there are no pictures.
    """
    if ours.shape != theirs.shape or ours.ndim != 2 or not ours.size:
        raise ValueError(f"shapes {ours.shape} and {theirs.shape} are no pairs")
    differences = ours - theirs
    seeds, pictures = differences.shape
    by_seed = differences.mean(axis=1)
    mean = float(by_seed.mean())
    points = tuple(float(100 * each) for each in by_seed)
    if seeds < 2:
        return Gain(100 * mean, -math.inf, math.inf, points)
    of_seeds = float(by_seed.var(ddof=1)) / seeds
    gains = differences.mean(axis=0)
    padded = pictures + 2
    spread = (float((gains**2).sum()) + 1) / padded - (float(gains.sum()) / padded) ** 2
    of_pictures = spread / padded
    freedom = (of_seeds + of_pictures) ** 2 / (
        of_seeds**2 / (seeds - 1) + of_pictures**2 / (padded - 1)
    )
    reach = float(special.stdtrit(freedom, (1 + LEVEL) / 2)) * math.sqrt(of_seeds + of_pictures)
    return Gain(100 * mean, 100 * (mean - reach), 100 * (mean + reach), points)


def mean_over_columns(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the mean of arrays [seeds, N] over columns, each of which counts the same."""
    return np.mean(np.stack(columns), axis=0)


def answer(of: Gain) -> str:
    """Returns 'yes', 'no' or 'undecided' for the gain over the columns that keep shapes."""
    if of.low > 0:
        return YES
    if of.high < MARGIN:  # an interval below 0 is below the margin, too
        return NO
    return UNDECIDED
