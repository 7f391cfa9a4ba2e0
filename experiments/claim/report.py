"""Writes the report of the claim from the files of its runs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.claim import plots as claim_plots
from experiments.claim.runs import LABELS, Run
from nsneg_jax.files import write_text
from nsneg_jax.report import published
from nsneg_jax.report import table as report_table
from nsneg_jax.report.command import read_results
from nsneg_jax.report.pairs import differences
from nsneg_jax.report.rows import Row, columns, pool, published_rows
from nsneg_jax.training.workdir import CONFIG

BASELINE = LABELS["moco"]
_LIMITS = """\
This shows what non-semantic negatives change on pictures whose class is their shape, with
everything else equal (pictures, their order, initial weights, views, steps). It shows nothing
about ImageNet or photographs. A program draws the pictures, in 10 classes that differ only in
their outlines; the columns are versions of these pictures, named after the paper's test sets but
not the same. Compare the published figures by sign, not by size."""


def write(runs: Sequence[Run], workdir: Path) -> str:
    """Writes claim.md and its pictures into the workdir; returns the text.

    Args:
        runs: finished runs.
        workdir: workdir of the claim.

    Raises:
        UsageError: a result cannot be read.
    """
    folders = [workdir / f"{run.name}-{job}" for run in runs for job in ("eval", "linear")]
    rows = pool(read_results(folders))
    config = json.loads((workdir / runs[0].name / CONFIG).read_text())
    compared = any(row.name == BASELINE for row in rows) and len(rows) > 1
    pictures = claim_plots.save_all(runs, rows, config["epochs"], workdir)
    parts = [
        "# MoCo against MoCo with non-semantic negatives, on the built-in shapes",
        _setting(config, runs),
        report_table.main_table(rows, [], paper_sets=True),
        report_table.difference_table(rows, BASELINE) if compared else "",
        verdict(rows) if compared else "",
        *(f"![{title}]({name})" for name, title in pictures.items()),
        "## The paper's own table, on ImageNet-100",
        report_table.main_table([], published_rows("AB"), paper_sets=True),
        "## What is shown, and what is not",
        _LIMITS,
    ]
    text = "\n\n".join(part for part in parts if part)
    write_text(workdir / "claim.md", text + "\n")
    return text


def verdict(rows: Sequence[Row]) -> str:
    """Says, per row, in which of the paper's columns it clearly differs from MoCo."""
    titles = columns(rows, paper_sets=True)
    lines = []
    for name, of_row in differences(rows, BASELINE).items():
        found: dict[str, list[str]] = {"above": [], "below": [], "unclear": []}
        for column in published.PAPER_SETS:
            difference = of_row.get(f"sets/{column}")
            if difference is not None:
                side = "above" if difference.mean > 0 else "below"
                found[side if difference.clear else "unclear"].append(titles[f"sets/{column}"])
        told = [
            f"{side} MoCo by more than two standard errors in {', '.join(found[side])}"
            for side in ("above", "below")
            if found[side]
        ]
        if found["unclear"]:
            told.append(f"no clear difference in {', '.join(found['unclear'])}")
        lines.append(f"* **{name}**: {'; '.join(told)}.")
    return "\n".join(lines)


def _setting(config: dict[str, Any], runs: Sequence[Run]) -> str:
    model, data, moco = config["model"], config["data"], config["moco"]
    seeds = sorted({run.seed for run in runs})
    return (
        f"{model['arch']} of width {model['width']}, {data['source']} at {data['image_size']} px; "
        f"{config['epochs']} epochs of batches of {config['batch_size']}, K {moco['queue_size']}, "
        f"T {moco['temperature']:g}, m {moco['momentum']:g}, learning rate "
        f"{config['optimizer']['learning_rate']:g}. A linear probe on the frozen features, "
        f"evaluated on the test pictures of the same data seed. Seeds {', '.join(map(str, seeds))}."
    )
