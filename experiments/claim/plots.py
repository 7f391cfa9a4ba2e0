"""Pictures of the claim: accuracy over epochs, similarities over steps, figures against alpha."""

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from experiments.claim.runs import ALPHAS, Run
from nsneg_jax.files import write_whole
from nsneg_jax.report.plots import COLOURS, MARKERS
from nsneg_jax.report.rows import Row
from nsneg_jax.training.workdir import METRICS

# Step or epoch -> value, for one run.
Curve = dict[float, float]

_SIMILARITIES = {
    "positive_similarity": "query and key",
    "negative_similarity": "query and queue",
    "nonsemantic_similarity": "query and non-semantic negative",
}
_SHIFTS = ("clean", "corruption", "sketch", "stylized", "rendition_100way")


def save_all(
    runs: Sequence[Run], rows: Sequence[Row], epochs: int, workdir: Path
) -> dict[str, str]:
    """Draws all available plots into the workdir.

    Args:
        runs: finished runs.
        rows: rows of their report.
        epochs: epochs of each run.
        workdir: workdir of the claim.

    Returns:
        Titles by file name. Plots against alpha need at least two patch variants.
    """
    curves = {run: _curves(workdir / run.name / METRICS) for run in runs}
    drawn = {
        "accuracy.png": ("kNN accuracy over epochs", lambda: _accuracy(curves, epochs)),
        "similarities.png": ("the three similarities over steps", lambda: _similarities(curves)),
    }
    alphas = alpha_lines(runs, rows)
    if len(alphas) > 2:
        drawn["alpha.png"] = ("accuracy against alpha", lambda: _against_alpha(alphas, _SHIFTS))
        drawn["shape_bias.png"] = (
            "shape bias against alpha",
            lambda: _against_alpha(alphas, ("cue_conflict",)),
        )
    for name, (_, draw) in drawn.items():
        _save(draw, workdir / name)
    return {name: title for name, (title, _) in drawn.items()}


def alpha_lines(runs: Sequence[Run], rows: Sequence[Row]) -> dict[float, Row]:
    """Returns the rows of MoCo (alpha 0) and of patch negatives, by alpha."""
    plain = {run for run in runs if run.variant in ALPHAS and not run.change}
    labels = {run.label: ALPHAS[run.variant] for run in plain}
    return dict(sorted((labels[row.name], row) for row in rows if row.name in labels))


def mean_and_deviation(curves: Sequence[Curve]) -> tuple[list[float], ...]:
    """Returns the steps that all curves share, with mean and sample deviation (0 for one curve)."""
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    values = [[curve[step] for curve in curves] for step in steps]
    deviations = [statistics.stdev(v) if len(v) > 1 else 0.0 for v in values]
    return steps, [statistics.fmean(v) for v in values], deviations


def _curves(path: Path) -> dict[str, Curve]:
    """Reads each figure of a metrics.jsonl by step."""
    curves: dict[str, Curve] = {}
    for line in path.read_text().splitlines():
        figures = json.loads(line)
        for name, value in figures.items():
            if name not in ("step", "split"):
                curves.setdefault(name, {})[figures["step"]] = value
    return curves


def _accuracy(curves: dict[Run, dict[str, Curve]], epochs: int) -> Figure:
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    panel = figure.subplots()
    for i, (label, of_runs) in enumerate(_by_label(curves, "knn_20").items()):
        steps_per_epoch = max(of_runs[0]) / epochs
        of_runs = [{step / steps_per_epoch: v for step, v in run.items()} for run in of_runs]
        _line(panel, of_runs, COLOURS[i % len(COLOURS)], f"{label} (n = {len(of_runs)})")
    panel.set(xlabel="epoch", ylabel="kNN accuracy in %, k = 20, held-out pictures", ylim=(0, None))
    _finish(panel)
    return figure


def _similarities(curves: dict[Run, dict[str, Curve]]) -> Figure:
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    panels = figure.subplots(1, len(_SIMILARITIES), sharey=True)
    labels = list(dict.fromkeys(run.label for run in curves))
    for panel, (name, title) in zip(panels, _SIMILARITIES.items(), strict=True):
        for label, of_runs in _by_label(curves, name).items():
            _line(panel, of_runs, COLOURS[labels.index(label) % len(COLOURS)], label)
        panel.set(xlabel="step", title=title)
        panel.axhline(0, color="black", linewidth=0.6)
        _finish(panel)
    panels[0].set_ylabel("cosine similarity")
    return figure


def _against_alpha(rows: dict[float, Row], sets: Sequence[str]) -> Figure:
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    panel = figure.subplots()
    for i, name in enumerate(sets):
        cells = {
            alpha: row.cells[f"sets/{name}"]
            for alpha, row in rows.items()
            if f"sets/{name}" in row.cells
        }
        panel.errorbar(
            list(cells),
            [cell.mean for cell in cells.values()],
            [cell.std or 0 for cell in cells.values()],
            color=COLOURS[i],
            marker=MARKERS[i],
            capsize=2,
            label=name.removesuffix("_100way").replace("cue_conflict", "shape bias"),
        )
    panel.set(
        xlabel="alpha of the patch negatives (0: MoCo)",
        ylabel="shape bias in %" if sets == ("cue_conflict",) else "top-1 in %",
        xticks=list(rows),
    )
    _finish(panel)
    return figure


def _by_label(curves: dict[Run, dict[str, Curve]], name: str) -> dict[str, list[Curve]]:
    lines: dict[str, list[Curve]] = {}
    for run, of_run in curves.items():
        if name in of_run:
            lines.setdefault(run.label, []).append(of_run[name])
    return lines


def _line(panel: Any, curves: Sequence[Curve], colour: str, label: str) -> None:
    steps, means, deviations = mean_and_deviation(curves)
    panel.plot(steps, means, color=colour, label=label, linewidth=1.4)
    low = [mean - deviation for mean, deviation in zip(means, deviations, strict=True)]
    high = [mean + deviation for mean, deviation in zip(means, deviations, strict=True)]
    panel.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)


def _finish(panel: Any) -> None:
    panel.grid(alpha=0.3)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, fontsize=8)


def _save(draw: Callable[[], Figure], path: Path) -> None:
    write_whole(path, lambda partial: draw().savefig(partial, format="png", dpi=120))
