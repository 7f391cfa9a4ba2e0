"""What fits into a budget."""

import pytest

from nsneg_jax.comparison import planning
from nsneg_jax.comparison.planning import Measured, Plan, choose, largest_side, makespan, sizes
from nsneg_jax.comparison.variants import METHODS
from nsneg_jax.errors import UsageError

MOCO = METHODS["moco"]
COSTS = Measured({"moco": 0.1, "patch2": 0.2}, {"moco": 30.0, "patch2": 40.0})


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("20m", 1200), ("1h", 3600), ("1h30m", 5400), ("1.5h", 5400)]
)
def test_budget(text, seconds):
    assert planning.budget(text) == seconds


@pytest.mark.parametrize("text", ["", "20", "h", "20 m", "1d", "30s", "20m!", "-1h"])
def test_budgets_that_are_none(text):
    with pytest.raises(UsageError, match="--budget is"):
        planning.budget(text)


def test_runs_start_in_order_on_what_is_free():
    assert makespan([3, 1, 1, 1], 2) == 3
    assert makespan([1, 1, 3], 2) == 4
    assert makespan([1, 2], 1) == 3


@pytest.mark.parametrize("minutes", [12, 20, 60, 240])
def test_a_plan_fits_and_the_next_epoch_would_not(minutes):
    left = 60 * minutes
    plan = choose(MOCO, COSTS, left, 2, 41, 32)
    assert plan.steps == 41 * plan.epochs
    runs = [v for _ in plan.seeds for v in plan.variants]
    time = makespan([COSTS.seconds(v, plan.steps) for v in runs], 2)
    assert time == pytest.approx(plan.seconds)
    allowed = 0.85 * (left - 20)
    longer = makespan([COSTS.seconds(v, plan.steps + 41) for v in runs], 2)
    assert time <= allowed < longer


def test_what_is_left_out_as_the_budget_shrinks():
    plans = [choose(MOCO, COSTS, 60 * minutes, 2, 41, 32) for minutes in (300, 90, 60, 6, 2)]
    whole = ("moco", "patch2", "patch1")
    assert [plan and (plan.variants, len(plan.seeds)) for plan in plans] == [
        (whole, 5),
        (whole, 3),
        (whole[:2], 3),
        (whole[:2], 2),
        None,
    ]


def test_short_trainings_are_called_so():
    plans = [choose(MOCO, COSTS, 60 * minutes, 2, 41, 32) for minutes in (20, 90)]
    assert [bool(planning.caution(plan)) for plan in plans] == [True, False]
    assert f"{plans[0].steps:,}" in planning.caution(plans[0])


def test_a_budget_too_small_names_one_that_does():
    error = str(planning.too_small(COSTS, 2, 41))
    minutes = next(int(word) for word in error.split() if word.isdigit() and word != "300")
    assert choose(MOCO, COSTS, 60 * minutes, 2, 41, 32) is not None
    assert choose(MOCO, COSTS, 60 * (minutes - 1), 2, 41, 32) is None


def test_larger_pictures_once_there_is_time():
    found = [largest_side(MOCO, COSTS, 3600 * hours, 2, 41, (32, 48, 64)) for hours in (1, 8, 40)]
    assert found == sorted(found) and found[0] == 32 and found[-1] == 64


@pytest.mark.parametrize("keys", [0, 1, 2])
@pytest.mark.parametrize("train", [8, 30, 70, 200, 500, 4000, 20_000])
def test_sizes_suit_the_pictures(train, keys):
    found = sizes(train, keys)
    assert 8 <= found.batch <= 96 and found.batch % 8 == 0
    least = max(1, keys) * found.batch
    assert least <= found.queue <= max(least, train // 4)
    assert found.per_epoch == train // found.batch >= 1


def test_a_plan_survives_json():
    plan = Plan(("moco", "patch2"), (0, 1), 32, 5, 205, 12.5)
    assert (
        Plan.from_json(
            {k: list(v) if isinstance(v, tuple) else v for k, v in plan.to_json().items()}
        )
        == plan
    )
