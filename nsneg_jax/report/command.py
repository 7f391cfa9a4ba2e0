"""Tables of runs: nsneg report RUN... [--out TABLE.md].

A run is the workdir of a job that left a results.json, or such a file. The table needs only these
files. It has a row per label, or per encoder without a label; runs of one row are pooled to mean
and standard deviation. docs/robustness.md explains how to read it.

A run may also be the workdir of a pre-training, or a checkpoint folder in it. Its report is its
last figures, and the similarities of its queries to keys, queue and non-semantic negatives,
measured on its own data. --html and --png add curves and pictures, and take the workdirs of
features jobs too; docs/report.md describes the page.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from nsneg_jax.errors import UsageError, tell
from nsneg_jax.files import check_writable, user_path, write_text
from nsneg_jax.report import plots as report_plots
from nsneg_jax.report import similarities as report_similarities
from nsneg_jax.report import table as report_table
from nsneg_jax.report.consistency import Answers, decisions_of, read_decisions
from nsneg_jax.report.page import runs as page_runs
from nsneg_jax.report.page.about import last_figures
from nsneg_jax.report.page.build import Found, Measures, measure, page, save_pngs
from nsneg_jax.report.rows import Result, Row, is_imagenet100, pool, published_rows
from nsneg_jax.training.workdir import RESULTS

_FILES = "observers"  # row of the observers in files; those of a folder have its name


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
        except (OSError, ValueError, RecursionError) as error:
            raise UsageError(f"{path} cannot be read: {error}. Run the job again.") from error
        if not isinstance(content, dict) or not isinstance(content.get("encoder"), str):
            raise UsageError(
                f"{path} names no encoder, so it does not come from a linear, knn or evaluate job "
                "of this package. Give the workdirs of such jobs."
            )
        results.setdefault(path.resolve(), Result(str(path), content))
    return list(results.values())


def report(
    results: Sequence[Result],
    published: str = "",
    baseline: str = "",
    observers: Sequence[Path] = (),
    by_class: bool = False,
) -> tuple[str, str]:
    """Returns the report as Markdown and as CSV.

    Args:
        results: results of the runs, in the order of the rows.
        published: recipes of the authors to show: 'A', 'B', 'all' or 'none'; by default all if the
            clean sets are ImageNet-100, else none.
        baseline: row to compare the others with, seed by seed; '' for none.
        observers: tables of decisions on cue conflicts, see `read_decisions`, to compare with.
        by_class: whether to add the table of accuracies by class.

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
        report_table.corruption_table(rows),
        report_table.shape_table(rows),
        report_table.class_table(rows) if by_class else "",
        *_consistency(rows, observers),
    )
    markdown = "\n\n".join(part for part in parts if part)
    return markdown, report_table.csv_text(rows, authors, evaluated)


def _consistency(rows: Sequence[Row], observers: Sequence[Path]) -> list[str]:
    others: dict[str, list[Answers]] = {}
    for path in observers:
        name = path.name if path.is_dir() else _FILES
        others.setdefault(name, []).extend(read_decisions(path).values())
    return [
        report_table.consistency_table(groups | others, name)
        for name, groups in decisions_of(rows).items()
    ]


