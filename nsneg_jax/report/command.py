"""Tables of runs: nsneg report RUN... [--out TABLE.md].

A run is the workdir of a job that left a results.json, or such a file. The table needs only these
files. It has a row per label, or per encoder without a label; runs of one row are pooled to mean
and standard deviation. docs/robustness.md explains how to read it.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from nsneg_jax.errors import UsageError, tell
from nsneg_jax.files import user_path, write_text
from nsneg_jax.report import plots as report_plots
from nsneg_jax.report import table as report_table
from nsneg_jax.report.rows import Result, is_imagenet100, pool, published_rows
from nsneg_jax.training.workdir import RESULTS


def read_results(runs: Sequence[Path]) -> list[Result]:
    """Reads the results.json of each run, only once for a run given twice.

    Raises:
        UsageError: a results.json is missing, or cannot be read.
    """
    results: dict[Path, Result] = {}
    for run in runs:
        path = run if run.is_file() else run / RESULTS
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise UsageError(
                f"There is no {path}. A linear, knn or evaluate job writes it into its workdir at "
                "its end; give such workdirs."
            ) from None
        except (OSError, ValueError) as error:
            raise UsageError(f"{path} cannot be read: {error}. Run the job again.") from error
        if not isinstance(content, dict) or not isinstance(content.get("encoder"), str):
            raise UsageError(
                f"{path} names no encoder, so it does not come from a linear, knn or evaluate job "
                "of this package. Give the workdirs of such jobs."
            )
        results.setdefault(path.resolve(), Result(str(path), content))
    return list(results.values())


def report(results: Sequence[Result], published: str = "", baseline: str = "") -> tuple[str, str]:
    """Returns the report as Markdown and as CSV.

    Args:
        results: results of the runs, in the order of the rows.
        published: recipes of the authors to show: 'A', 'B', 'all' or 'none'; by default all if the
            clean sets are ImageNet-100, else none.
        baseline: row to compare the others with, seed by seed; '' for none.

    Raises:
        UsageError: the results cannot be pooled, have no figures, or have no row `baseline`.
    """
    rows = pool(results)
    contents = [result.content for result in results]
    evaluated = any(isinstance(content.get("sets"), dict) for content in contents)
    if not evaluated and not any(row.cells for row in rows):
        raise UsageError(
            f"{results[0].path} has no figures that this version knows. Give the workdirs of "
            "linear, knn or evaluate jobs."
        )
    recipes = {"": "AB" if is_imagenet100(rows) else "", "all": "AB", "none": ""}
    authors = published_rows(recipes.get(published, published))
    parts = (
        report_table.main_table(rows, authors, evaluated),
        report_table.difference_table(rows, baseline) if baseline else "",
        report_table.missing_list(contents),
        report_table.kept_list(contents),
        report_table.sets_table(rows),
        report_table.shape_table(rows),
    )
    markdown = "\n\n".join(part for part in parts if part)
    return markdown, report_table.csv_text(rows, authors, evaluated)


def main(argv: Sequence[str]) -> int:
    """`nsneg report`; returns the exit status, as `nsneg_jax.cli.main`."""
    parser = argparse.ArgumentParser(prog="nsneg report", description=__doc__)
    parser.add_argument("runs", nargs="+", type=user_path, metavar="RUN")
    parser.add_argument("--out", type=user_path, help="file for the tables, besides the terminal")
    parser.add_argument("--csv", type=user_path, help="file for the main table's figures as CSV")
    parser.add_argument(
        "--corruptions", type=user_path, metavar="PNG", help="picture of accuracy by corruption"
    )
    parser.add_argument(
        "--published",
        choices=("A", "B", "all", "none"),
        default="",
        help="the authors' rows to show; by default all, if the evaluations are on ImageNet-100",
    )
    parser.add_argument(
        "--baseline",
        default="",
        metavar="ROW",
        help="row to compare the others with, by pairs of runs with the same seed",
    )
    arguments = parser.parse_args(argv)
    try:
        results = read_results(arguments.runs)
        markdown, csv = report(results, arguments.published, arguments.baseline)
        if arguments.out is not None:
            write_text(arguments.out, markdown + "\n")
        if arguments.csv is not None:
            write_text(arguments.csv, csv)
        if arguments.corruptions is not None:
            report_plots.save_corruptions(pool(results), arguments.corruptions)
    except UsageError as error:
        return tell(error)
    print(markdown)
    return 0
