"""What a plot shows, whatever draws it: `svg` for a page, `png` for a file."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal, NamedTuple

COLOURS = 7  # lines beyond these are dashed, then dotted

_LAYERS = 8
_MOST_POINTS = 240  # per line; more would only make the page large


class Line(NamedTuple):
    """A line, an outline of a histogram, or the points of one class.

    Attributes:
        name: name in the legend.
        x, y: finite values, of equal number. An outline has one more x, the edges of its bins.
        colour: number of its colour, from 0.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    colour: int


class Rule(NamedTuple):
    """A horizontal line at `y`, such as the accuracy on clean images."""

    name: str
    y: float
    colour: int | None = None


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        title: what is shown.
        lines: at least one line.
        x_label, y_label: quantity and unit of the axes; '' for axes without meaning.
        rules: horizontal lines.
        kind: lines with their points, outlines of histograms, or points alone.
        from_zero: whether the vertical axis begins at 0.
        y_limits: range of the vertical axis; None leaves it to the values.
    """

    title: str
    lines: tuple[Line, ...]
    x_label: str = ""
    y_label: str = ""
    rules: tuple[Rule, ...] = ()
    kind: Literal["lines", "steps", "points"] = "lines"
    from_zero: bool = False
    y_limits: tuple[float, float] | None = None

    @property
    def x_range(self) -> tuple[float, float]:
        """The range of the horizontal axis."""
        return _range([value for line in self.lines for value in line.x], 0.0)

    @property
    def y_range(self) -> tuple[float, float]:
        """The range of the vertical axis, with some room."""
        if self.y_limits is not None:
            return self.y_limits
        values = [value for line in self.lines for value in line.y]
        values += [rule.y for rule in self.rules]
        low, high = _range([*values, 0.0] if self.from_zero else values, 0.06)
        return (0.0 if self.from_zero and min(values) >= 0 else low), high

    @property
    def description(self) -> str:
        """What a reader who does not see the panel should know."""
        if self.kind == "points":
            count = sum(len(line.x) for line in self.lines)
            return f"{self.title}: {count:,} points in {len(self.lines)} groups."
        told = [_told(line, self.kind) for line in self.lines[:6]]
        told += [f"{rule.name} at {short(rule.y)}" for rule in self.rules[:6]]
        more = len(self.lines) - 6
        told += [f"and {more} more lines"] if more > 0 else []
        axes = " by ".join(label for label in (self.y_label, self.x_label) if label)
        return f"{self.title}{f' ({axes})' if axes else ''}: {'; '.join(told)}."


class Plot(NamedTuple):
    """Panels with one legend.

    Attributes:
        name: name of the PNG, without its ending.
        title: what they show together.
        panels: at least one panel.
        caption: how to read them.
    """

    name: str
    title: str
    panels: tuple[Panel, ...]
    caption: str = ""

    @property
    def legend(self) -> dict[str, int]:
        """Colours by the names of lines, in their order."""
        return {line.name: line.colour for panel in self.panels for line in panel.lines}

    @property
    def is_shared(self) -> bool:
        """Whether a colour means the same in all panels, so that one legend is enough."""
        pairs = {(line.name, line.colour) for panel in self.panels for line in panel.lines}
        return len({colour for _, colour in pairs}) == len(pairs) == len({n for n, _ in pairs})


def thinned(x: Sequence[float], y: Sequence[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns at most 240 points, each the mean of equally many neighbours.

    Args:
        x, y: finite values, of equal number.
    """
    width = -(-len(x) // _MOST_POINTS)
    if width <= 1:
        return tuple(x), tuple(y)
    starts = range(0, len(x), width)
    xs, ys = (tuple(fmean(values[i : i + width]) for i in starts) for values in (x, y))
    return xs, ys


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Returns round numbers from `low` to `high`, at most `most` + 1 of them."""
    step = _round_up((high - low) / most)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def short(value: float) -> str:
    """Formats a number for an axis or a sentence: 4 digits, thousands with commas."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    text = f"{value:.4g}"
    return "0" if text == "-0" else text


def _range(values: Sequence[float], room: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    if low == high:
        room = 1.0
    margin = (high - low or abs(high) or 1.0) * room
    return low - margin, high + margin


def _round_up(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value))
    return next(
        factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= value * (1 - 1e-9)
    )


def _told(line: Line, kind: str) -> str:
    name = line.name or "it"
    if kind == "steps":
        peak = max(range(len(line.y)), key=line.y.__getitem__)
        return f"{name} is highest at {short((line.x[peak] + line.x[peak + 1]) / 2)}"
    if len(line.y) == 1:
        return f"{name} is {short(line.y[0])}"
    return f"{name} goes from {short(line.y[0])} to {short(line.y[-1])}"


def layers(lines: Sequence[Line]) -> Iterator[Line]:
    """Yields parts of the lines of points in turn, so that the last class hides no other."""
    for first in range(_LAYERS):
        for line in lines:
            yield line._replace(x=line.x[first::_LAYERS], y=line.y[first::_LAYERS])


def corners(line: Line) -> Iterator[tuple[float, float]]:
    """Yields the corners of a histogram's outline, from the axis to the axis."""
    yield line.x[0], 0.0
    for left, right, height in zip(line.x, line.x[1:], line.y, strict=False):
        yield left, height
        yield right, height
    yield line.x[-1], 0.0
