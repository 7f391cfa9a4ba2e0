"""Builds the page of one or several runs, and the same plots as PNGs."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from nsneg_jax.errors import RunError, UsageError
from nsneg_jax.report import similarities
from nsneg_jax.report.charts import png, svg
from nsneg_jax.report.charts.panels import Plot
from nsneg_jax.report.page import about, curves, html, images, results
from nsneg_jax.report.page import gallery as galleries
from nsneg_jax.report.page.conflicts import CUES, Example, answers, cue, some
from nsneg_jax.report.page.gallery import Gallery, Map
from nsneg_jax.report.page.runs import Run
from nsneg_jax.report.rows import Row
from nsneg_jax.training.workdir import GALLERY

IMAGES = 1000  # of a gallery

_MOST_PICTURED = 6  # runs with pictures on a page, which has to stay below 5 MB
_EXAMPLES = 6  # cue conflicts per cue
_READ = 200  # images that are read to find them


class Measures(NamedTuple):
    """What measures a run where its files do not hold it yet; see `nsneg_jax.analysis`.

    Attributes:
        similarities: takes a run.
        gallery: takes a pre-training and a number of images.
        features: takes a features job and a number of images.
        conflicts: takes an evaluation, the name of a set, and names of images.
    """

    similarities: Callable[[Path], dict[str, Any]]
    gallery: Callable[[Path, int], Gallery]
    features: Callable[[Path, int], Gallery]
    conflicts: Callable[[Path, str, Sequence[str]], dict[str, Example]]


@dataclass
class Found:
    """What is known of some runs.

    Attributes:
        runs: their files.
        rows: rows of the report; [] without results.
        tables: the report as Markdown; '' without results.
        similarities: see `report.similarities.read`, by run.
        galleries, maps: by run.
        conflicts: examples by the name of run and set.
        reasons: sentences that say what could not be measured, and why.
    """

    runs: Sequence[Run]
    rows: Sequence[Row] = ()
    tables: str = ""
    similarities: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    galleries: dict[str, Gallery] = field(default_factory=dict)
    maps: dict[str, Map] = field(default_factory=dict)
    conflicts: dict[str, images.Conflicts] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)


def measure(found: Found, measures: Measures | None, *, pictures: bool) -> None:
    """Adds similarities, galleries, maps and cue conflicts, as far as they can be had.

    Args:
        found: runs, rows and tables.
        measures: None takes only what files hold.
        pictures: False adds only the similarities.
    """
    pictured = answered = 0
    for run in found.runs:
        if run.job == "pretrain":
            with _noted(found, f"Similarities of {run.name}"):
                reading = measures and _told(measures.similarities)
                found.similarities[run.name] = similarities.read(run.given, reading)
        if not pictures:
            continue
        if run.job in ("pretrain", "features") and pictured < _MOST_PICTURED:
            pictured += 1
            with _noted(found, f"Neighbours and map of {run.name}"):
                found.galleries[run.name] = _gallery(run, measures)
        if run.job == "evaluate" and measures is not None and answered < _MOST_PICTURED:
            answered += 1
            with _noted(found, f"Cue conflicts of {run.name}"):
                _add_conflicts(found, run, measures)
    for name, gallery in found.galleries.items():
        found.maps[name] = galleries.plane(gallery)


def page(found: Found) -> str:
    """Returns the page."""
    runs = found.runs
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs: {', '.join(_names(runs))}"
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    intro = html.paragraph(
        f"Made by nsneg report on {made}. Charts show values under the pointer, and with the arrow "
        "keys when focused."
    )
    trained, probed = _curves(runs)
    parts = (
        ("runs", "What was run", _runs(runs)),
        ("settings", "Different settings", about.settings(runs)),
        ("curves", "Pre-training", _plotted(trained)),
        ("probe", "Training on labels", _plotted(probed)),
        ("views", "Query, key and negatives", _views(runs)),
        (
            "similarities",
            "Similarities of queries",
            _plotted(results.similarities(found.similarities)),
        ),
        ("robustness", "Results", html.from_markdown(found.tables) if found.tables else ""),
        (
            "corruptions",
            "Accuracy by corruption",
            _plotted(results.corruptions(found.rows), "small"),
        ),
        ("classes", "Accuracy by class", results.classes(found.rows)),
        ("conflicts", "Shape or texture: answers to cue conflicts", _conflicts(found)),
        ("neighbours", "Nearest neighbours", _neighbours(found)),
        ("map", "Map of features", _plotted(results.maps(found.galleries, found.maps))),
        ("more", "What else could be here", _more(found)),
    )
    sections = {anchor: (heading, text) for anchor, heading, text in parts if text}
    return html.page(title, sections, intro)


def save_pngs(found: Found, folder: Path) -> list[Path]:
    """Draws the plots and pictures of the page to PNGs in `folder`; returns their paths, sorted.

    Raises:
        UsageError: matplotlib is missing.
    """
    plots = [
        *_curves(found.runs),
        results.similarities(found.similarities),
        results.corruptions(found.rows),
        results.maps(found.galleries, found.maps),
    ]
    for plot in plots:
        if plot is not None:
            png.save(plot, folder / f"{plot.name}.png")
    images.save_sheets(found.runs, found.galleries, found.conflicts, folder)
    return sorted(folder.glob("*.png"))


@contextmanager
def _noted(found: Found, what: str) -> Iterator[None]:
    """Keeps an error of one run from ending the page of all, and notes it instead."""
    try:
        yield
    except (UsageError, RunError) as error:
        found.reasons.append(f"{what}: {error}")


def _told(function: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """Returns `function`, which first says what it does: it may take minutes."""

    def telling(run: Path) -> Any:
        print(f"measuring the similarities of {run}", file=sys.stderr, flush=True)
        return function(run)

    return telling


def _gallery(run: Run, measures: Measures | None) -> Gallery:
    """Returns a gallery from the run's files, or computes it and leaves it there."""
    if run.job == "features":
        if measures is None:
            raise UsageError("They are not read with --no_measure.")
        return measures.features(run.path, IMAGES)
    if run.step is None:
        raise UsageError("The run has no checkpoint yet.")
    kept = run.path / GALLERY / f"{run.step}.npz"
    if not kept.exists():
        if measures is None:
            raise UsageError(f"There is no {kept}. Leave out --no_measure to make it.")
        print(f"computing features of images of {run.given}", file=sys.stderr, flush=True)
        galleries.save(measures.gallery(run.given, IMAGES), kept)
    return galleries.load(kept)


