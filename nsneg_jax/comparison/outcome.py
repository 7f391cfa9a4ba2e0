"""What finished runs of a comparison show: accuracies, gains and the answer, from their files."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any
from zipfile import BadZipFile

import numpy as np

from nsneg_jax.comparison.columns import COLUMNS, CORRUPTIONS
from nsneg_jax.comparison.runs import Run, folder_of
from nsneg_jax.comparison.variants import VARIANTS, label
from nsneg_jax.comparison.verdict import (
    LEAST_LEARNT,
    LEVEL,
    MARGIN,
    NO,
    UNDECIDED,
    YES,
    Gain,
    answer,
    gain,
    mean_over_columns,
)
from nsneg_jax.errors import UsageError
from nsneg_jax.files import without_nan
from nsneg_jax.report.table import markdown_table
from nsneg_jax.training.workdir import PARTS, RESULTS

ALL = "verdict"  # the mean over the columns that keep shapes, as a column

_SAID = {
    YES: "Yes: patch negatives help on these pictures",
    NO: "No: patch negatives do not help on these pictures",
    UNDECIDED: "Undecided: these runs do not show whether patch negatives help on these pictures",
}


@dataclass(frozen=True)
class Outcome:
    """What the runs of complete seeds show.

    Attributes:
        seeds: seeds of which all variants are finished.
        accuracies: top-1 in %, by variant and column, one per seed; `ALL` is a column, too. The
            first variant has no negatives.
        gains: gains by variant with negatives, and column.
        answers: answers by variant with negatives; the comparison is about the first.
        pictures: number of test pictures.
        chance: share of the largest class among these, in %.
    """

    seeds: tuple[int, ...]
    accuracies: Mapping[str, Mapping[str, tuple[float, ...]]]
    gains: Mapping[str, Mapping[str, Gain]]
    answers: Mapping[str, str]
    pictures: int
    chance: float

    @property
    def baseline(self) -> str:
        """The variant without negatives."""
        return next(iter(self.accuracies))

    @property
    def answer(self) -> str:
        """The answer for the variant that the comparison is about."""
        return next(iter(self.answers.values()))

    @property
    def sentence(self) -> str:
        """The answer as a sentence, with those of other alphas if there are any."""
        alphas = {name: f"{VARIANTS[name].alpha:g}" for name in self.answers}
        main, *others = self.answers
        gain = _shown(self.gains[main][ALL])
        parts = [f"{_SAID[self.answer]} ({label(self.baseline)}, alpha {alphas[main]}: {gain})."]
        parts += [
            f"With alpha {alphas[name]}: {self.answers[name]} ({_shown(self.gains[name][ALL])})."
            for name in others
        ]
        return " ".join(parts)


def complete_seeds(variants: Sequence[str], seeds: Sequence[int], workdir: Path) -> tuple[int, ...]:
    """Returns the seeds of which every variant has been evaluated."""
    return tuple(
        seed
        for seed in seeds
        if all(
            (folder_of(Run(variant, seed), workdir, "test") / RESULTS).exists()
            for variant in variants
        )
    )


def read(variants: Sequence[str], seeds: Sequence[int], workdir: Path) -> Outcome:
    """Reads the runs of some seeds.

    Args:
        variants: the variant without negatives, the one that the comparison is about, others.
        seeds: seeds that are complete, at least one.
        workdir: workdir of the comparison.

    Raises:
        UsageError: the parts of an evaluation are missing or damaged.
    """
    right: dict[str, dict[str, np.ndarray]] = {}
    for variant in variants:
        of_seeds = [correct(folder_of(Run(variant, seed), workdir, "test")) for seed in seeds]
        by_column = {c.name: np.stack([each[c.name] for each in of_seeds]) for c in COLUMNS}
        kept = [by_column[c.name] for c in COLUMNS if c.keeps_shape]
        right[variant] = {ALL: mean_over_columns(kept)} | by_column
    baseline = right[variants[0]]
    chance = _chance(folder_of(Run(variants[0], seeds[0]), workdir, "test"))
    gains = {
        variant: {name: gain(right[variant][name], baseline[name]) for name in baseline}
        for variant in variants[1:]
    }
    return Outcome(
        seeds=tuple(seeds),
        accuracies={
            variant: {
                name: tuple(float(100 * row.mean()) for row in rows)
                for name, rows in by_column.items()
            }
            for variant, by_column in right.items()
        },
        gains=gains,
        answers={
            variant: answer(of[ALL]) if _has_learnt(right[variant], baseline, chance) else UNDECIDED
            for variant, of in gains.items()
        },
        pictures=baseline[ALL].shape[1],
        chance=100 * chance,
    )


def _has_learnt(
    ours: Mapping[str, np.ndarray], baseline: Mapping[str, np.ndarray], chance: float
) -> bool:
    """Returns whether either recognises clean pictures clearly better than chance.

    Two encoders that have learnt nothing do not differ, which says nothing about the negatives.
    """
    best = max(float(right["clean"].mean()) for right in (ours, baseline))
    return best >= chance + LEAST_LEARNT / 100


def correct(evaluation: Path) -> dict[str, np.ndarray]:
    """Returns whether each test picture was recognised, by column, in one order of the pictures.

    Args:
        evaluation: workdir of the evaluate job.

    Returns:
        float [N] each; of the corruptions, the share of versions that were recognised.

    Raises:
        UsageError: a part is missing or damaged.
    """
    found = {
        column.name: _top1(evaluation, column.name)
        for column in COLUMNS
        if column.name != "corruption"
    }
    versions = [_top1(evaluation, f"corruption-{name}-{level}") for name, level in CORRUPTIONS]
    found["corruption"] = np.mean(versions, axis=0)
    return found


def _chance(evaluation: Path) -> float:
    """Returns the share of the largest class among the test pictures."""
    names, _ = _answers(evaluation, "clean")
    classes = [str(name).rpartition("/")[0] for name in names]
    return max(Counter(classes).values()) / len(classes)


def _top1(evaluation: Path, part: str) -> np.ndarray:
    names, right = _answers(evaluation, part)
    return right[np.argsort(names)]


def _answers(evaluation: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the names of the pictures of a part, and whether each was recognised."""
    path = evaluation / PARTS / f"{part}.npz"
    try:
        with np.load(path) as kept:
            return kept["names"], kept["top1"].astype(float)
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise UsageError(
            f"{path} cannot be read: {error}. Remove {evaluation} and run the same command again."
        ) from error