def main(argv: Sequence[str], measures: Measures | None = None) -> int:
    """`nsneg report`; returns the exit status, as `nsneg_jax.cli.main`.

    Args:
        argv: arguments of the command.
        measures: measures what the files of runs do not hold; None takes only what they hold.
    """
    parser = argparse.ArgumentParser(prog="nsneg report", description=__doc__)
    parser.add_argument("runs", nargs="+", type=user_path, metavar="RUN")
    parser.add_argument("--out", type=user_path, help="file for the tables, besides the terminal")
    parser.add_argument("--csv", type=user_path, help="file for the main table's figures as CSV")
    parser.add_argument(
        "--corruptions", type=user_path, metavar="PNG", help="picture of accuracy by corruption"
    )
    parser.add_argument(
        "--similarities",
        type=user_path,
        metavar="PNG",
        help="picture of the similarities in pre-training runs",
    )
    parser.add_argument(
        "--by_class",
        action="store_true",
        help="add the accuracy by class on textures, beside the clean images'",
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
    parser.add_argument(
        "--observers",
        nargs="+",
        type=user_path,
        default=(),
        metavar="CSV",
        help="decisions on cue conflicts, such as model-vs-human's of humans: files or folders",
    )
    parser.add_argument(
        "--html", type=user_path, metavar="FILE", help="one page with curves, tables and pictures"
    )
    parser.add_argument(
        "--png", type=user_path, metavar="FOLDER", help="the plots and pictures of the page as PNGs"
    )
    parser.add_argument(
        "--no_measure",
        action="store_true",
        help="use only what files hold: compute no similarities, features or answers",
    )
    arguments = parser.parse_args(argv)
    try:
        for name in ("out", "csv", "corruptions", "similarities", "html"):
            if getattr(arguments, name) is not None:
                check_writable(getattr(arguments, name), f"--{name}")
        markdown = _report(arguments, None if arguments.no_measure else measures)
        if arguments.out is not None:
            write_text(arguments.out, markdown + "\n")
    except UsageError as error:
        return tell(error)
    print(markdown)
    return 0


def _report(arguments: argparse.Namespace, measures: Measures | None) -> str:
    """Writes the files that were asked for; returns the tables."""
    paged = arguments.html is not None or arguments.png is not None
    jobs = {run: page_runs.job_of(run) for run in arguments.runs}
    trained = [run for run, job in jobs.items() if job == "pretrain"]
    drawn = [run for run, job in jobs.items() if job == "features"]
    if drawn and not paged:
        raise UsageError(
            f"{drawn[0]} holds features, which give no table. Add --html FILE for their neighbours "
            "and a map, or leave it out."
        )
    others = [run for run in jobs if run not in trained and run not in drawn]
    _check_pictures(arguments, trained, others)
    rows: Sequence[Row] = ()
    parts, tables = [], ""
    if others:
        results = read_results(others)
        rows = pool(results)
        tables, csv = report(
            results,
            arguments.published,
            arguments.baseline,
            arguments.observers,
            arguments.by_class,
        )
        parts.append(tables)
        if arguments.csv is not None:
            write_text(arguments.csv, csv)
        if arguments.corruptions is not None:
            report_plots.save_corruptions(rows, arguments.corruptions)
    found = Found(page_runs.read(arguments.runs), rows, tables)
    measure(found, measures, pictures=paged)
    figures = last_figures([run for run in found.runs if run.job == "pretrain"])
    if figures[1]:
        table = report_table.markdown_table([figures[0], *figures[1]])
        parts.append(f"Last figures of pre-training:\n\n{table}")
    if found.similarities:
        parts.append(report_similarities.table(found.similarities))
    if found.reasons:
        parts.append("\n".join(f"* {reason}" for reason in found.reasons))
    if arguments.similarities is not None:
        report_similarities.save(found.similarities, arguments.similarities)
    if arguments.html is not None:
        write_text(arguments.html, page(found))
    if arguments.png is not None:
        save_pngs(found, arguments.png)
    return "\n\n".join(parts)


def _check_pictures(
    arguments: argparse.Namespace, trained: Sequence[Path], others: Sequence[Path]
) -> None:
    """Raises UsageError if a flag asks for something that none of the runs has."""
    for name, having, needed in (
        ("similarities", trained, "a pre-training"),
        ("corruptions", others, "an evaluate job"),
        ("csv", others, "a linear, knn or evaluate job"),
    ):
        if getattr(arguments, name) is not None and not having:
            raise UsageError(
                f"--{name} is {getattr(arguments, name)}, but no run is {needed}. Give the workdir "
                f"of one, or leave out --{name}."
            )
