"""What a comparison can afford: pictures, steps, variants and seeds for a budget of time."""

import heapq
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from nsneg_jax.comparison.variants import Compared
from nsneg_jax.errors import UsageError

# Sides in pixels, from the first that is tried.
SIDES = {False: (32, 48, 64, 96), True: (64, 96, 128)}

LONG = 4000  # steps from which the built-in shapes show a difference (docs/claim.md)

_LARGER_FROM = 6000  # steps that must be left at a larger side, or with more seeds
_ALL_FROM = LONG  # steps below which further variants are left out
_LEAST = 300  # steps below which nothing is trained
_MOST_SEEDS, _SEEDS, _LEAST_SEEDS = 5, 3, 2
_MOST_EPOCHS, _MOST_STEPS = 400, 12_000  # whichever is more
# Of the time that is left, what the runs may take: other programs may slow them down.
_SHARE = 0.85
_PAGE = 20.0  # seconds to keep for the page
_BATCH, _SMALLEST_BATCH, _QUEUE = 96, 8, 1000
_UNITS = {"h": 3600, "m": 60, "s": 1}


@dataclass(frozen=True)
class Sizes:
    """What depends on the number of training pictures.

    Attributes:
        batch: images per step.
        queue: keys in MoCo's queue.
        per_epoch: steps per epoch.
    """

    batch: int
    queue: int
    per_epoch: int


class Measured(NamedTuple):
    """What a short run without and one with negatives took.

    Attributes:
        step: seconds per step, by variant, the one with negatives last.
        rest: seconds of a whole run apart from its steps, by variant: starts, compilation, probe
            and evaluation.
    """

    step: Mapping[str, float]
    rest: Mapping[str, float]

    def seconds(self, variant: str, steps: int) -> float:
        """Returns the seconds of a run; alpha makes no difference."""
        known = variant if variant in self.step else list(self.step)[-1]
        return self.rest[known] + steps * self.step[known]

    def scaled(self, factor: float) -> "Measured":
        """Returns an estimate for pictures of `factor` times the pixels."""
        return Measured({name: factor * each for name, each in self.step.items()}, self.rest)


@dataclass(frozen=True)
class Plan:
    """The runs of a comparison.

    Attributes:
        variants: names of variants: the one without negatives, the one that the answer is about,
            and others.
        seeds: seeds of each.
        side: side of the pictures in pixels.
        epochs, steps: length of each pre-training.
        seconds: expected time of all runs.
    """

    variants: tuple[str, ...]
    seeds: tuple[int, ...]
    side: int
    epochs: int
    steps: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Plan":
        """Makes a plan of what `to_json` returned, also after JSON."""
        lists = {name: tuple(fields[name]) for name in ("variants", "seeds")}
        return cls(**{**fields, **lists})


def budget(text: str) -> float:
    """Reads a time such as '90s', '20m', '1h' or '1h30m'; returns seconds.

    Raises:
        UsageError: it is none, or shorter than a minute.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([hms])", text)
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if not parts or "".join(number + unit for number, unit in parts) != text or seconds < 60:
        raise UsageError(
            f"--budget is {text!r}, but must be a time of at least a minute, such as 20m, 1h or "
            "1h30m."
        )
    return seconds


def sizes(train: int, keys: int = 1) -> Sizes:
    """Returns batch, queue and steps per epoch for a number of training pictures.

    The queue holds at most a quarter of the pictures, and at least the keys of a step.

    Args:
        train: training pictures.
        keys: keys per image that a step enqueues.
    """
    batch = min(_BATCH, max(_SMALLEST_BATCH, train // 4 // 8 * 8))
    queue = min(_QUEUE, max(batch, keys * batch, train // 4))
    return Sizes(batch, queue, train // batch)


def makespan(durations: Sequence[float], processes: int) -> float:
    """Returns the time of runs that start in this order on the first free of some processes."""
    free = [0.0] * processes
    for duration in durations:
        heapq.heappush(free, heapq.heappop(free) + duration)
    return max(free)


def choose(
    compared: Compared,
    measured: Measured,
    left: float,
    processes: int,
    per_epoch: int,
    side: int,
) -> Plan | None:
    """Chooses variants, seeds and length for pictures of one size.

    Three seeds of all variants; all but the first two are left out where these would get fewer than
    4,000 steps, then the third seed where no 300 remain. Five seeds if these get 6,000 steps and
    more.

    Args:
        compared: the method's variants.
        measured: what runs at this size take.
        left: seconds until the end of the budget.
        processes: runs at a time.
        per_epoch: steps per epoch.
        side: side of the pictures.

    Returns:
        The plan; None if nothing fits.
    """
    most = max(_MOST_EPOCHS * per_epoch, _MOST_STEPS) // per_epoch
    time = _SHARE * max(0.0, left - _PAGE)

    def fitting(variants: Sequence[str], seeds: int) -> Plan | None:
        runs = [variant for _ in range(seeds) for variant in variants]

        def needed(epochs: int) -> float:
            each = [measured.seconds(variant, epochs * per_epoch) for variant in runs]
            return makespan(each, processes)

        low, high = 0, most
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if needed(middle) <= time else (low, middle - 1)
        if low == 0:
            return None
        seconds = needed(low)
        return Plan(tuple(variants), tuple(range(seeds)), side, low, low * per_epoch, seconds)

    main = (compared.baseline, compared.main)
    for variants, seeds, least in (
        (compared.all, _MOST_SEEDS, _LARGER_FROM),
        (compared.all, _SEEDS, _ALL_FROM),
        (main, _SEEDS, _LEAST),
        (main, _LEAST_SEEDS, _LEAST),
    ):
        plan = fitting(variants, seeds)
        if plan is not None and plan.steps >= min(least, most * per_epoch):
            return plan
    return None


def largest_side(
    compared: Compared,
    measured: Measured,
    left: float,
    processes: int,
    per_epoch: int,
    sides: Sequence[int],
) -> int:
    """Returns the largest side at which all variants are expected to get 6,000 steps, or the first.

    Args:
        compared: the method's variants.
        measured: at the first of `sides`.
        left, processes, per_epoch: see `choose`.
        sides: sides in pixels, rising.
    """
    found = sides[0]
    for side in sides[1:]:
        scaled = measured.scaled((side / sides[0]) ** 2)
        plan = choose(compared, scaled, left, processes, per_epoch, side)
        if plan is not None and plan.variants == compared.all and plan.steps >= _LARGER_FROM:
            found = side
    return found


def caution(plan: Plan) -> str:
    """Returns what to know about an answer of short trainings; '' for others."""
    if plan.steps >= LONG:
        return ""
    return (
        f"These trainings are short: on the built-in shapes {LONG:,} steps show a difference that "
        f"{plan.steps:,} may not show yet, whatever the answer. Another comparison with a larger "
        "--budget makes them longer."
    )


def too_small(measured: Measured, processes: int, per_epoch: int) -> UsageError:
    """Returns the error for a budget in which nothing fits, with the smallest that would do."""
    steps = math.ceil(_LEAST / per_epoch) * per_epoch
    runs = [measured.seconds(v, steps) for _ in range(_LEAST_SEEDS) for v in measured.step]
    minutes = math.ceil((makespan(runs, processes) / _SHARE + _PAGE) / 60)
    return UsageError(
        f"The budget is too small: two seeds of {_LEAST} steps with and without negatives take "
        f"some {minutes} minutes more on this machine. Give a larger --budget; what was measured "
        "stays in the workdir."
    )
