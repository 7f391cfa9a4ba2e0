"""Computes the figures of a robustness evaluation from its outputs per image."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nsneg_jax.corruptions import CORRUPTIONS, EXTRA, SEVERITIES
from nsneg_jax.evaluation import cue_conflict
from nsneg_jax.evaluation.intervals import accuracy, bootstrap_interval, calibration_rms
from nsneg_jax.evaluation.sets import Part

Outputs = Mapping[str, np.ndarray]  # outputs of a part, see `classifier.Classifier`

_IMAGES_A_CLASS = 50  # in ImageNet's validation images, so also per corruption and severity


def summarise(
    outputs: Mapping[str, list[tuple[Part, Outputs]]], classes: Sequence[str], seed: int
) -> dict[str, dict[str, Any]]:
    """Returns the entry `sets` of results.json.

    Args:
        outputs: parts and their outputs, by set.
        classes: classes of the classifier.
        seed: seed of the bootstrap intervals.
    """
    by_protocol = {
        "top1": _top1,
        "texture": _top1,
        "corruption": _corruption,
        "cue_conflict": _cue_conflict,
    }
    return {
        name: _about(parts) | by_protocol[parts[0][0].protocol](parts, classes, seed)
        for name, parts in outputs.items()
    }


def _about(parts: list[tuple[Part, Outputs]]) -> dict[str, Any]:
    first = parts[0][0]
    valid = sum(int(got["valid"].sum()) for _, got in parts)
    return {
        "protocol": first.protocol,
        "source": first.about,
        "generated": first.generated,
        "images": valid,
        "unreadable": sum(len(got["valid"]) for _, got in parts) - valid,
    }


def _top1(parts: list[tuple[Part, Outputs]], classes: Sequence[str], seed: int) -> dict[str, Any]:
    ((part, got),) = parts
    valid = _valid(got)
    labels = np.asarray(part.source.labels)[got["valid"]]
    by_class = accuracy_by_class(valid["top1"], labels, classes)
    return _ways(part) | _figures(valid, valid["top1"], seed) | {"by_class": by_class}


def accuracy_by_class(
    right: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> dict[str, float]:
    """Returns the accuracy in % over the images of each class that has any.

    Args:
        right: bool [n], whether the answer is right.
        labels: int [n], indices into `classes`.
        classes: names of the classes.
    """
    images = np.bincount(labels, minlength=len(classes))
    hits = np.bincount(labels, weights=right, minlength=len(classes))
    counted = zip(classes, hits, images, strict=True)
    return {name: float(100 * right / of) for name, right, of in counted if of}


def _corruption(
    parts: list[tuple[Part, Outputs]], classes: Sequence[str], seed: int
) -> dict[str, Any]:
    table: dict[str, dict[str, float]] = {}
    for part, got in parts:
        corruption, severity = _corruption_of(part)
        if got["valid"].any():
            top1 = 100 * accuracy(_valid(got)["top1"])
            table.setdefault(corruption, {})[str(severity)] = top1
    means = {
        "mean_15": _mean(table, CORRUPTIONS),
        "mean_19": _mean(table, (*CORRUPTIONS, *EXTRA)),
    }
    part = parts[0][0]
    tested = [(part, got) for part, got in parts if _corruption_of(part)[0] in CORRUPTIONS]
    if not tested:
        return _ways(part) | _NO_FIGURES | {"parts": table, **means}
    whole = {name: np.concatenate([_valid(got)[name] for _, got in tested]) for name in _COUNTED}
    # Versions of an image are not independent, so each image counts with their mean.
    names, image = np.unique(
        np.concatenate([_valid(got)["names"] for _, got in tested]), return_inverse=True
    )
    versions = np.bincount(image, minlength=len(names))
    per_image = np.bincount(image, weights=whole["top1"], minlength=len(names)) / versions
    seen = sum(len(got["valid"]) for _, got in tested)
    present = min(int(part.answers.sum()), len(classes))
    figures = _ways(part) | _figures(whole, per_image, seed)
    cells = [table[name][s] for name in CORRUPTIONS if name in table for s in table[name]]
    figures["accuracy_top1"] = float(np.mean(cells)) if cells else None
    return figures | {
        "images": len(whole["top1"]),
        "parts": table,
        **means,
        "files_seen": seen,
        "files_expected": seen
        if part.corruption is not None
        else len(CORRUPTIONS) * len(SEVERITIES) * _IMAGES_A_CLASS * present,
    }


def _corruption_of(part: Part) -> tuple[str, int]:
    if part.corruption_of is None:
        raise ValueError(f"The part {part.title} shows no corruption.")
    return part.corruption_of


def _cue_conflict(
    parts: list[tuple[Part, Outputs]], classes: Sequence[str], seed: int
) -> dict[str, Any]:
    ((part, got),) = parts
    source = part.source
    if hasattr(source, "cues"):
        shape, texture = (np.array(cue) for cue in source.cues)
        categories = cue_conflict.read_categories()
    elif hasattr(source, "texture_labels"):
        named = np.array(classes)
        shape, texture = named[source.labels], named[source.texture_labels]
        categories = {name: name for name in classes}
    else:
        raise ValueError(f"The images of {source.name} have no texture apart from their class.")
    found = cue_conflict.decisions(
        got["probabilities"][got["valid"]][:, : len(classes)],
        classes,
        shape[got["valid"]],
        texture[got["valid"]],
        categories,
    )
    return {
        "shape_decisions": found.shape,
        "texture_decisions": found.texture,
        "shape_bias": None if found.shape_bias is None else 100 * found.shape_bias,
        "categories": list(found.categories),
        "restricted": found.restricted,
        "images": found.images,
    }


_NO_FIGURES = dict.fromkeys(("accuracy_top1", "accuracy_top5", "interval_top1", "calibration_rms"))
_COUNTED = ("top1", "top5", "confidence")


def _valid(got: Outputs) -> dict[str, np.ndarray]:
    return {name: got[name][got["valid"]] for name in (*_COUNTED, "names")}


def _ways(part: Part) -> dict[str, int]:
    present = len(np.unique(part.source.labels))
    return {"classes": present, "ways": int(part.answers.sum())}


def _figures(got: Mapping[str, np.ndarray], per_image: np.ndarray, seed: int) -> dict[str, Any]:
    if not len(got["top1"]):
        return dict(_NO_FIGURES)
    return {
        "accuracy_top1": 100 * accuracy(got["top1"]),
        "accuracy_top5": 100 * accuracy(got["top5"]),
        "interval_top1": [100 * end for end in bootstrap_interval(per_image, seed)],
        "calibration_rms": 100 * calibration_rms(got["confidence"], got["top1"]),
    }


def _mean(table: Mapping[str, Mapping[str, float]], names: Sequence[str]) -> float | None:
    """Returns the mean over all severities of all `names`; None if one is missing."""
    cells = [table.get(name, {}).get(str(severity)) for name in names for severity in SEVERITIES]
    known = [cell for cell in cells if cell is not None]
    return float(np.mean(known)) if len(known) == len(cells) else None
