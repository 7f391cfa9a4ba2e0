"""Accuracies per class, and decisions per image, as tables."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from nsneg_jax.errors import printable
from nsneg_jax.evaluation import cue_conflict, summary
from nsneg_jax.evaluation.sets import Part

COLUMNS = ("set", "class", "images", "top1", "top5", "shape", "texture")
# As the tables of decisions by humans and models in github.com/bethgelab/model-vs-human.
DECISIONS = ("subj", "session", "trial", "rt", "object_response", "category", "condition")


def per_class(outputs: Mapping[str, summary.Parts], classes: Sequence[str]) -> str:
    """Returns the accuracies per class as a table, columns separated by tabs.

    Each class of a set with an image that could be read has a row: `set`, `class` (ObjectNet's
    category, or the shape of a cue conflict), `images`, and, in %, `top1` and `top5`; for cue
    conflicts, instead, the decisions for the `shape` and for the `texture`. Corruptions are
    counted together, those in their benchmark's mean.

    Args:
        outputs: parts and their outputs, by set.
        classes: classes of the classifier.
    """
    lines = ["\t".join(COLUMNS)]
    for name, parts in outputs.items():
        conflict = parts[0][0].protocol == "cue_conflict"
        rows = _conflicts(*parts[0], classes) if conflict else _accuracies(parts, classes)
        lines += ["\t".join((name, printable(each), *values)) for each, *values in rows]
    return "\n".join(lines) + "\n"


def decisions(part: Part, got: summary.Outputs, classes: Sequence[str], observer: str) -> str:
    """Returns the decisions on cue conflicts as CSV, an image per line.

    The columns are those of model-vs-human: `subj` is the observer, `object_response` the
    category decided for, `category` the shape, `imagename` the file. Images that do not count, see
    `cue_conflict.decisions`, are left out.

    Args:
        part, got: the part and its outputs.
        classes: classes of the classifier.
        observer: name of the classifier.
    """
    answers = _decided(part, got, classes)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow((*DECISIONS, "imagename"))
    for trial, image in enumerate(np.flatnonzero(answers.counted), 1):
        picture = str(got["names"][image]).rpartition("/")[2]
        response, category = answers.decided[image], answers.shape[image]
        writer.writerow((observer, 1, trial, "NaN", response, category, part.set_name, picture))
    return file.getvalue()


class _Decided(NamedTuple):
    """Cues and decision per image, str [n]; whether it counts, bool [n]; and the categories."""

    shape: np.ndarray
    texture: np.ndarray
    decided: np.ndarray
    counted: np.ndarray
    known: tuple[str, ...]


def _decided(part: Part, got: summary.Outputs, classes: Sequence[str]) -> _Decided:
    shape, texture, categories = summary.cues(part, classes)
    probabilities = summary.probabilities_of(got, classes)
    decided, known = cue_conflict.decide(probabilities, classes, categories)
    counted = got["valid"] & cue_conflict.conflicts(shape, texture, known)
    return _Decided(shape, texture, decided, counted, known)


def _accuracies(parts: summary.Parts, classes: Sequence[str]) -> Iterator[tuple[str, ...]]:
    if parts[0][0].protocol == "corruption":
        parts = summary.tested(parts)
    if not parts:
        return
    valid = [got["valid"] for _, got in parts]
    labels, top1, top5 = (
        np.concatenate([values[kept] for values, kept in zip(column, valid, strict=True)])
        for column in (
            [part.source.labels for part, _ in parts],
            *([got[name] for _, got in parts] for name in ("top1", "top5")),
        )
    )
    names = summary.class_names(parts[0][0], classes)
    found = [summary.accuracy_by_class(right, labels, names) for right in (top1, top5)]
    images = dict(zip(names, np.bincount(labels, minlength=len(names)), strict=True))
    for name in found[0]:
        yield name, str(images[name]), *(f"{each[name]:.4f}" for each in found), "", ""


def _conflicts(
    part: Part, got: summary.Outputs, classes: Sequence[str]
) -> Iterator[tuple[str, ...]]:
    answers = _decided(part, got, classes)
    for category in answers.known:
        shown = answers.counted & (answers.shape == category)
        if shown.any():
            hits = (answers.decided == cue for cue in (answers.shape, answers.texture))
            shares = (f"{100 * each[shown].mean():.4f}" for each in hits)
            yield category, str(shown.sum()), "", "", *shares