def table(outcome: Outcome) -> list[list[str]]:
    """Returns the table as rows of texts: accuracies, then differences with their intervals."""
    titles = {c.name: c.title for c in COLUMNS} | {ALL: "Verdict"}
    rows = [["", *titles.values()]]
    for variant, columns in outcome.accuracies.items():
        rows.append([label(variant), *(_accuracy(columns[name]) for name in titles)])
    for variant, gains in outcome.gains.items():
        cells = (
            f"{gains[n].mean:+.1f} [{_end(gains[n].low)}, {_end(gains[n].high)}]" for n in titles
        )
        rows.append([f"{label(variant)}: minus {label(outcome.baseline)}", *cells])
    return rows


def markdown(outcome: Outcome) -> str:
    """Returns the table as Markdown, with how to read it."""
    kept = ", ".join(c.title for c in COLUMNS if c.keeps_shape)
    return (
        f"Top-1 in %, mean and deviation over {len(outcome.seeds)} seeds, on {outcome.pictures:,} "
        f"test pictures; differences in points over pairs of one seed, with {LEVEL:.0%} intervals. "
        f"Verdict is the mean of {kept}: yes if its interval lies above 0, no if it ends below "
        f"{MARGIN:g}.\n\n{markdown_table(table(outcome))}"
    )


def plain(outcome: Outcome) -> dict[str, Any]:
    """Returns all figures as plain values for JSON; None for an infinite end of an interval."""
    return without_nan(
        {
            "answer": outcome.answer,
            "sentence": outcome.sentence,
            "answers": dict(outcome.answers),
            "level": LEVEL,
            "margin": MARGIN,
            "verdict_columns": [c.name for c in COLUMNS if c.keeps_shape],
            "chance": outcome.chance,
            "seeds": list(outcome.seeds),
            "test_pictures": outcome.pictures,
            "accuracies": {k: dict(v) for k, v in outcome.accuracies.items()},
            "gains": {
                variant: {name: each._asdict() for name, each in gains.items()}
                for variant, gains in outcome.gains.items()
            },
        }
    )


def _accuracy(values: Sequence[float]) -> str:
    return f"{fmean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def _end(value: float) -> str:
    return f"{value:+.1f}" if np.isfinite(value) else "?"


def _shown(of: Gain) -> str:
    return f"{of.mean:+.1f} points, {LEVEL:.0%} interval {_end(of.low)} to {_end(of.high)}"
