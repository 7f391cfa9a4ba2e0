"""Draws plots as SVG: one picture per panel, in the colours of the page's style sheet."""

import json
from html import escape

from nsneg_jax.report.charts.panels import COLOURS, Line, Panel, Plot, corners, short, ticks

_WIDTH, _HEIGHT = 360, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 10, 34
_MOST_MARKED = 12  # points of a line that get marks
_MANY = 10  # groups of points; more get colours of their own


def figures(plot: Plot, kind: str = "") -> str:
    """Returns the panels of a plot under its legend, as HTML; `kind` 'small' for small panels."""
    panels = "".join(_figure(panel) for panel in plot.panels)
    legend = _legend(plot)
    kind = "single" if len(plot.panels) == 1 else kind
    return f'{legend}<div class="panels {kind}">{panels}</div>'


def _figure(panel: Panel) -> str:
    title = escape(panel.title)
    return f'<figure class="panel"><figcaption>{title}</figcaption>{_svg(panel)}</figure>'


def _legend(plot: Plot) -> str:
    names = {name: colour for name, colour in plot.legend.items() if name}
    scattered = plot.panels[0].kind == "points"
    if len(names) < 2 and not (names and plot.panels[0].rules):
        return ""
    if scattered and len(names) > 3 * _MANY:
        return ""
    total = len(names)
    items = "".join(
        '<li><svg class="key" viewBox="0 0 24 10" aria-hidden="true">'
        f"{_swatch(colour, scattered, total)}</svg>{escape(name)}</li>"
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
    if total <= COLOURS:
        return f'class="dot c{colour % COLOURS}"'
    light = (52, 66, 40)[colour % 3] if total > _MANY else (56, 44)[colour % 2]
    return f'class="dot" fill="hsl({360 * colour // total} 62% {light}%)"'


class _Axes:
    """Places of values in a panel."""

    def __init__(self, panel: Panel) -> None:
        self.x_range, self.y_range = panel.x_range, panel.y_range
        bare = not panel.x_label and not panel.y_label
        self.left, self.bottom = (10, 10) if bare else (_LEFT, _BOTTOM)
        self.height = 300 if bare else _HEIGHT

    def x(self, value: float) -> float:
        low, high = self.x_range
        span = _WIDTH - self.left - _RIGHT
        return round(self.left + (value - low) / (high - low) * span, 1)

    def y(self, value: float) -> float:
        low, high = self.y_range
        span = self.height - _TOP - self.bottom
        return round(self.height - self.bottom - (value - low) / (high - low) * span, 1)


def _svg(panel: Panel) -> str:
    axes = _Axes(panel)
    parts = [] if axes.left < _LEFT else _frame(panel, axes)
    for rule in panel.rules:
        colour = "" if rule.colour is None else f" c{rule.colour % COLOURS}"
        y = axes.y(rule.y)
        parts.append(f'<path class="rule{colour}" d="M{axes.left} {y}H{_WIDTH - _RIGHT}"/>')
    names = {rule.name: axes.y(rule.y) for rule in panel.rules if rule.colour is None}
    for name, y in names.items():
        parts.append(
            f'<text class="tick" x="{_WIDTH - _RIGHT - 2}" y="{y - 3}" '
            f'text-anchor="end">{escape(name)}</text>'
        )
    total = max(line.colour for line in panel.lines) + 1
    parts += [_drawn(line, panel, axes, total) for line in panel.lines]
    label = escape(panel.description)
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {axes.height}" role="img" tabindex="0" '
        f'aria-label="{label}" data-values="{escape(_values(panel, axes))}">{"".join(parts)}</svg>'
    )


def _frame(panel: Panel, axes: _Axes) -> list[str]:
    bottom = axes.height - axes.bottom
    parts = []
    for value in ticks(*axes.y_range):
        y = axes.y(value)
        parts.append(f'<path class="grid" d="M{axes.left} {y}H{_WIDTH - _RIGHT}"/>')
        parts.append(
            f'<text class="tick" x="{axes.left - 5}" y="{y + 3.5}" text-anchor="end">'
            f"{short(value)}</text>"
        )
    for value in ticks(*axes.x_range):
        parts.append(
            f'<text class="tick" x="{axes.x(value)}" y="{bottom + 13}" '
            f'text-anchor="middle">{short(value)}</text>'
        )
    parts.append(f'<path class="axis" d="M{axes.left} {bottom}H{_WIDTH - _RIGHT}"/>')
    if panel.x_label:
        middle = (axes.left + _WIDTH - _RIGHT) / 2
        parts.append(
            f'<text class="label" x="{middle}" y="{axes.height - 5}" '
            f'text-anchor="middle">{escape(panel.x_label)}</text>'
        )
    if panel.y_label:
        middle = (_TOP + bottom) / 2
        parts.append(
            f'<text class="label" transform="translate(9 {middle}) rotate(-90)" '
            f'text-anchor="middle">{escape(panel.y_label)}</text>'
        )
    return parts


def _drawn(line: Line, panel: Panel, axes: _Axes, total: int) -> str:
    if panel.kind == "points":
        dots = "".join(
            f'<circle cx="{axes.x(x)}" cy="{axes.y(y)}" r="2.6"/>'
            for x, y in zip(line.x, line.y, strict=True)
        )
        return f"<g {_fill(line.colour, total)}>{dots}</g>"
    points = corners(line) if panel.kind == "steps" else zip(line.x, line.y, strict=True)
    path = "L".join(f"{axes.x(x)} {axes.y(y)}" for x, y in points)
    drawn = f'<path {_stroke(line.colour)} d="M{path}"/>'
    if panel.kind == "lines" and len(line.x) <= _MOST_MARKED:
        dots = "".join(
            f'<circle cx="{axes.x(x)}" cy="{axes.y(y)}" r="2.4"/>'
            for x, y in zip(line.x, line.y, strict=True)
        )
        drawn += f'<g class="dot c{line.colour % COLOURS}">{dots}</g>'
    return drawn


def _values(panel: Panel, axes: _Axes) -> str:
    """Returns what the page's script shows where the pointer is, as JSON."""
    lines = []
    for line in panel.lines:
        x = line.x
        if panel.kind == "steps":
            x = tuple((left + right) / 2 for left, right in zip(line.x, line.x[1:], strict=False))
        entry = {
            "name": line.name,
            "colour": line.colour % COLOURS,
            "px": [axes.x(value) for value in x],
            "py": [axes.y(value) for value in line.y],
        }
        if panel.kind == "points":
            entry["labels"] = list(line.labels)
        else:
            entry |= {"x": [_brief(v) for v in x], "y": [_brief(v) for v in line.y]}
        lines.append(entry)
    shown = {"x": panel.x_label, "kind": panel.kind, "lines": lines}
    return json.dumps(shown, separators=(",", ":"), allow_nan=False)


def _brief(value: float) -> float:
    return float(f"{value:.5g}")
