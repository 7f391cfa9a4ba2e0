"""Rows of the report: pools the figures of runs that belong together to mean and deviation."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from nsneg_jax.errors import UsageError
from nsneg_jax.report import published

TEXTURES = "on textures of the images, which show no object: no figure to maximise."
GENERATED = "generated: made by this package or by TFDS, not the released files."

# Name of a set in results.json -> title of its column, in the order of the table.
SET_TITLES = {
    "clean": "ImageNet-100",
    "corruption": "Corruption",
    "sketch": "Sketch",
    "stylized": "Stylized",
    "rendition_100way": "Rendition",
    "rendition_19way": "Rendition (19-way)",
    "v2": "V2",
    "a": "A",
    "texture": "Texture",
    "a_restricted": "A (its classes)",
    "real": "ReaL",
    "objectnet": "ObjectNet",
    "corruption_bar": "Corruption-bar",
    "suppression": "Suppression",
}
# Sets that have no 19-way result share the column of their 100-way result.
_SYNONYMS = {"rendition": "rendition_100way"}
# Figures of linear jobs: field of results.json, its fallback, title.
_PROBE_FIGURES = (
    ("best_accuracy_top1", "accuracy_top1", "linear probe, top-1"),
    ("accuracy_top5", None, "top-5"),
)
_FINE_TUNED = "fine_tuned_top1"
FEWEST_FOR_TOP5 = 6  # classes; of five, the right one is always among the first five


class Result(NamedTuple):
    """The contents of a run's results.json, and its path."""

    path: str
    content: dict[str, Any]


class Figure(NamedTuple):
    """A figure of one run.

    Attributes:
        column: 'sets/NAME' for a set, else a name such as 'knn_20'.
        title: title of the column.
        value: value in percent.
        entry: entry of results.json that holds the figure.
        result: result that holds the entry.
        notes: texts of footnotes.
    """

    column: str
    title: str
    value: float
    entry: dict[str, Any]
    result: Result
    notes: tuple[str, ...] = ()


class Cell(NamedTuple):
    """A figure of a row: `mean` over `runs` runs; `std`, the sample deviation, if more than one."""

    mean: float
    std: float | None
    runs: int
    notes: tuple[str, ...] = ()


@dataclass
class Row:
    """A row of the table: figures and cells by column; published rows have only cells."""

    name: str
    figures: dict[str, list[Figure]] = field(default_factory=dict)
    cells: dict[str, Cell] = field(default_factory=dict)
    published: bool = False
    notes: tuple[str, ...] = ()

    @property
    def runs(self) -> int:
        """The largest number of runs behind a cell."""
        return max((cell.runs for cell in self.cells.values()), default=1)


def number(value: Any) -> float | None:
    """Returns `value` if it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def sets_of(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns the sets with figures in a results.json, by their column."""
    sets = content.get("sets")
    entries: Iterable[tuple[str, Any]] = sets.items() if isinstance(sets, dict) else ()
    return {_SYNONYMS.get(name, name): entry for name, entry in entries if isinstance(entry, dict)}


def pool(results: Sequence[Result]) -> list[Row]:
    """Pools results to rows by label, or by encoder without a label, in the order of results.

    A kNN or linear job has no label. Its figures join the row of the label that other results give
    its encoder, if there is exactly one.

    Raises:
        UsageError: figures of one row and column come from different data.
    """
    labels: dict[str, set[str]] = {}
    for result in results:
        if result.content.get("label"):
            labels.setdefault(result.content["encoder"], set()).add(str(result.content["label"]))
    rows: dict[str, Row] = {}
    for result in results:
        encoder = result.content["encoder"]
        of_encoder = labels.get(encoder, ())
        name = str(result.content.get("label") or "")
        name = name or (next(iter(of_encoder)) if len(of_encoder) == 1 else encoder)
        row = rows.setdefault(name, Row(name))
        for figure in _figures(result):
            others = row.figures.setdefault(figure.column, [])
            if not any(_same_evaluation(figure, other) for other in others):
                others.append(figure)
    for row in rows.values():
        for column, figures in row.figures.items():
            _check_same_data(row.name, figures)
            row.cells[column] = _cell(figures)
    _note_classes(list(rows.values()))
    return list(rows.values())