def _add_conflicts(found: Found, run: Run, measures: Measures) -> None:
    for name, entry in run.results.get("sets", {}).items():
        given = answers(run.path / f"{name}.csv")
        if not isinstance(entry, dict) or entry.get("protocol") != "cue_conflict":
            continue
        if not given:
            raise UsageError(
                f"There is no {run.path / name}.csv. The evaluation writes it: run it again, which "
                "keeps what it has measured."
            )
        wanted = some(given, _READ)
        examples = measures.conflicts(run.path, name, [answer.name for answer in wanted])
        by_cue: dict[str, list[tuple[Example, str]]] = {each: [] for each in CUES}
        for answer in wanted:
            example = examples.get(answer.name)
            if example is not None:
                by_cue[cue(answer, example)].append((example, answer.answer))
        found.conflicts[f"{run.name}, {name}"] = {
            each: _spread(chosen) for each, chosen in by_cue.items()
        }


def _spread(found: Sequence[tuple[Example, str]]) -> list[tuple[Example, str]]:
    return [found[i] for i in galleries.spread(len(found), _EXAMPLES)] if found else []


def _names(runs: Sequence[Run]) -> list[str]:
    names = [run.name for run in runs]
    return names if len(names) <= 4 else [*names[:3], f"and {len(names) - 3} more"]


def _runs(runs: Sequence[Run]) -> str:
    trained = [run for run in runs if run.job == "pretrain" and run.metrics]
    table = ""
    if trained:
        table = html.table(*about.last_figures(trained), "Last figures of pre-training")
    return about.cards(runs) + table


def _curves(runs: Sequence[Run]) -> tuple[Plot | None, Plot | None]:
    """Returns the curves of pre-trainings and of labelled trainings."""
    return (
        curves.pretraining([run for run in runs if run.job == "pretrain"]),
        curves.probes([run for run in runs if run.job in ("linear", "finetune")]),
    )


def _plotted(plot: Plot | None, kind: str = "") -> str:
    if plot is None:
        return ""
    caption = html.paragraph(plot.caption, "note") if plot.caption else ""
    return caption + svg.figures(plot, kind)


def _views(runs: Sequence[Run]) -> str:
    trained = [run for run in runs if run.job == "pretrain"][:_MOST_PICTURED]
    sheets = {run.name: images.views_sheet(run) for run in trained}
    parts = [html.heading(name) + sheet for name, sheet in sheets.items() if sheet]
    if not parts:
        return ""
    caption = "Views of the first images of the run, a column per image."
    return html.paragraph(caption, "note") + "".join(parts)


def _conflicts(found: Found) -> str:
    parts = [
        html.heading(name) + images.conflicts_sheets(examples)
        for name, examples in found.conflicts.items()
        if any(examples.values())
    ]
    if not parts:
        return ""
    caption = (
        "The shape of one class and the texture of another: what the classifier answered. At most "
        f"{_EXAMPLES} images per answer; the table of results has the numbers."
    )
    return html.paragraph(caption, "note") + "".join(parts)


def _neighbours(found: Found) -> str:
    sheets = {n: images.neighbours_sheet(gallery, n) for n, gallery in found.galleries.items()}
    parts = [html.heading(name) + sheet for name, sheet in sheets.items() if sheet]
    if not parts:
        return ""
    caption = (
        "The images whose features have the largest cosine with those of the first. Green: the "
        "same class; orange: another."
    )
    return html.paragraph(caption, "note") + "".join(parts)


def _more(found: Found) -> str:
    reasons = list(found.reasons)
    able = [run for run in found.runs if run.job in ("pretrain", "features")]
    if len(able) > _MOST_PICTURED:
        reasons.append(
            f"Pictures are of the first {_MOST_PICTURED} of {len(able)} runs. Give fewer runs to "
            "see others."
        )
    return about.elsewhere(found.runs, reasons, find_spec("umap") is not None)
