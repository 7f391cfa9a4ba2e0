"""Error consistency: whether two observers err on the same images, beyond chance.

Geirhos, Meding & Wichmann, "Beyond accuracy: quantifying trial-by-trial behaviour of CNNs and
humans by measuring error consistency", NeurIPS 2020. On cue conflicts an answer is right if it is
the shape.
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product
from pathlib import Path

import numpy as np

from nsneg_jax.errors import UsageError
from nsneg_jax.report.rows import Row

Answers = Mapping[str, bool]  # whether an observer's answer is right, by image

_NEEDED = ("object_response", "category", "imagename")
_CUES = re.compile(r"[a-z]+\d+-[a-z]+\d+(?=\.\w+$)")


def cohens_kappa(one: Sequence[bool], two: Sequence[bool]) -> float | None:
    """Returns Cohen's kappa of right and wrong answers: (c_obs - c_exp) / (1 - c_exp).

    c_obs is the fraction of images that both have right or both have wrong, c_exp what independent
    observers of these accuracies would have.

    Args:
        one, two: bool [N], whether each image's answer is right, of the same images.

    Returns:
        1 for equal answers, 0 for chance; None without images, or if chance alone gives 1.

    Raises:
        ValueError: the numbers of images differ.
    """
    if len(one) != len(two):
        raise ValueError(f"{len(one)} and {len(two)} answers are not for the same images")
    if not len(one):
        return None
    first, second = np.array(one, bool), np.array(two, bool)
    rights = first.mean(), second.mean()
    expected = rights[0] * rights[1] + (1 - rights[0]) * (1 - rights[1])
    return float(((first == second).mean() - expected) / (1 - expected)) if expected < 1 else None


def read_decisions(path: Path) -> dict[str, Answers]:
    """Reads tables of decisions in the form of model-vs-human.

    Args:
        path: a CSV file, or a folder of such files, with the columns object_response, category
            and imagename, and, for several observers, subj.

    Returns:
        The answers by observer. Names of images are without what an experiment put before them.

    Raises:
        UsageError: there is no such file, or it has other columns.
    """
    files = sorted(path.glob("*.csv")) if path.is_dir() else [path]
    if not files:
        raise UsageError(f"There is no CSV file in {path}. Give a folder of tables of decisions.")
    found: dict[str, dict[str, bool]] = {}
    for file in files:
        try:
            with file.open(encoding="utf-8-sig", newline="") as opened:
                rows = list(csv.DictReader(opened, skipinitialspace=True))
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"The decisions {file} cannot be read: {error}.") from error
        lacking = [name for name in _NEEDED if rows and rows[0].get(name) is None]
        if lacking or not rows:
            raise UsageError(
                f"The decisions {file} lack {', '.join(lacking) or 'any row'}. Give tables with "
                "the columns of github.com/bethgelab/model-vs-human: subj, object_response, "
                "category, imagename."
            )
        for row in rows:
            name = row["imagename"].rpartition("/")[2]
            cues = _CUES.search(name)
            answers = found.setdefault(row.get("subj") or file.stem, {})
            answers[cues[0] if cues else name] = row["object_response"] == row["category"]
    return dict(found)


def consistencies(
    groups: Mapping[str, Sequence[Answers]],
) -> dict[tuple[str, str], tuple[float, int]]:
    """Returns the mean kappa between the observers of two groups, and the number of pairs.

    Within a group it is over pairs of different observers. Pairs are compared on the images that
    both have answered; those without a kappa are left out.

    Args:
        groups: answers of each observer, by group.
    """
    found = {}
    names = list(groups)
    for one, two in [*((name, name) for name in names), *combinations(names, 2)]:
        of_pairs = combinations(groups[one], 2) if one == two else product(groups[one], groups[two])
        kappas = [kappa for pair in of_pairs if (kappa := _kappa(*pair)) is not None]
        if kappas:
            found[one, two] = found[two, one] = (float(np.mean(kappas)), len(kappas))
    return found


def decisions_of(rows: Sequence[Row]) -> dict[str, dict[str, list[Answers]]]:
    """Returns the answers of each run, by set and row, where its evaluation has left them."""
    found: dict[str, dict[str, list[Answers]]] = {}
    for row in rows:
        for name, path in _files(row):
            if path.is_file():
                found.setdefault(name, {}).setdefault(row.name, [])
                found[name][row.name] += read_decisions(path).values()
    return found


def _files(row: Row) -> Iterator[tuple[str, Path]]:
    for column, figures in row.figures.items():
        for figure in figures:
            if figure.entry.get("protocol") == "cue_conflict":
                name = column.removeprefix("sets/")
                yield name, Path(figure.result.path).parent / f"{name}.csv"


def _kappa(one: Answers, two: Answers) -> float | None:
    both = sorted(one.keys() & two.keys())
    return cohens_kappa([one[name] for name in both], [two[name] for name in both])
