"""Computes the figures of a robustness evaluation from its outputs per image."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nsneg_jax.corruptions import SEVERITIES
from nsneg_jax.evaluation import cue_conflict
from nsneg_jax.evaluation.intervals import accuracy, bootstrap_interval, calibration_rms
from nsneg_jax.evaluation.protocols.benchmarks import (
    BENCHMARKS,
    IMAGENET_C,
    Benchmark,
    corruption_errors,
    mean,
)
from nsneg_jax.evaluation.protocols.imagenet import wnids
from nsneg_jax.evaluation.released import RELEASED
from nsneg_jax.evaluation.sets import Part

Outputs = Mapping[str, np.ndarray]  # outputs of a part, see `classifier.Classifier`
Parts = list[tuple[Part, Outputs]]


def summarise(
    outputs: Mapping[str, Parts], classes: Sequence[str], seed: int
) -> dict[str, dict[str, Any]]:
    """Returns the entry `sets` of results.json.

    Args:
        outputs: parts and their outputs, by set.
        classes: classes of the classifier.
        seed: seed of the bootstrap intervals.
    """
    by_protocol = {"corruption": _corruption, "cue_conflict": _cue_conflict}
    found = {
        name: _about(parts) | by_protocol.get(parts[0][0].protocol, _top1)(parts, classes, seed)
        for name, parts in outputs.items()
    }
    for name, parts in outputs.items():
        if parts[0][0].protocol == "corruption":
            clean = _clean_of(parts, outputs.get("clean", []))
            found[name]["clean_top1"] = clean
            if parts[0][0].benchmark == IMAGENET_C and set(classes) <= set(wnids()):
                found[name] |= corruption_errors(found[name]["parts"], clean)
    return found


def _about(parts: Parts) -> dict[str, Any]:
    first = parts[0][0]
    valid = sum(int(got["valid"].sum()) for _, got in parts)
    return {
        "protocol": first.protocol,
        "source": first.about,
        "generated": first.generated,
        "images": valid,
        "unreadable": sum(len(got["valid"]) for _, got in parts) - valid,
    }


def _top1(parts: Parts, classes: Sequence[str], seed: int) -> dict[str, Any]:
    ((part, got),) = parts
    valid = _valid(got)
    labels = np.asarray(part.source.labels)[got["valid"]]
    by_class = accuracy_by_class(valid["top1"], labels, class_names(part, classes))
    return _ways(part) | _figures(valid, valid["top1"], seed) | {"by_class": by_class}


def class_names(part: Part, classes: Sequence[str]) -> Sequence[str]:
    """Returns what the labels of a part index: the classifier's classes, or ObjectNet's own."""
    return part.source.classes if part.protocol == "objectnet" else classes


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


def _corruption(parts: Parts, classes: Sequence[str], seed: int) -> dict[str, Any]:
    table: dict[str, dict[str, float]] = {}
    for part, got in parts:
        corruption, severity = corruption_of(part)
        if got["valid"].any():
            top1 = 100 * accuracy(_valid(got)["top1"])
            table.setdefault(corruption, {})[str(severity)] = top1
    part = parts[0][0]
    benchmark = BENCHMARKS[part.benchmark]
    figures = {"benchmark": part.benchmark, "parts": table} | _means(table, benchmark)
    averaged = tested(parts)
    if not averaged:
        return _ways(part) | _NO_FIGURES | figures
    whole = {name: np.concatenate([_valid(got)[name] for _, got in averaged]) for name in _COUNTED}
    # Versions of an image are not independent, so each image counts with their mean.
    names, image = np.unique(
        np.concatenate([_valid(got)["names"] for _, got in averaged]), return_inverse=True
    )
    versions = np.bincount(image, minlength=len(names))
    per_image = np.bincount(image, weights=whole["top1"], minlength=len(names)) / versions
    figures = _ways(part) | _figures(whole, per_image, seed) | figures
    cells = [table[name][s] for name in benchmark.names if name in table for s in table[name]]
    return figures | {
        "accuracy_top1": float(np.mean(cells)) if cells else None,
        "images": len(whole["top1"]),
        "settings": len(cells),
        "settings_expected": len(benchmark.names) * len(SEVERITIES),
        "files_seen": sum(len(got["valid"]) for _, got in averaged),
        "files_expected": _files_expected(part, benchmark, classes),
    }


def _means(
    table: Mapping[str, Mapping[str, float]], benchmark: Benchmark
) -> dict[str, float | None]:
    """Returns the means over whole benchmarks, named by their number of corruptions."""
    groups = [benchmark.names]
    if benchmark.extra:
        groups.append((*benchmark.names, *benchmark.extra))
    return {f"mean_{len(names)}": mean(table, names) for names in groups}


def _files_expected(part: Part, benchmark: Benchmark, classes: Sequence[str]) -> int | None:
    """Returns how many files the released set has of our classes; None if it is another set."""
    ours = len(set(classes) & set(wnids()))
    released = part.set_name in RELEASED and part.corruption is None
    if not (released and ours and benchmark.images_a_class):
        return None
    return len(benchmark.names) * len(SEVERITIES) * benchmark.images_a_class * ours


def tested(parts: Parts) -> Parts:
    """Returns the parts of a set whose corruptions are in the mean of its benchmark."""
    names = BENCHMARKS[parts[0][0].benchmark].names
    return [(part, got) for part, got in parts if corruption_of(part)[0] in names]


def corruption_of(part: Part) -> tuple[str, int]:
    """Returns corruption and severity of a part of the protocol 'corruption'."""
    if part.corruption_of is None:
        raise ValueError(f"The part {part.title} shows no corruption.")
    return part.corruption_of


def _clean_of(corrupted: Parts, clean: Parts) -> float | None:
    """Returns top-1 in % on the clean images of the corrupted classes, with the same answers."""
    if not clean or not np.array_equal(clean[0][0].answers, corrupted[0][0].answers):
        return None
    part, got = clean[0]
    shown = np.unique(np.concatenate([each.source.labels for each, _ in corrupted]))
    counted = got["valid"] & np.isin(part.source.labels, shown)
    both = set(np.unique(part.source.labels[counted])) == set(shown)
    return 100 * accuracy(got["top1"][counted]) if both and counted.any() else None


def cues(part: Part, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray, Mapping[str, str]]:
    """Returns shape and texture per image, str [n], and the category by class."""
    shape, texture = cue_conflict.named_cues(part.source, classes)
    if hasattr(part.source, "cues"):
        return shape, texture, cue_conflict.read_categories()
    return shape, texture, {name: name for name in classes}


def probabilities_of(got: Outputs, classes: Sequence[str]) -> np.ndarray:
    """Returns the probabilities of the classes [n, C], without outputs that are no class."""
    return got["probabilities"][:, : len(classes)]


def _cue_conflict(parts: Parts, classes: Sequence[str], seed: int) -> dict[str, Any]:
    ((part, got),) = parts
    shape, texture, categories = cues(part, classes)
    found = cue_conflict.decisions(
        probabilities_of(got, classes)[got["valid"]],
        classes,
        shape[got["valid"]],
        texture[got["valid"]],
        categories,
    )
    return {
        "shape_decisions": found.shape,
        "texture_decisions": found.texture,
        "shape_bias": _percent(found.shape_bias),
        "shape_accuracy": _percent(found.shape_accuracy),
        "texture_accuracy": _percent(found.texture_accuracy),
        "categories": list(found.categories),
        "restricted": found.restricted,
        "images": found.images,
    }


def _percent(fraction: float | None) -> float | None:
    return None if fraction is None else 100 * fraction


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
