"""The curves of runs: what metrics.jsonl holds, as plots."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from nsneg_jax.report.charts.panels import Line, Panel, Plot, thinned
from nsneg_jax.report.page.runs import Run

_STEP = "step"
_NOT_DRAWN = (_STEP, "split", "epoch")
_COUNTS = ("replaced_samples",)  # drawn only if something was counted


class _Curve(NamedTuple):
    """Metrics that share a panel.

    Attributes:
        title: title of the panel.
        unit: label of the vertical axis.
        names: names of lines by metric.
        factor: multiplies the values.
        from_zero: whether the axis begins at 0.
    """

    title: str
    unit: str
    names: Mapping[str, str]
    factor: float = 1.0
    from_zero: bool = False


_TRAINING = (
    _Curve("Loss", "", {"loss": ""}),
    _Curve("Contrast task", "accuracy in %", {"accuracy_top1": "top-1", "accuracy_top5": "top-5"}),
    _Curve(
        "Similarity of a query",
        "mean cosine",
        {
            "positive_similarity": "to its key",
            "nonsemantic_similarity": "to its non-semantic negatives",
            "negative_similarity": "to other images",
        },
    ),
    _Curve("Learning rate", "", {"learning_rate": ""}, from_zero=True),
    _Curve("Throughput", "images/s", {"images_per_second": ""}, from_zero=True),
    _Curve("Waiting for input", "% of the time", {"input_wait_fraction": ""}, 100, True),
)
_VALIDATION = (
    _Curve("kNN on validation images", "accuracy in %", {"knn_20": "k = 20", "knn_200": "k = 200"}),
    _Curve(
        "Linear probe on validation images",
        "accuracy in %",
        {"probe_top1": "top-1", "probe_top5": "top-5"},
    ),
    _Curve("RankMe of the features", "effective rank", {"rankme": ""}, from_zero=True),
    _Curve("Deviation of the features", "1 = even directions", {"feature_std": ""}, from_zero=True),
)


def pretraining(runs: Sequence[Run]) -> Plot | None:
    """Returns the curves of pre-trainings; None if none has written metrics.

    With one run the metrics of a kind share a panel; with several each has its own panel, with a
    line per run. Metrics that are not known here get a panel by their name.
    """
    runs = [run for run in runs if run.metrics]
    if not runs:
        return None
    panels = [*_panels(runs, "train", _TRAINING)]
    panels[1:1] = [*_panels(runs, "val", _VALIDATION), *_others(runs, "val", _VALIDATION)]
    panels += _others(runs, "train", _TRAINING)
    return Plot("curves", "Pre-training", tuple(panels)) if panels else None


def probes(runs: Sequence[Run]) -> Plot | None:
    """Returns the accuracies of probes and fine-tunings by epoch; None if there are none.

    With one run there is a line per learning rate, with several one per run, of the learning rate
    that the job chose.
    """
    lines: list[Line] = []
    for run in runs:
        of_rate = {
            name.partition("/lr_")[2]: name
            for name in _found([run], "val", lambda name: name.startswith("accuracy_top1/lr_"))
        }
        if len(runs) > 1 and of_rate:
            chosen = run.results.get("learning_rate", math.nan)
            of_rate = {r: n for r, n in of_rate.items() if _same(r, chosen)} or of_rate
            of_rate = {f"{run.name}": next(iter(of_rate.values()))}
        elif len(of_rate) > 1:
            of_rate = {f"learning rate {rate}": name for rate, name in of_rate.items()}
        for name, metric in (of_rate or {run.name: "accuracy_top1"}).items():
            points = _points(run, "val", metric, 1.0, "epoch")
            if points is not None:
                lines.append(Line(name, *points, len(lines)))
    if not lines:
        return None
    panel = Panel("Top-1 on validation images", tuple(lines), "epoch", "accuracy in %")
    return Plot("probe", "Training on labels", (panel,))


def _panels(runs: Sequence[Run], split: str, curves: Sequence[_Curve]) -> Iterator[Panel]:
    for curve in curves:
        lines: list[Line] = []
        for name, title in curve.names.items():
            for place, run in enumerate(runs):
                points = _points(run, split, name, curve.factor)
                if points is None or (name in _COUNTS and not any(points[1])):
                    continue
                several = len(runs) > 1
                colour = place if several else len(lines)
                lines.append(Line(run.name if several else title, *points, colour))
            if len(runs) > 1 and lines:
                full = f"{curve.title}, {title}" if len(curve.names) > 1 else curve.title
                yield Panel(full, tuple(lines), _STEP, curve.unit, from_zero=curve.from_zero)
                lines = []
        if lines:
            yield Panel(curve.title, tuple(lines), _STEP, curve.unit, from_zero=curve.from_zero)


def _others(runs: Sequence[Run], split: str, known: Sequence[_Curve]) -> Iterator[Panel]:
    """Yields the panels of metrics that are in no curve of `known`."""
    names = {metric for curve in known for metric in curve.names}
    yield from _panels(runs, split, _by_prefix(_found(runs, split, lambda n: n not in names)))


def _by_prefix(names: Sequence[str]) -> list[_Curve]:
    """Makes a panel for the metrics 'loss/a' and 'loss/b' together."""
    grouped: dict[str, dict[str, str]] = {}
    for name in names:
        head, mark, tail = name.partition("/")
        if not mark:
            head = name.replace("_", " ")
        grouped.setdefault(head, {})[name] = tail
    return [
        _Curve(head, "accuracy in %" if _is_percent(head) else "", metrics)
        for head, metrics in grouped.items()
    ]


def _is_percent(title: str) -> bool:
    return "accuracy" in title or "top1" in title or "top5" in title


def _found(runs: Sequence[Run], split: str, wanted: Callable[[str], bool]) -> list[str]:
    names = {
        name: None
        for run in runs
        for line in run.metrics
        if line.get("split") == split
        for name, value in line.items()
        if name not in _NOT_DRAWN and _is_number(value) and wanted(name)
    }
    return list(names)


def _points(
    run: Run, split: str, metric: str, factor: float, along: str = _STEP
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    found = [
        (float(line[along]), factor * line[metric])
        for line in run.metrics
        if line.get("split") == split
        and _is_number(line.get(metric))
        and _is_number(line.get(along))
    ]
    return thinned(*zip(*found, strict=True)) if found else None


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def _same(text: str, value: Any) -> bool:
    try:
        return math.isclose(float(text), float(value), rel_tol=1e-6)
    except (TypeError, ValueError):
        return False
