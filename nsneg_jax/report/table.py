"""The report as text: Markdown tables with footnotes, and CSV."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from nsneg_jax.report.consistency import Answers, consistencies
from nsneg_jax.report.pairs import differences
from nsneg_jax.report.rows import TEXTURES, Cell, Figure, Row, columns, has_top5, number

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
        part
        for part in (markdown_table(lines), " ".join(caption), "\n".join(footnotes.lines()))
        if part
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
    return f"{markdown_table(lines)}\n\n{caption}"


def sets_table(ours: Sequence[Row]) -> str:
    """Returns the table of single runs by set, with bootstrap intervals; '' if there are none."""
    lines = []
    for row, title, figure in _single(ours, shape_bias=False):
        entry = figure.entry
        ways = number(entry.get("ways"))
        lines.append(
            [
                _escaped(row.name),
                _escaped(title),
                f"{figure.value:.2f}",
                _interval(entry.get("interval_top1")),
                _number(entry, "accuracy_top5", ".2f") if has_top5(ways) else DASH,
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


def class_table(ours: Sequence[Row]) -> str:
    """Returns the accuracies by class on clean images and on textures; '' without textures.

    Means over the runs of a row; classes whose textures are recognised best come first.
    """
    titles = columns(ours, paper_sets=False)
    header, columns_of, textures = ["class"], [], []
    for row in ours:
        for column, figures in row.figures.items():
            is_texture = figures[0].entry.get("protocol") == "texture"
            accuracies = _by_class(figures) if is_texture or column == "sets/clean" else {}
            if accuracies:
                header.append(_escaped(f"{row.name}, {titles[column]}"))
                columns_of.append(accuracies)
                textures += [accuracies] * is_texture
    names = {name for accuracies in textures for name in accuracies}
    mean = {name: fmean(each[name] for each in textures if name in each) for name in names}
    lines = [
        [_escaped(name), *(_number(accuracies, name, ".1f") for accuracies in columns_of)]
        for name in sorted(names, key=lambda name: (-mean[name], name))
    ]
    return _titled("Top-1 in % by class:", header, lines)


def _by_class(figures: Sequence[Figure]) -> dict[str, float]:
    """Returns the mean accuracies of runs by class."""
    entries = [figure.entry.get("by_class") for figure in figures]
    pooled: dict[str, list[float]] = {}
    for entry in entries:
        for name, accuracy in entry.items() if isinstance(entry, dict) else ():
            pooled.setdefault(name, []).append(accuracy)
    return {name: fmean(accuracies) for name, accuracies in pooled.items()}


def corruption_table(ours: Sequence[Row]) -> str:
    """Returns the table of single runs' errors on corruptions; '' if none is recorded."""
    names = ("clean_top1", "mce", "relative_mce")
    lines = [
        [
            _escaped(row.name),
            _escaped(title),
            f"{figure.value:.2f}",
            *(_number(figure.entry, name, ".2f") for name in names),
            _number(figure.entry, "ways", ",.0f"),
        ]
        for row, title, figure in _single(ours, shape_bias=False)
        if any(number(figure.entry.get(name)) is not None for name in names)
    ]
    header = ["run", "set", "top-1", "clean top-1 of the same classes", "mCE", "relative mCE"]
    text = _titled("Single runs on corruptions:", [*header, "classes to answer"], lines)
    if not text:
        return ""
    return (
        f"{text}\n\nmCE is relative to AlexNet's errors with 1000 classes to answer; with another "
        "number, compare it only among runs of that number."
    )


def consistency_table(groups: Mapping[str, Sequence[Answers]], title: str) -> str:
    """Returns the table of error consistency between groups; '' if no two observers share images.

    Args:
        groups: answers of each observer, by row or by file.
        title: name of the set.
    """
    found = consistencies(groups)
    if not found:
        return ""
    lines = [
        [
            _escaped(one),
            str(len(groups[one])),
            *(f"{found[one, two][0]:.3f}" if (one, two) in found else DASH for two in groups),
        ]
        for one in groups
    ]
    header = [f"{_escaped(title)}", "observers", *map(_escaped, groups)]
    caption = (
        "Cohen's kappa of right answers, the shape, mean over pairs of observers: 1 if they err on "
        "the same images, 0 if by chance. Between the runs of a row on the diagonal."
    )
    return f"{_titled('Error consistency:', header, lines)}\n\n{caption}"


def shape_table(ours: Sequence[Row]) -> str:
    """Returns the table of single runs' decisions on cue conflicts; '' if there are none."""
    lines = [
        [
            _escaped(row.name),
            _escaped(title),
            f"{figure.value:.2f}",
            _number(figure.entry, "shape_decisions", ",.0f"),
            _number(figure.entry, "texture_decisions", ",.0f"),
            *(_accuracy(figure.entry, cue) for cue in ("shape", "texture")),
            _number(figure.entry, "images", ",.0f"),
            _number(figure.entry, "unreadable", ",.0f"),
            _yes(figure.entry.get("generated")),
        ]
        for row, title, figure in _single(ours, shape_bias=True)
    ]
    header = ["run", "set", "shape bias", "shape decisions", "texture decisions"]
    header += ["shape accuracy", "texture accuracy", "images", "unreadable", "generated"]
    return _titled("Single runs on cue conflicts:", header, lines)


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
    if len(cells) < 2 or len({cell.notes for cell in cells}) > 1 or TEXTURES in cells[0].notes:
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


def _accuracy(entry: dict[str, Any], cue: str) -> str:
    """Returns the percentage of all images that were decided by a cue."""
    decided, images = number(entry.get(f"{cue}_decisions")), number(entry.get("images"))
    return DASH if decided is None or not images else f"{100 * decided / images:.2f}"


def _interval(value: Any) -> str:
    ends = [number(end) for end in value] if isinstance(value, list) else []
    return f"{ends[0]:.2f} to {ends[1]:.2f}" if len(ends) == 2 and None not in ends else DASH


def _yes(value: Any) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else DASH


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _titled(title: str, header: list[str], lines: list[list[str]]) -> str:
    return f"{title}\n\n{markdown_table([header, *lines])}" if lines else ""


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
    """Returns lines of cells, the header first, as a Markdown table."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rule = ["-" * max(3, width) for width in widths]
    return "\n".join(
        "| "
        + " | ".join(text.ljust(max(3, width)) for text, width in zip(line, widths, strict=True))
        + " |"
        for line in (lines[0], rule, *lines[1:])
    )
