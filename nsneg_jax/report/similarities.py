"""The report of a pre-training: how similar its queries are to keys and to negatives."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nsneg_jax.errors import UsageError
from nsneg_jax.extras import needed
from nsneg_jax.files import read_json, write_json, write_whole
from nsneg_jax.report.plots import COLOURS
from nsneg_jax.report.table import markdown_table
from nsneg_jax.training.workdir import CHECKPOINTS, SIMILARITIES, step_folders

_QUANTILES = (0.05, 0.5, 0.95)
# Kinds of similarities that are no non-semantic negatives: a queue holds other images too.
TITLES = {"positive": "key", "queue": "queue", "others": "other images"}


def read(run: Path, measure: Callable[[Path], dict[str, Any]] | None = None) -> dict[str, Any]:
    """Returns the similarities of a pre-training's checkpoint.

    Args:
        run: workdir, for its latest checkpoint, or a checkpoint folder in it.
        measure: measures them where WORKDIR/similarities does not have them yet, and gets `run`.

    Raises:
        UsageError: the run has no checkpoint, or they were not measured and `measure` is None.
    """
    steps = [int(path.name) for path in _checkpoints(run) if path.name.isdecimal()]
    if not steps:
        raise UsageError(
            f"{run} holds no checkpoint yet, whose similarities could be measured. Give a run that "
            "has saved one."
        )
    path = _workdir(run) / SIMILARITIES / f"{max(steps)}.json"
    if not path.exists():
        if measure is None:
            raise UsageError(f"There is no {path}. `nsneg report {run}` measures it.")
        write_json(path, measure(run))
    return read_json(path, f"Remove it, and `nsneg report {run}` will measure it again.")


def table(measured: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the table of similarities by run and kind, as Markdown.

    Args:
        measured: results of `read` by name of the run.
    """
    header = ["run", "step", "similarity to", "mean", "std", "5 %", "50 %", "95 %", "above key, %"]
    lines = [header]
    for name, content in measured.items():
        for kind, figures in content["kinds"].items():
            quantiles = histogram_quantiles(figures["counts"])
            above = "-" if kind == "positive" else f"{figures['above_positive']:.3f}"
            numbers = (figures["mean"], figures["std"], *quantiles)
            shown = [f"{number:.3f}" for number in numbers]
            title = TITLES.get(kind, kind)
            lines.append([name, str(content["step"]), title, *shown, above])
    images = ", ".join(dict.fromkeys(f"{content['images']:,}" for content in measured.values()))
    caption = (
        f"Cosine similarities of {images} queries per run to their keys, to other images and to "
        "their non-semantic negatives; the last column is the part that exceeds the key's. "
        "Quantiles are exact to half a bin, 0.005."
    )
    return f"Similarities in training:\n\n{markdown_table(lines)}\n\n{caption}"


def histogram_quantiles(counts: list[int]) -> list[float]:
    """Returns the 5, 50 and 95 % quantiles of a histogram over [-1, 1], centres of their bins."""
    places = np.searchsorted(np.cumsum(counts), np.array(_QUANTILES) * np.sum(counts))
    return ((2 * places + 1) / len(counts) - 1).tolist()


def save(measured: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draws the histograms to a PNG: one panel per run, one outline per kind.

    Args:
        measured: results of `read` by name of the run.
        path: path of the PNG.

    Raises:
        UsageError: `path` does not end in .png, or matplotlib is missing.
    """
    if path.suffix.lower() != ".png":
        raise UsageError(
            f"--similarities is {path}, but must be a PNG. Give a name ending in .png."
        )
    with needed("report", "A picture of results", "Or leave out --similarities."):
        from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.6 + 2.2 * len(measured)), layout="constrained")
    panels = figure.subplots(len(measured), 1, squeeze=False, sharex=True)[:, 0]
    kinds = list(dict.fromkeys(kind for each in measured.values() for kind in each["kinds"]))
    for panel, (name, content) in zip(panels, measured.items(), strict=True):
        edges = np.linspace(-1, 1, content["bins"] + 1)
        for kind, figures in content["kinds"].items():
            density = np.array(figures["counts"]) / np.sum(figures["counts"]) / np.diff(edges)
            colour = COLOURS[kinds.index(kind) % len(COLOURS)]
            label = TITLES.get(kind, kind)
            panel.stairs(density, edges, color=colour, label=label, linewidth=1.3)
        panel.set_title(f"{name}, step {content['step']:,}", fontsize=9)
        panel.set(ylabel="density", xlim=(-1, 1), ylim=(0, None))
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False, fontsize=8)
    panels[-1].set_xlabel("cosine similarity to the query")
    write_whole(path, lambda partial: figure.savefig(partial, format="png", dpi=120))


def _workdir(run: Path) -> Path:
    return run.parent.parent if run.parent.name == CHECKPOINTS else run


def _checkpoints(run: Path) -> list[Path]:
    return [run] if run.parent.name == CHECKPOINTS else step_folders(run / CHECKPOINTS)
