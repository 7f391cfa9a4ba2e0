"""Draws plots as SVG: one picture per panel, in the colours of the page's style sheet."""

import json
from collections.abc import Mapping
from html import escape
from itertools import pairwise
from typing import Any

from nsneg_jax.report.charts.panels import COLOURS, Line, Panel, Plot, corners, layers, short, ticks

_WIDTH, _HEIGHT, _SQUARE = 360, 220, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 34
_MOST_MARKED = 12  # points of a line that get marks
_GROUPS = 10  # groups of points with colours of the style sheet
_MOST_NAMED = 30  # groups of points that a legend names


def figures(plot: Plot, kind: str = "") -> str:
    """Returns the panels of a plot as HTML, under one legend or each under its own.

    Args:
        plot: what to draw.
        kind: 'small' for many small panels.
    """
    own = not plot.is_shared
    panels = "".join(_figure(panel, own) for panel in plot.panels)
    legend = "" if own else _legend(plot.panels[0].kind, plot.legend)
    return (
        f'{legend}<div class="panels {"single" if len(plot.panels) == 1 else kind}">{panels}</div>'
    )


def _figure(panel: Panel, own_legend: bool) -> str:
    title = f"<figcaption>{escape(panel.title)}</figcaption>"
    if own_legend:
        title += _legend(panel.kind, {line.name: line.colour for line in panel.lines})
    return f'<figure class="panel">{title}{_svg(panel)}</figure>'


def _legend(kind: str, colours: Mapping[str, int]) -> str:
    names = {name: colour for name, colour in colours.items() if name}
    if len(names) < 2 or (kind == "points" and len(names) > _MOST_NAMED):
        return ""
    total = max(names.values()) + 1
    items = "".join(
        '<li><svg class="key" viewBox="0 0 24 10" aria-hidden="true">'
        f"{_swatch(colour, kind == 'points', total)}</svg>{escape(name)}</li>"
        for name, colour in names.items()
    )
    return f'<ul class="legend">{items}</ul>'


def _swatch(colour: int, scattered: bool, total: int) -> str:
    if scattered:
        return f'<circle cx="12" cy="5" r="4" {_fill(colour, total)}/>'
    return f'<path d="M1 5H23" {_stroke(colour)}/>'


def _stroke(colour: int) -> str:
    style = ("", " dashed", " dotted")[colour // COLOURS % 3]
    return f'class="line c{colour % COLOURS}{style}"'


def _fill(colour: int, total: int) -> str:
    """Colours one of `total` groups: from the palette, or around the colour circle."""
    if total <= _GROUPS:
        return f'class="dot c{colour}"'
    light = (52, 66, 40)[colour % 3]
    return f'class="dot" fill="hsl({360 * colour // total} 62% {light}%)"'


class _Axes:
    """The size of a panel in pixels, and the places of values in it."""

    def __init__(self, panel: Panel) -> None:
        self.x_range, self.y_range = panel.x_range, panel.y_range
        self.bare = not panel.x_label and not panel.y_label
        self.left, below = (10, 10) if self.bare else (_LEFT, _BOTTOM)
        self.width, self.height = _WIDTH, _SQUARE if self.bare else _HEIGHT
        self.right, self.bottom = self.width - _RIGHT, self.height - below

    def x(self, value: float) -> float:
        low, high = self.x_range
        return round(self.left + (value - low) / (high - low) * (self.right - self.left), 1)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return round(self.bottom - (value - low) / (high - low) * (self.bottom - _TOP), 1)


def _svg(panel: Panel) -> str:
    axes = _Axes(panel)
    parts = [] if axes.bare else _frame(panel, axes)
    for rule in panel.rules:
        colour = "" if rule.colour is None else f" c{rule.colour % COLOURS}"
        parts.append(f'<path class="rule{colour}" d="M{axes.left} {axes.y(rule.y)}H{axes.right}"/>')
    total = max(line.colour for line in panel.lines) + 1
    if panel.kind == "points":
        parts += [
            f"<g {_fill(part.colour, total)}>{_dots(part, axes)}</g>"
            for part in layers(panel.lines)
        ]
    else:
        parts += [_drawn(line, panel, axes) for line in panel.lines]
    label = escape(panel.description)
    return (
        f'<svg class="chart" viewBox="0 0 {axes.width} {axes.height}" role="img" tabindex="0" '
        f'aria-label="{label}" data-values="{escape(_values(panel, axes))}">{"".join(parts)}</svg>'
    )


def _frame(panel: Panel, axes: _Axes) -> list[str]:
    parts = []
    for value in ticks(*axes.y_range):
        y = axes.y(value)
        parts.append(f'<path class="grid" d="M{axes.left} {y}H{axes.right}"/>')
        parts.append(_text(axes.left - 5, y + 3.5, "end", short(value), "tick"))
    for value in ticks(*axes.x_range):
        parts.append(_text(axes.x(value), axes.bottom + 13, "middle", short(value), "tick"))
    parts.append(f'<path class="axis" d="M{axes.left} {axes.bottom}H{axes.right}"/>')
    middle = (axes.left + axes.right) / 2
    parts.append(_text(middle, axes.height - 5, "middle", panel.x_label, "label"))
    turned = f'transform="translate(9 {(_TOP + axes.bottom) / 2}) rotate(-90)"'
    parts.append(_text(0, 0, "middle", panel.y_label, "label", turned))
    return parts


def _text(x: float, y: float, anchor: str, text: str, kind: str, turned: str = "") -> str:
    place = turned or f'x="{x}" y="{y}"'
    return f'<text class="{kind}" {place} text-anchor="{anchor}">{escape(text)}</text>'


def _drawn(line: Line, panel: Panel, axes: _Axes) -> str:
    points = corners(line) if panel.kind == "steps" else zip(line.x, line.y, strict=True)
    path = "L".join(f"{axes.x(x)} {axes.y(y)}" for x, y in points)
    drawn = f'<path {_stroke(line.colour)} d="M{path}"/>'
    if panel.kind == "lines" and len(line.x) <= _MOST_MARKED:
        drawn += f'<g class="dot c{line.colour % COLOURS}">{_dots(line, axes)}</g>'
    return drawn


def _dots(line: Line, axes: _Axes) -> str:
    return "".join(
        f'<circle cx="{axes.x(x)}" cy="{axes.y(y)}" r="2.4"/>'
        for x, y in zip(line.x, line.y, strict=True)
    )


def _values(panel: Panel, axes: _Axes) -> str:
    """Returns what the page's script shows where the pointer is, as JSON.

    Lines whose x are those of the first leave them out.
    """
    lines: list[dict[str, Any]] = []
    first: list[float] = []
    for line in panel.lines:
        x = line.x
        if panel.kind == "steps":
            x = tuple((left + right) / 2 for left, right in pairwise(line.x))
        shown = [_brief(value) for value in x]
        lines.append({"name": line.name, "y": [_brief(value) for value in line.y]})
        if shown != first:
            lines[-1]["x"] = shown
        first = first or shown
    content = {
        "label": panel.x_label,
        "kind": panel.kind,
        "x": [*axes.x_range, axes.left, axes.right],
        "y": [*axes.y_range, axes.bottom, _TOP],
        "lines": lines,
    }
    return json.dumps(content, separators=(",", ":"), allow_nan=False)


def _brief(value: float) -> float:
    return float(f"{value:.5g}")