def published_rows(recipes: str) -> list[Row]:
    """Returns the rows of the authors' tables for `recipes`, e.g. 'AB'."""
    rows = []
    for row in published.ROWS:
        if row.recipe not in recipes:
            continue
        cells = {}
        for name, figure in zip(published.PAPER_SETS, row.figures, strict=True):
            if figure is not None:
                cells[f"sets/{name}"] = Cell(*figure, published.RUNS)
            else:
                cells[f"sets/{name}"] = Cell(
                    math.nan, None, published.RUNS, (published.REPEATED_CELL,)
                )
        notes = (published.PROTOCOL_NOTE, row.note) if row.note else (published.PROTOCOL_NOTE,)
        rows.append(Row(row.name, cells=cells, published=True, notes=notes))
    return rows


def is_imagenet100(rows: Sequence[Row]) -> bool:
    """Returns whether every clean set has 100 classes and consists of files."""
    entries = [figure.entry for row in rows for figure in row.figures.get("sets/clean", ())]
    return bool(entries) and all(
        entry.get("classes") == 100
        and not entry.get("generated")
        and not str(entry.get("source", "")).startswith("shapes")
        for entry in entries
    )


def columns(rows: Sequence[Row], paper_sets: bool) -> dict[str, str]:
    """Returns titles by column, in the order of the table.

    The order is: the paper's sets, related sets, other sets as they come, shape bias, kNN, linear
    probe.

    Args:
        rows: our own rows.
        paper_sets: whether to include the paper's five sets even if no row has them.
    """
    titles = {
        figure.column: figure.title
        for row in rows
        for figures in row.figures.values()
        for figure in figures
    }
    if paper_sets:
        titles = {f"sets/{name}": SET_TITLES[name] for name in published.PAPER_SETS} | titles
    if not is_imagenet100(rows) and "sets/clean" in titles:
        titles["sets/clean"] = "Clean"
    biases = [
        figure.column
        for row in rows
        for figures in row.figures.values()
        for figure in figures
        if figure.entry.get("protocol") == "cue_conflict"
    ]
    known = [f"sets/{name}" for name in SET_TITLES]
    probes = [name for name, _, _ in _PROBE_FIGURES]

    def place(column: str) -> tuple[int, int]:
        if column in known:
            return 0, known.index(column)
        if column in biases:
            return 2, 0
        if column.startswith("knn_"):
            return 3, int(column.removeprefix("knn_"))
        if column in probes:
            return 4, probes.index(column)
        if column == _FINE_TUNED:
            return 5, 0
        return 1, 0

    return {column: titles[column] for column in sorted(titles, key=place)}


def _figures(result: Result) -> list[Figure]:
    content = result.content
    figures = []
    for name, entry in sets_of(content).items():
        title = SET_TITLES.get(name, name)
        if entry.get("protocol") == "cue_conflict":
            value = number(entry.get("shape_bias"))
            title = "shape bias" if name == "cue_conflict" else f"{name}, shape bias"
        else:
            mean = number(entry.get("mean_15"))
            value = number(entry.get("accuracy_top1")) if mean is None else mean
        if value is not None:
            figures.append(Figure(f"sets/{name}", title, value, entry, result, _notes(entry)))
    for name, value in content.items():
        k = name.removeprefix("knn_")
        accuracy = number(value)
        if k != name and k.isdecimal() and accuracy is not None:
            figures.append(Figure(name, f"kNN, k = {int(k)}", accuracy, content, result))
    if content.get("job") == "finetune":
        value = number(content.get("accuracy_top1"))
        if value is not None:
            figures.append(Figure(_FINE_TUNED, "fine-tuned, top-1", value, content, result))
        return figures
    for name, instead, title in _PROBE_FIGURES:
        value = number(content.get(name))
        if value is None and instead is not None:
            value = number(content.get(instead))
        few = name == "accuracy_top5" and not has_top5(number(content.get("classes")))
        if value is not None and not few:
            figures.append(Figure(name, title, value, content, result))
    return figures


