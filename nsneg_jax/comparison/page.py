"""The page of a comparison: the answer, the table, the pictures of each column, the curves."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nsneg_jax.comparison import outcome as outcomes
from nsneg_jax.comparison.columns import COLUMNS, CORRUPTIONS, Column
from nsneg_jax.comparison.outcome import ALL, Outcome
from nsneg_jax.comparison.planning import Plan, Sizes, caution
from nsneg_jax.comparison.runs import Run, folder_of
from nsneg_jax.comparison.variants import METHODS, label
from nsneg_jax.comparison.verdict import LEAST_LEARNT, LEVEL, MARGIN
from nsneg_jax.report.charts import svg
from nsneg_jax.report.page import curves, html, images, runs
from nsneg_jax.report.page.gallery import encoded, spread

_EXAMPLES = 8
_LIMITS = (
    "What is compared are short trainings of a small network on small pictures. A long training of "
    "a large network may answer otherwise, in either direction: in the built-in shapes the "
    "difference changes with the length of the training. What is shown is the difference that the "
    "negatives make with everything else equal: the pictures, their order, crops and augmentation, "
    "the initial weights and the number of steps. A step with negatives takes longer, as the table "
    "of times says."
)


def page(
    found: Outcome,
    plan: Plan,
    sizes: Sizes,
    about: Mapping[str, Any],
    times: Mapping[str, str],
    workdir: Path,
    pictures: Path,
) -> str:
    """Returns the page.

    Args:
        found: what the runs show.
        plan: the runs that were planned.
        sizes: batch and queue.
        about: contents of pictures.json.
        times: what took how long, and on what.
        workdir: workdir of the comparison.
        pictures: folder of the pictures.
    """
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    intro = html.paragraph(f"Made by nsneg compare on {made}, of {about['data']}.")
    trained = runs.read([folder_of(Run(v, s), workdir) for s in found.seeds for v in plan.variants])
    plot = curves.pretraining(trained)
    parts = (
        ("answer", "The answer", _answer(found, plan)),
        ("table", "Accuracies and differences", html.from_markdown(outcomes.markdown(found))),
        ("columns", "The columns, in your pictures", _columns(pictures)),
        ("rule", "How the answer is found", _rule()),
        ("runs", "What was run", html.definitions(_facts(plan, sizes, about, found) | dict(times))),
        ("curves", "Pre-training", svg.figures(plot) if plot else ""),
        ("limits", "What this does not show", html.paragraph(_LIMITS)),
    )
    sections = {anchor: (heading, text) for anchor, heading, text in parts if text}
    return html.page("Do patch negatives help on these pictures?", sections, intro)


def examples(pictures: Path, count: int = _EXAMPLES) -> list[tuple[Column, list[np.ndarray]]]:
    """Returns the same test pictures in every column, uint8 [S, S, 3]; the first corruption's.

    Args:
        pictures: folder of the pictures.
        count: most pictures.
    """
    paths = sorted((pictures / "clean").rglob("*.png"))
    chosen = [paths[i].relative_to(pictures / "clean") for i in spread(len(paths), count)]
    folders = {column.name: pictures / column.name for column in COLUMNS}
    name, severity = CORRUPTIONS[0]
    folders["corruption"] = pictures / "corruption" / name / str(severity)
    return [
        (
            column,
            [
                np.asarray(Image.open(folders[column.name] / path, formats=("PNG",)))
                for path in chosen
            ],
        )
        for column in COLUMNS
    ]


def _columns(pictures: Path) -> str:
    shown = examples(pictures)
    sheet = images.rows_sheet(
        [(column.title, [encoded(each) for each in row]) for column, row in shown],
        "The same test pictures in every column",
    )
    return sheet + html.definitions({column.title: column.about for column in COLUMNS})


def _answer(found: Outcome, plan: Plan) -> str:
    text = caution(plan)
    note = html.paragraph(text, "note") if text else ""
    return html.paragraph(found.sentence) + note + _gains(found)


def _gains(found: Outcome) -> str:
    """Returns a table of the differences by seed in what the verdict counts."""
    header = ["", *(f"seed {seed}" for seed in found.seeds), "mean", f"{LEVEL:.0%} interval"]
    rows = []
    for variant, gains in found.gains.items():
        of = gains[ALL]
        cells = [f"{value:+.1f}" for value in of.by_seed]
        interval = f"{of.low:+.1f} to {of.high:+.1f}" if np.isfinite(of.low) else "unknown"
        rows.append([label(variant), *cells, f"{of.mean:+.1f}", interval])
    above = f"Points of top-1 above {label(found.baseline)}, mean over the verdict's columns"
    return html.table(header, rows, above)


def _rule() -> str:
    kept = ", ".join(column.title for column in COLUMNS if column.keeps_shape)
    return html.paragraph(
        f"The answer is about the mean of {kept}, in which shapes are kept. A test picture's gain "
        "is how much more often it is recognised with negatives than without, over seeds and these "
        f"columns. The {LEVEL:.0%} interval of the mean gain counts the chance of the seeds and of "
        f"the test pictures. Yes: it lies above 0. No: it ends below {MARGIN:g} point. Otherwise, "
        f"or if neither encoder is {LEAST_LEARNT:g} points above chance on clean pictures, the "
        "comparison is undecided. More seeds, steps or pictures may decide it: start another "
        "comparison with a larger budget."
    )


def _facts(plan: Plan, sizes: Sizes, about: Mapping[str, Any], found: Outcome) -> dict[str, str]:
    return {
        "pictures": f"{about['train']:,} to train on, {about['choose']:,} to choose the probe's "
        f"learning rate, {about['test']:,} to test ({about['held_out']}); {plan.side} px; "
        f"{len(about['classes'])} classes; {about['unreadable']} unreadable",
        "pre-training": f"{plan.epochs:,} epochs, {plan.steps:,} steps of {sizes.batch} images"
        + (f"; queue of {sizes.queue:,}" if METHODS[found.baseline].keys else ""),
        "variants": ", ".join(label(variant) for variant in plan.variants),
        "seeds": f"{', '.join(map(str, found.seeds))} of {len(plan.seeds)} planned",
    }
