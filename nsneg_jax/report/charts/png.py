"""Draws plots to PNG files; imports matplotlib only to draw."""

from pathlib import Path
from typing import Any

from nsneg_jax.extras import needed
from nsneg_jax.files import write_whole
from nsneg_jax.report.charts.panels import COLOURS, Line, Panel, Plot, corners, layers
from nsneg_jax.report.plots import COLOURS as PALETTE
from nsneg_jax.report.plots import STYLES

_MOST_MARKED = 12
_MOST_NAMED = 30
_GROUPS = 10  # groups of points with colours of their own
_ACROSS = 4


def save(plot: Plot, path: Path) -> None:
    """Draws a plot to a PNG.

    Raises:
        UsageError: matplotlib is missing.
    """
    with needed("report", "A picture of results", "Or leave out --png."):
        from matplotlib.figure import Figure

    across = min(_ACROSS, len(plot.panels))
    down = -(-len(plot.panels) // across)
    large = len(plot.panels) == 1
    size = (7.0, 4.6) if large else (3.2 * across, 2.3 * down + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(down, across, squeeze=False).ravel()
    drawn: dict[str, Any] = {}
    total = max(plot.legend.values()) + 1
    for axes, panel in zip(grid, plot.panels, strict=False):
        _draw(axes, panel, drawn, total)
        if not plot.is_shared and len(panel.lines) > 1:
            axes.legend(frameon=False, fontsize=7)
    for axes in grid[len(plot.panels) :]:
        axes.set_visible(False)
    named = {name: handle for name, handle in drawn.items() if name}
    if 1 < len(named) <= _MOST_NAMED and plot.is_shared:
        figure.legend(
            named.values(),
            named.keys(),
            loc="outside lower center",
            ncols=min(len(named), 4),
            frameon=False,
            fontsize=8,
        )
    figure.suptitle(plot.title, fontsize=11)
    write_whole(path, lambda partial: figure.savefig(partial, format="png", dpi=150))


def _draw(axes: Any, panel: Panel, drawn: dict[str, Any], total: int) -> None:
    axes.set_title(panel.title, fontsize=9)
    for rule in panel.rules:
        colour = "0.4" if rule.colour is None else PALETTE[rule.colour % COLOURS]
        axes.axhline(rule.y, color=colour, linestyle=(0, (2, 2)), linewidth=0.9)
    for line in layers(panel.lines) if panel.kind == "points" else panel.lines:
        drawn.setdefault(line.name, _line(axes, line, panel.kind, total))
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.set_ylim(*panel.y_range)
    if panel.kind == "points":
        axes.set(xticks=[], yticks=[])
        axes.spines[["left", "bottom"]].set_visible(False)
        return
    axes.set_xlabel(panel.x_label, fontsize=8)
    axes.set_ylabel(panel.y_label, fontsize=8)
    axes.grid(alpha=0.3)


def _line(axes: Any, line: Line, kind: str, total: int) -> Any:
    if kind == "points":
        from matplotlib import colormaps

        few = total <= _GROUPS
        colour = colormaps["tab10"](line.colour) if few else colormaps["hsv"](line.colour / total)
        return axes.scatter(line.x, line.y, s=7, color=colour, linewidths=0)
    x, y = zip(*corners(line), strict=True) if kind == "steps" else (line.x, line.y)
    (handle,) = axes.plot(
        x,
        y,
        color=PALETTE[line.colour % COLOURS],
        linestyle=STYLES[line.colour // COLOURS % len(STYLES)],
        linewidth=1.3,
        label=line.name,
        marker="o" if kind == "lines" and len(line.x) <= _MOST_MARKED else None,
        markersize=3,
    )
    return handle
