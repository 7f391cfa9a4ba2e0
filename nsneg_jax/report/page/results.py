"""The figures of a page that come from results: plots of corruptions, similarities and maps."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import Any

import numpy as np

from nsneg_jax.report import plots
from nsneg_jax.report.charts.panels import Line, Panel, Plot, Rule
from nsneg_jax.report.page import html
from nsneg_jax.report.page.gallery import Gallery, Map
from nsneg_jax.report.rows import Row, columns, number
from nsneg_jax.report.similarities import TITLES

_MOST_CLASSES = 20  # rows of the table of classes that are shown at once
_MOST_BINS = 50  # of a histogram; finer ones show noise


def corruptions(rows: Sequence[Row]) -> Plot | None:
    """Returns accuracy by corruption and severity, with clean accuracy and chance as lines.

    The clean accuracy is of the same row, dashed in its colour. Returns None without corruptions.
    """
    lines = plots.corruption_lines(rows)
    if not lines:
        return None
    names = dict.fromkeys(name for by_name in lines.values() for name in by_name)
    clean = _clean_rules(rows, list(lines))
    panels = []
    for name in names:
        drawn = []
        for colour, (title, by_name) in enumerate(lines.items()):
            points = sorted(by_name.get(name, {}).items())
            if points:
                severities = tuple(float(severity) for severity, _ in points)
                means = tuple(statistics.fmean(values) for _, values in points)
                drawn.append(Line(title, severities, means, colour))
        title = name.replace("_", " ")
        panels.append(Panel(title, tuple(drawn), "severity", "top-1 in %", clean, from_zero=True))
    chance = next((rule.y for rule in clean if rule.colour is None), None)
    caption = "Top-1 in % by severity. Dashes in the colour of a line: accuracy on clean images."
    if chance is not None:
        caption += f" Grey dashes: chance, {chance:.3g}\N{NO-BREAK SPACE}%."
    return Plot("corruptions", "Accuracy by corruption", _to_scale(panels), caption)


def similarities(measured: Mapping[str, Mapping[str, Any]]) -> Plot | None:
    """Returns histograms of the similarities of queries, a panel per run."""
    if not measured:
        return None
    kinds = list(dict.fromkeys(kind for each in measured.values() for kind in each["kinds"]))
    panels = []
    for name, content in measured.items():
        together = max(1, content["bins"] // _MOST_BINS)
        edges = np.linspace(-1, 1, content["bins"] // together + 1)
        lines = []
        for kind, figures in content["kinds"].items():
            counts = np.asarray(figures["counts"], float).reshape(-1, together).sum(axis=1)
            density = counts / max(counts.sum(), 1) / np.diff(edges)
            title = TITLES.get(kind, f"{kind} negative")
            x, y = tuple(edges.round(4).tolist()), tuple(density.tolist())
            lines.append(Line(title, x, y, kinds.index(kind)))
        title = (
            f"{name}, step {content['step']:,}"
            if len(measured) > 1
            else f"step {content['step']:,}"
        )
        label = "cosine similarity to the query"
        panels.append(Panel(title, tuple(lines), label, "density", kind="steps", from_zero=True))
    queries = ", ".join(dict.fromkeys(f"{each['images']:,}" for each in measured.values()))
    caption = (
        f"Similarities of {queries} queries per run to their keys, to other images and to their "
        "non-semantic negatives, in the steps that the run would take next. Negatives left of the "
        "keys are told from them."
    )
    return Plot("similarities", "Similarities of queries", _to_scale(panels), caption)


def maps(galleries: Mapping[str, Gallery], found: Mapping[str, Map]) -> Plot | None:
    """Returns the maps of features, a panel per run, coloured by class."""
    panels = []
    for name, gallery in galleries.items():
        places = found[name].places
        lines: list[Line] = []
        for label in sorted(set(gallery.labels.tolist())):
            of_class = np.flatnonzero(gallery.labels == label)
            title = gallery.class_of(int(of_class[0]))
            x, y = places[of_class].T.round(4).tolist()
            lines.append(Line(title, tuple(x), tuple(y), len(lines)))
        title = f"{name}: {found[name].method}" if len(galleries) > 1 else found[name].method
        panels.append(Panel(title, tuple(lines), kind="points"))
    if not panels:
        return None
    about = "; ".join(dict.fromkeys(gallery.about for gallery in galleries.values()))
    caption = (
        f"Each point is an image ({about}), coloured by its class; near points have similar "
        "features. Distances between far groups mean little."
    )
    return Plot("map", "Map of features", tuple(panels), caption)


def classes(rows: Sequence[Row]) -> str:
    """Returns the table of accuracies by class, as HTML; '' without any."""
    titles = columns(rows, paper_sets=False)
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        for column, figures in row.figures.items():
            pooled: dict[str, list[float]] = {}
            for figure in figures:
                by_class = figure.entry.get("by_class")
                for name, value in by_class.items() if isinstance(by_class, dict) else ():
                    accuracy = number(value)
                    if accuracy is not None:
                        pooled.setdefault(name, []).append(accuracy)
            if pooled:
                title = f"{row.name}, {titles[column]}" if len(rows) > 1 else titles[column]
                found[title] = {name: statistics.fmean(v) for name, v in pooled.items()}
    if not found:
        return ""
    first = next(iter(found.values()))
    names = sorted(
        {name for each in found.values() for name in each},
        key=lambda name: (-first.get(name, -1.0), name),
    )
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in found)
    lines = [
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(_bar(each.get(name)) for each in found.values())
        + "</tr>"
        for name in names
    ]
    table = _class_table(head, lines[:_MOST_CLASSES])
    if len(lines) > _MOST_CLASSES:
        rest = _class_table(head, lines[_MOST_CLASSES:])
        table += (
            f"<details><summary>{len(lines) - _MOST_CLASSES} more classes</summary>{rest}</details>"
        )
    return (
        html.paragraph(
            "Top-1 in % by class, the mean over the runs of a row; sorted by the first column.",
            "note",
        )
        + table
    )


def _class_table(head: str, lines: Sequence[str]) -> str:
    return (
        '<div class="scroll" tabindex="0" role="group" aria-label="Accuracy by class"><table>'
        f'<thead><tr><th scope="col">class</th>{head}</tr></thead><tbody>{"".join(lines)}</tbody>'
        "</table></div>"
    )


def _bar(value: float | None) -> str:
    if value is None:
        return "<td>-</td>"
    width = max(0.0, min(100.0, value))
    bar = f'<span class="bar" aria-hidden="true"><i style="width:{width:.0f}%"></i></span>'
    return f"<td>{value:.1f}{bar}</td>"


def _to_scale(panels: Sequence[Panel]) -> tuple[Panel, ...]:
    """Gives panels that begin at 0 the same vertical axis."""
    highest = max(panel.y_range[1] for panel in panels)
    return tuple(replace(panel, y_limits=(0.0, highest)) for panel in panels)


def _clean_rules(rows: Sequence[Row], titles: Sequence[str]) -> tuple[Rule, ...]:
    """Returns the clean accuracy of each line's row, and chance if it is the same for all."""
    rules, ways = [], set()
    for row in rows:
        clean = row.cells.get("sets/clean")
        of_row = [
            i
            for i, title in enumerate(titles)
            if title == row.name or title.startswith((f"{row.name} (", f"{row.name}, "))
        ]
        if clean is not None and of_row:
            rules.append(Rule(f"{row.name}, clean", clean.mean, of_row[0]))
        for figures in row.figures.values():
            for figure in figures:
                if figure.entry.get("protocol") == "corruption":
                    ways.add(number(figure.entry.get("ways")))
    if len(ways) == 1 and (way := ways.pop()):
        rules.append(Rule("chance", 100 / way))
    return tuple(rules)
