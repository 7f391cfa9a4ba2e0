"""The report as text: Markdown tables with footnotes, and CSV."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from typing import Any

from nsneg_jax.report.pairs import differences
from nsneg_jax.report.rows import Cell, Figure, Row, columns, number

DASH = "-"


class Footnotes:
    """Numbers notes in the order of their first use."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def marked(self, text: str, notes: Iterable[str]) -> str:
        """Returns `text` followed by the marks of `notes`."""
        marks = [f"({self._numbers.setdefault(note, len(self._numbers) + 1)})" for note in notes]
        return " ".join([text, *marks])

    def lines(self) -> list[str]:
        """Returns the notes as a Markdown list."""
        return [f"* ({number}) {note}" for note, number in self._numbers.items()]


def main_table(ours: Sequence[Row], published: Sequence[Row], paper_sets: bool) -> str:
    """Returns the main table: one row per label or encoder, one column per figure, with footnotes.

    A mark in a header holds for its whole column. The best of our rows is bold if two or more have
    the figure and their marks are equal.

    Args:
        ours: our own rows.
        published: the authors' rows, never bold.
        paper_sets: whether to include the paper's five columns even if no row has them.
    """
    titles = columns(ours, paper_sets or bool(published))
    rows = [*ours, *published]
    counted = any(row.runs > 1 for row in rows)
    footnotes = Footnotes()
    header = ["run", "n"] if counted else ["run"]
    in_header, best = {}, {}
    for column, title in titles.items():
        cells = [row.cells[column] for row in rows if column in row.cells]
        in_header[column] = _shared(cells) if cells else []
        header.append(footnotes.marked(_escaped(title), in_header[column]))
        best[column] = _best(ours, column)
    lines = [header]
    for row in rows:
        line = [footnotes.marked(_escaped(row.name), row.notes)]
        if counted:
            line.append(str(row.runs))
        for column in titles:
            text = _cell_text(row, column)
            bold = not row.published and best[column] is not None and text != DASH
            if bold and _shown(row.cells[column].mean) == best[column]:
                text = f"**{text}**"
            notes = row.cells[column].notes if column in row.cells else ()
            line.append(
                footnotes.marked(text, [note for note in notes if note not in in_header[column]])
            )
        lines.append(line)
    caption = ["All figures in %."]
    if counted:
        caption.append("Of n runs: mean±sample standard deviation.")
    if any(value is not None for value in best.values()):
        caption.append("Bold: the best of ours.")
    return "\n\n".join(
        part for part in (_markdown(lines), " ".join(caption), "\n".join(footnotes.lines())) if part
    )


def difference_table(ours: Sequence[Row], baseline: str) -> str:
    """Returns the table of differences from the row `baseline`; '' if no runs can be paired.

    Raises:
        UsageError: there is no such row.
    """
    found = differences(ours, baseline)
    titles = columns(ours, paper_sets=False)
    having = [c for c in titles if any(c in of_row for of_row in found.values())]
    if not having:
        return ""
    lines = [[f"minus {_escaped(baseline)}", "pairs", *(_escaped(titles[c]) for c in having)]]
    for name, of_row in found.items():
        pairs = [difference.pairs for difference in of_row.values()] or [0]
        span = dict.fromkeys((min(pairs), max(pairs)))
        lines.append([_escaped(name), " to ".join(map(str, span))])
        for column in having:
            difference = of_row.get(column)
            if difference is None:
                lines[-1].append(DASH)
                continue
            error = "" if difference.error is None else f"±{difference.error:.2f}"
            text = f"{difference.mean:+.2f}{error}"
            lines[-1].append(f"**{text}**" if difference.clear else text)
    caption = (
        "Differences in points: mean±standard error over pairs of runs of the same seed. Bold: "
        "more than two standard errors from zero."
    )
    return f"{_markdown(lines)}\n\n{caption}"


def sets_table(ours: Sequence[Row]) -> str:
    """Returns the table of single runs by set, with bootstrap intervals; '' if there are none."""
    lines = []
    for row, title, figure in _single(ours, shape_bias=False):
        entry = figure.entry
        lines.append(
            [
                _escaped(row.name),
                _escaped(title),
                f"{figure.value:.2f}",
                _interval(entry.get("interval_top1")),
                _number(entry, "accuracy_top5", ".2f"),
                _number(entry, "calibration_rms", ".2f"),
                _number(entry, "images", ",.0f"),
                _number(entry, "unreadable", ",.0f"),
                _yes(entry.get("generated")),
            ]
        )
        mean_19 = number(entry.get("mean_19"))
        if mean_19 is not None:
            lines.append([_escaped(row.name), f"{_escaped(title)}, mean of 19", f"{mean_19:.2f}"])
            lines[-1] += [DASH] * 5 + [_yes(entry.get("generated"))]
    header = ["run", "set", "top-1", "95 % interval", "top-5", "calibration error", "images"]
    return _titled("Single runs by set:", [*header, "unreadable", "generated"], lines)


