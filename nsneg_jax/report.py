"""Tables of runs: python -m nsneg_jax.report RUN... [--out TABLE.md].

A run is the workdir of a job that left a results.json. The table is made of these files alone, with
a row an encoder, whatever number of jobs evaluated it.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from nsneg_jax.errors import UsageError, paragraph
from nsneg_jax.files import write_text

RESULTS = "results.json"

# figures of results.json that make a column, in percent
COLUMNS = {
    "knn_20": "kNN, k = 20",
    "knn_200": "kNN, k = 200",
    "best_accuracy_top1": "linear probe, top-1",
    "accuracy_top5": "top-5",
}


def read_results(runs: Sequence[Path]) -> list[dict]:
    """The results.json of each run.

    Raises:
        UsageError: a run has none, or one that cannot be read.
    """
    results = []
    for run in runs:
        path = run / RESULTS
        try:
            results.append(json.loads(path.read_text()))
        except FileNotFoundError:
            raise UsageError(
                f"There is no {path}. A linear, knn or evaluate job writes it into its workdir "
                "when it has finished; give such workdirs."
            ) from None
        except ValueError as error:
            raise UsageError(f"{path} cannot be read: {error}. Run the job again.") from error
    return results


def by_encoder(results: Sequence[dict]) -> dict[str, dict[str, float]]:
    """Figures of all jobs on the same encoder together, encoders in the order they come."""
    rows: dict[str, dict[str, float]] = {}
    for result in results:
        figures = {name: result[name] for name in COLUMNS if result.get(name) is not None}
        rows.setdefault(result["encoder"], {}).update(figures)
    return rows


def markdown(rows: dict[str, dict[str, float]]) -> str:
    """A table with the columns that any row has, the best of each in bold, what misses a dash."""
    names = [name for name in COLUMNS if any(name in row for row in rows.values())]
    best = {name: max(row[name] for row in rows.values() if name in row) for name in names}

    def cell(row: dict[str, float], name: str) -> str:
        if name not in row:
            return "-"
        text = f"{row[name]:.2f}"
        return f"**{text}**" if row[name] == best[name] and len(rows) > 1 else text

    lines = [["encoder", *(COLUMNS[name] for name in names)]]
    lines += [[encoder, *(cell(row, name) for name in names)] for encoder, row in rows.items()]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "| "
        + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True))
        + " |"
        for line in (lines[0], rule, *lines[1:])
    )


def main(argv: Sequence[str]) -> int:
    """Returns the exit status, as main.py."""
    parser = argparse.ArgumentParser(prog="python -m nsneg_jax.report", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--out", type=Path, help="file for the table, besides the terminal")
    arguments = parser.parse_args(argv)
    try:
        table = markdown(by_encoder(read_results(arguments.runs)))
    except UsageError as error:
        print(paragraph(error), file=sys.stderr)
        return 2
    print(table)
    if arguments.out is not None:
        write_text(arguments.out, table + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