def has_top5(answers: float | None) -> bool:
    """Returns whether top-5 says anything where so many answers are possible; None: not known."""
    return answers is None or answers >= FEWEST_FOR_TOP5


def _notes(entry: dict[str, Any]) -> tuple[str, ...]:
    notes = [GENERATED] if entry.get("generated") is True else []
    seen, expected = number(entry.get("files_seen")), number(entry.get("files_expected"))
    if seen is not None and expected is not None and seen != expected:
        notes.append(f"{seen:,.0f} of {expected:,.0f} files.")
    notes += _missing_settings(entry)
    if entry.get("restricted") is True and isinstance(entry.get("categories"), list):
        categories = [str(category) for category in entry["categories"]]
        notes.append(f"restricted to {len(categories)} categories: {', '.join(categories)}.")
    unreadable = number(entry.get("unreadable"))
    if entry.get("protocol") == "texture":
        notes.append(TEXTURES)
    if unreadable:
        notes.append(f"{unreadable:,.0f} unreadable images are left out.")
    return tuple(notes)


def _missing_settings(entry: dict[str, Any]) -> list[str]:
    there, expected = number(entry.get("settings")), number(entry.get("settings_expected"))
    parts = parts_of(entry)
    if expected is None and parts:  # of an earlier version, which knew only ImageNet-C
        # Imported here, because only this needs JAX.
        from nsneg_jax.corruptions import registry, settings_of

        tested = settings_of(registry.TEST)
        expected = len(tested)
        there = sum(severity in parts.get(name, {}) for name, severity in tested)
    if there == expected or there is None or expected is None:
        return []
    return [f"mean over {there:.0f} of the {expected:.0f} settings (corruption and severity)."]


def parts_of(entry: dict[str, Any]) -> dict[str, dict[int, float]]:
    """Returns the available accuracies by corruption and severity, from 1."""
    parts = entry.get("parts")
    accuracies = {}
    for name, by_severity in parts.items() if isinstance(parts, dict) else ():
        if isinstance(by_severity, dict):
            values = {int(s): number(v) for s, v in by_severity.items() if s.isdecimal()}
            accuracies[name] = {s: v for s, v in sorted(values.items()) if s and v is not None}
    return accuracies


def _same_evaluation(figure: Figure, other: Figure) -> bool:
    """Returns whether both come from one classifier on the same data, so are no separate runs."""
    one, two = figure.result.content, other.result.content
    return (
        "classifier" in one
        and (one["encoder"], one["classifier"]) == (two["encoder"], two.get("classifier"))
        and figure.entry == other.entry
    )


def _check_same_data(row: str, figures: Sequence[Figure]) -> None:
    first = figures[0]
    for figure in figures[1:]:
        for name in ("protocol", "generated", "classes", "ways", "view", "validation_images"):
            one, two = first.entry.get(name), figure.entry.get(name)
            if one is not None and two is not None and one != two:
                raise UsageError(
                    f"{first.result.path} and {figure.result.path} both belong to the row "
                    f"{row!r}, but their {first.column.removeprefix('sets/')!r} is not of the same "
                    f"data: {name} is {one} and {two}, so a mean over them would say nothing. "
                    "Report them apart, or give the evaluations different --config.label=NAME."
                )


def _note_classes(rows: Sequence[Row]) -> None:
    """Adds notes on the number of possible classes where the rows of a column differ in it."""
    for column in dict.fromkeys(column for row in rows for column in row.figures):
        having = [row for row in rows if column in row.figures]
        ways = [row.figures[column][0].entry.get("ways") for row in having]
        if len(set(map(str, ways))) > 1:
            for row, way in zip(having, ways, strict=True):
                cell = row.cells[column]
                note = "unknown" if way is None else f"{way}"
                row.cells[column] = cell._replace(
                    notes=(*cell.notes, f"number of classes that can be answered: {note}.")
                )


def _cell(figures: Sequence[Figure]) -> Cell:
    values = [figure.value for figure in figures]
    notes = dict.fromkeys(note for figure in figures for note in figure.notes)
    std = statistics.stdev(values) if len(values) > 1 else None
    return Cell(statistics.fmean(values), std, len(values), tuple(notes))