def shape_table(ours: Sequence[Row]) -> str:
    """Returns the table of single runs' decisions on cue conflicts; '' if there are none."""
    lines = [
        [
            _escaped(row.name),
            _escaped(title),
            f"{figure.value:.2f}",
            _number(figure.entry, "shape_decisions", ",.0f"),
            _number(figure.entry, "texture_decisions", ",.0f"),
            _number(figure.entry, "images", ",.0f"),
            _number(figure.entry, "unreadable", ",.0f"),
            _yes(figure.entry.get("generated")),
        ]
        for row, title, figure in _single(ours, shape_bias=True)
    ]
    header = ["run", "set", "shape bias", "shape decisions", "texture decisions", "images"]
    return _titled("Single runs on cue conflicts:", [*header, "unreadable", "generated"], lines)


def missing_list(contents: Iterable[dict[str, Any]]) -> str:
    """Lists the sets that evaluations did not find, and where to get them; '' if none."""
    lines = dict.fromkeys(
        f"* {name}: {' '.join(str(where).split())}"
        for content in contents
        if isinstance(content.get("missing"), dict)
        for name, where in content["missing"].items()
    )
    return "\n".join(["Not found by the evaluation:", "", *lines]) if lines else ""


def kept_list(contents: Iterable[dict[str, Any]]) -> str:
    """Lists parts that evaluations kept from their earlier starts, and from when; '' if none."""
    lines = []
    for content in contents:
        kept = content.get("kept")
        entries = kept.items() if isinstance(kept, dict) else ()
        sets = [
            f"{name} ({_number(entry, 'parts', ',.0f')} parts, the first of {entry.get('since')})"
            for name, entry in entries
            if isinstance(entry, dict)
        ]
        if sets:
            row = content.get("label") or content.get("classifier") or content["encoder"]
            lines.append(f"* {_escaped(str(row))}: {', '.join(sets)}")
    found = "\n".join(dict.fromkeys(lines))
    return f"Kept from earlier starts of the evaluation:\n\n{found}" if found else ""


def csv_text(ours: Sequence[Row], published: Sequence[Row], paper_sets: bool) -> str:
    """Returns CSV with a line per row and column: row, origin, column, mean, std, runs, notes."""
    titles = columns(ours, paper_sets or bool(published))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["row", "origin", "column", "mean", "std", "runs", "notes"])
    for row in [*ours, *published]:
        for column in titles:
            cell = row.cells.get(column)
            if cell is not None and math.isfinite(cell.mean):
                std = "" if cell.std is None else f"{cell.std:.4f}"
                origin = "published" if row.published else "ours"
                name = column.removeprefix("sets/")
                values = [f"{cell.mean:.4f}", std, cell.runs, " ".join(cell.notes)]
                writer.writerow([row.name, origin, name, *values])
    return file.getvalue()


def _shared(cells: Sequence[Cell]) -> list[str]:
    """Returns the notes that hold for every cell."""
    return [note for note in cells[0].notes if all(note in cell.notes for cell in cells)]


def _best(ours: Sequence[Row], column: str) -> str | None:
    """Returns the highest mean as shown; None if the cells cannot be compared."""
    cells = [row.cells[column] for row in ours if column in row.cells]
    if len(cells) < 2 or len({cell.notes for cell in cells}) > 1:
        return None
    return _shown(max(cell.mean for cell in cells))


def _shown(value: float) -> str:
    return f"{value:.2f}"


def _cell_text(row: Row, column: str) -> str:
    cell = row.cells.get(column)
    if cell is None or not math.isfinite(cell.mean):
        return DASH
    std = "" if cell.std is None else f"±{cell.std:.2f}"
    runs = "" if cell.runs == row.runs else f" (n={cell.runs})"
    return f"{_shown(cell.mean)}{std}{runs}"


def _single(ours: Sequence[Row], shape_bias: bool) -> Iterable[tuple[Row, str, Figure]]:
    titles = columns(ours, paper_sets=False)
    for row in ours:
        for column, title in titles.items():
            figures = row.figures.get(column, ())
            if len(figures) == 1 and column.startswith("sets/"):
                conflicts = figures[0].entry.get("protocol") == "cue_conflict"
                if conflicts == shape_bias:
                    yield row, title, figures[0]


def _number(entry: dict[str, Any], name: str, form: str) -> str:
    value = number(entry.get(name))
    return DASH if value is None else format(value, form)


def _interval(value: Any) -> str:
    ends = [number(end) for end in value] if isinstance(value, list) else []
    return f"{ends[0]:.2f} to {ends[1]:.2f}" if len(ends) == 2 and None not in ends else DASH


def _yes(value: Any) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else DASH


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _titled(title: str, header: list[str], lines: list[list[str]]) -> str:
    return f"{title}\n\n{_markdown([header, *lines])}" if lines else ""


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rule = ["-" * max(3, width) for width in widths]
    return "\n".join(
        "| "
        + " | ".join(text.ljust(max(3, width)) for text, width in zip(line, widths, strict=True))
        + " |"
        for line in (lines[0], rule, *lines[1:])
    )
