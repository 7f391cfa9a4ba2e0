"""Plots accuracy by corruption and severity; imports matplotlib only to draw."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nsneg_jax.errors import UsageError
from nsneg_jax.extras import needed
from nsneg_jax.files import write_whole
from nsneg_jax.report.rows import Row, parts_of

# Okabe and Ito's colours, distinct for readers with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
STYLES = ("-", "--", ":")  # of lines, once all colours are used

# Accuracies of the runs behind a line, by corruption and severity.
Accuracies = dict[str, dict[int, list[float]]]


def save_corruptions(rows: Sequence[Row], path: Path) -> None:
    """Plots accuracy per corruption to a PNG.

    The PNG has one row of panels per group, one panel per corruption and one line per row of the
    report. A line over several runs is their mean with sample standard deviations.

    Raises:
        UsageError: no run has such accuracies, `path` does not end in .png, or matplotlib is
            missing.
    """
    if path.suffix.lower() != ".png":
        raise UsageError(f"--corruptions is {path}, but must be a PNG. Give a name ending in .png.")
    lines = corruption_lines(rows)
    if not lines:
        raise UsageError(
            "No run has accuracies by corruption. Give the workdir of an evaluate job that had the "
            "set 'corruption', or leave out --corruptions."
        )
    with needed("report", "A picture of results", "Or leave out --corruptions."):
        from matplotlib.figure import Figure

    groups = _groups(lines)
    widest = max(map(len, groups.values()))
    size = (max(6, 2.3 * widest + 0.6), 2.0 * len(groups) + 0.4 + 0.25 * len(lines))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(groups), widest, squeeze=False, sharex=True, sharey=True)
    drawn: dict[str, Any] = {}
    for panel_row, (group, names) in zip(panels, groups.items(), strict=True):
        for panel, name in zip(panel_row, names + [None] * (widest - len(names)), strict=True):
            if name is None:
                panel.set_visible(False)
            else:
                drawn |= _draw(panel, name, lines)
        first = next(panel for panel in panel_row if panel.get_visible())
        first.set_ylabel(f"{group}\ntop-1 in %")
        first.tick_params(labelleft=True)
    # The lowest panel of each column labels its own severities.
    for column in range(widest):
        shown = [panel for panel in panels[:, column] if panel.get_visible()]
        shown[-1].set_xlabel("severity")
        shown[-1].tick_params(labelbottom=True)
    shown = [
        (severity, max(values))
        for accuracies in lines.values()
        for by_severity in accuracies.values()
        for severity, values in by_severity.items()
    ]
    most, highest = (max(column) for column in zip(*shown, strict=True))
    severities = {"xlim": (0.7, most + 0.3), "xticks": range(1, 1 + most)}
    panels[0, 0].set(ylim=(0, max(1.0, 1.08 * highest)), **severities)
    labels = [name for name in lines if name in drawn]
    handles = [drawn[name] for name in labels]
    figure.legend(handles, labels, loc="outside lower center", ncols=1, frameon=False)
    write_whole(path, lambda partial: figure.savefig(partial, format="png", dpi=120))


def corruption_lines(rows: Sequence[Row]) -> dict[str, Accuracies]:
    """Returns the accuracies to draw, by the name of the line."""
    lines: dict[str, Accuracies] = {}
    for row in rows:
        for column, figures in row.figures.items():
            name = row.name
            if column != "sets/corruption":
                name += f", {column.removeprefix('sets/')}"
            if any(figure.entry.get("generated") is True for figure in figures):
                name += " (generated)"
            if len(figures) > 1:
                name += f" (n = {len(figures)})"
            for figure in figures if column.startswith("sets/") else ():
                for corruption, by_severity in parts_of(figure.entry).items():
                    for severity, accuracy in by_severity.items():
                        accuracies = lines.setdefault(name, {}).setdefault(corruption, {})
                        accuracies.setdefault(severity, []).append(accuracy)
    return lines


def _groups(lines: dict[str, Accuracies]) -> dict[str, list[str | None]]:
    """Returns the corruptions of all lines by group; 'other' holds those without a group.

    None leaves a gap, so that extra corruptions line up in a column.
    """
    from nsneg_jax import corruptions

    there = dict.fromkeys(name for accuracies in lines.values() for name in accuracies)
    groups: dict[str, list[str | None]] = {}
    for group, names in corruptions.groups().items():
        groups[group] = [name for name in names if name in there]
    known = {name for names in groups.values() for name in names}
    groups["other"] = [name for name in there if name not in known]
    widest = max(map(len, groups.values()))
    for row in groups.values():
        if row and row[-1] in corruptions.EXTRA:
            row[-1:] = [None] * (widest - len(row)) + row[-1:]
    return {group: names for group, names in groups.items() if names}


def _draw(panel: Any, corruption: str, lines: dict[str, Accuracies]) -> dict[str, Any]:
    from nsneg_jax.corruptions import EXTRA

    title = corruption.replace("_", " ")
    panel.set_title(f"{title} (extra)" if corruption in EXTRA else title, fontsize=9)
    panel.grid(alpha=0.3)
    panel.spines[["top", "right"]].set_visible(False)
    drawn = {}
    for i, (name, accuracies) in enumerate(lines.items()):
        points = sorted(accuracies.get(corruption, {}).items())
        if points:
            deviations = [statistics.stdev(v) if len(v) > 1 else 0 for _, v in points]
            drawn[name] = panel.errorbar(
                [severity for severity, _ in points],
                [statistics.fmean(values) for _, values in points],
                deviations if any(deviations) else None,
                color=COLOURS[i % len(COLOURS)],
                marker=MARKERS[i % len(MARKERS)],
                linestyle=STYLES[i // len(COLOURS) % len(STYLES)],
                markersize=3.5,
                linewidth=1.3,
                elinewidth=1,
            )
    return drawn
