"""The rule of the answer, by differences whose answer is known."""

import math

import numpy as np
import pytest
from scipy import stats

from nsneg_jax.comparison.verdict import MARGIN, answer, gain


def outcomes(rates, pictures=1000, seed=0):
    """Whether pictures are recognised, bool [seeds, N], at these rates."""
    rng = np.random.default_rng(seed)
    return (rng.random((len(rates), pictures)) < np.array(rates)[:, None]).astype(float)


def test_gain_by_hand():
    """Two seeds on four pictures: pairs differ by 0.5 and 0.25."""
    theirs = np.array([[0, 0, 1, 1], [0, 1, 0, 1.0]])
    ours = np.array([[1, 1, 1, 1], [0, 1, 1, 1.0]])
    found = gain(ours, theirs)
    assert found.mean == pytest.approx(37.5) and found.by_seed == (50, 25)
    seeds = (0.125**2 + 0.125**2) / 1 / 2
    gains = np.array([0.5, 0.5, 0.5, 0])
    pictures = ((gains**2).sum() + 1) / 6 - (gains.sum() / 6) ** 2
    pictures /= 6
    freedom = (seeds + pictures) ** 2 / (seeds**2 / 1 + pictures**2 / 5)
    reach = stats.t.ppf(0.95, freedom) * math.sqrt(seeds + pictures)
    assert found.low == pytest.approx(37.5 - 100 * reach)
    assert found.high == pytest.approx(37.5 + 100 * reach)


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        ([0.60, 0.61, 0.59], [0.50, 0.50, 0.50], "yes"),
        ([0.40, 0.41, 0.39], [0.50, 0.50, 0.50], "no"),
        ([0.75, 0.45, 0.60], [0.50, 0.55, 0.45], "undecided"),  # seeds disagree
        ([0.52, 0.52, 0.52], [0.50, 0.50, 0.50], "undecided"),  # too few pictures for 2 points
    ],
)
def test_answers(ours, theirs, said):
    assert answer(gain(outcomes(ours), outcomes(theirs, seed=1))) == said


def test_no_difference_on_many_pictures_is_no():
    right = outcomes([0.9] * 3, 20_000)
    found = gain(right, right)
    assert found.mean == 0 and 0 < found.high < MARGIN
    assert answer(found) == "no"


def test_no_difference_on_few_pictures_is_undecided():
    right = np.ones((3, 20))
    assert answer(gain(right, right)) == "undecided"


def test_one_seed_is_undecided():
    found = gain(outcomes([0.9]), outcomes([0.1], seed=1))
    assert found.mean > 70 and math.isinf(found.high)
    assert answer(found) == "undecided"


def test_interval_covers_at_its_level():
    """Of 400 comparisons without a difference, about 5 % may say yes, and 5 % less than 0."""
    rng = np.random.default_rng(5)
    above = below = 0
    for seed in range(400):
        rates = 0.5 + rng.normal(0, 0.03, (2, 3))  # the seeds' own spread
        found = gain(outcomes(rates[0], 500, seed), outcomes(rates[1], 500, seed + 1000))
        above += found.low > 0
        below += found.high < 0
    assert above <= 28 and below <= 28  # 20 expected, two standard deviations are 8.7


def test_shapes_that_are_no_pairs_are_refused():
    with pytest.raises(ValueError, match="no pairs"):
        gain(np.ones((3, 5)), np.ones((2, 5)))
