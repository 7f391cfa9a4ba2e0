"""Asks how measures of shape relate to accuracy out of domain, over the encoders of `make claim`.

    python -m experiments.shape --workdir=runs/claim

Evaluates each NAME-linear in the workdir on the test pictures without their shapes, details, areas
or colours (configs/evaluate.py:tiny_shape), into NAME-shape; what is there is not repeated. Then it
writes shape.md: the measures per encoder, and their rank correlation with the mean accuracy on the
versions of NAME-eval, over all encoders, and over the seeds within each variant. docs/shape.md
describes the measures.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr

from nsneg_jax.errors import RunError, UsageError, tell
from nsneg_jax.files import write_text

VERSIONS = ("corruption", "sketch", "stylized", "rendition")
_SAME_PICTURES = {"clean": "clean", "suppression": "clean", "cue_conflict": "cue_conflict"}
_ROOT = Path(__file__).parents[1]


def measures(shape: Mapping[str, Any]) -> dict[str, float]:
    """Returns the measures of an encoder in %, from the sets of its results on configs `*shape`.

    Those that end in 'kept' are accuracies as a part of the accuracy on clean pictures: with tiles
    in random order (2 x 2), without details (sigma of 10 at 224 px), without areas (sigma of 7) and
    without colours.
    """
    clean, parts = shape["clean"]["accuracy_top1"], shape["suppression"]["parts"]
    cues = shape["cue_conflict"]
    kept = {
        "shuffled, kept": parts["patch_shuffle"]["1"],
        "low-pass, kept": parts["low_pass"]["5"],
        "high-pass, kept": parts["high_pass"]["1"],
        "gray, kept": parts["gray"]["5"],
    }
    return {
        "clean": clean,
        "shape bias": cues["shape_bias"],
        "shape accuracy": cues["shape_accuracy"],
        "texture accuracy": cues["texture_accuracy"],
        **{name: 100 * value / clean for name, value in kept.items()},
    }


def out_of_domain(robustness: Mapping[str, Any]) -> float:
    """Returns the mean top-1 in % over `VERSIONS`, from the sets of an evaluation."""
    accuracies = [robustness[name] for name in VERSIONS]
    return statistics.fmean(a.get("mean_15") or a["accuracy_top1"] for a in accuracies)


def correlations(
    rows: Mapping[str, Mapping[str, float]], target: Mapping[str, float]
) -> dict[str, tuple[float, float | None]]:
    """Returns Spearman's rank correlation of each measure with the target.

    Args:
        rows: measures by run; a run is VARIANT-SEED.
        target: accuracy out of domain by run.

    Returns:
        By measure: over all runs, and over the runs after the mean of their variant is taken from
        both; None if no variant has several seeds.
    """
    runs = list(rows)
    variants = {run: run.rpartition("-")[0] for run in runs}

    def centred(values: Mapping[str, float]) -> list[float]:
        means = {
            variant: statistics.fmean(values[run] for run in runs if variants[run] == variant)
            for variant in set(variants.values())
        }
        return [values[run] - means[variants[run]] for run in runs]

    several = len(set(variants.values())) < len(runs)
    found = {}
    for name in next(iter(rows.values())):
        column = {run: rows[run][name] for run in runs}
        over_all = spearmanr([column[run] for run in runs], [target[run] for run in runs])
        within = spearmanr(centred(column), centred(target)).statistic if several else None
        found[name] = float(over_all.statistic), None if within is None else float(within)
    return found


def text_of(rows: Mapping[str, Mapping[str, float]], target: Mapping[str, float]) -> str:
    """Returns the tables as Markdown."""
    names = list(next(iter(rows.values())))
    lines = ["| encoder | " + " | ".join(names) + " | out of domain |"]
    lines.append("|" + "---|" * (len(names) + 2))
    for run, row in rows.items():
        cells = [*(f"{row[name]:.1f}" for name in names), f"{target[run]:.1f}"]
        lines.append(f"| {run} | " + " | ".join(cells) + " |")
    lines += ["", "| measure | all encoders | within a variant |", "|---|---|---|"]
    for name, (over_all, within) in correlations(rows, target).items():
        lines.append(
            f"| {name} | {over_all:+.2f} | {'-' if within is None else f'{within:+.2f}'} |"
        )
    note = "Accuracies in %. Below: Spearman's rank correlation with the accuracy out of domain."
    return note + "\n\n" + "\n".join(lines) + "\n"


def _sets(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "results.json").read_text())["sets"])


def _evaluated(probe: Path, config: str) -> Path:
    """Evaluates a probe on the pictures of its NAME-eval; returns the folder."""
    run = probe.name.removesuffix("-linear")
    folder = probe.parent / f"{run}-shape"
    if not (folder / "results.json").exists():
        flags = [f"--config={config}", f"--config.pretrained={probe}", f"--workdir={folder}"]
        before = json.loads((probe.parent / f"{run}-eval" / "config.json").read_text())["sets"]
        for name, same in _SAME_PICTURES.items():
            flags.append(f"--config.sets.{name}.source={before[same]['source']}")
        print(f"{folder} ...", flush=True)
        command = [sys.executable, str(_ROOT / "main.py"), *flags]
        done = subprocess.run(command, stdout=subprocess.DEVNULL)
        if done.returncode:
            raise RunError(f"The evaluation {' '.join(command)} ended with {done.returncode}.")
    return folder


def main(arguments: Sequence[str] | None = None) -> int | str:
    """Runs the experiment; returns the exit status."""
    parser = argparse.ArgumentParser(prog="experiments.shape", description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", type=Path, required=True, help="workdir of `make claim`")
    config = str(_ROOT / "configs" / "evaluate.py:tiny_shape")
    parser.add_argument("--config", default=config, help="config of the evaluation")
    options = parser.parse_args(arguments)
    try:
        probes = [
            probe
            for probe in sorted(options.workdir.glob("*-linear"))
            if Path(f"{str(probe).removesuffix('-linear')}-eval", "results.json").exists()
        ]
        if len(probes) < 3:
            raise UsageError(
                f"{options.workdir} has {len(probes)} evaluated probes, but a correlation needs 3 "
                "or more. Give the workdir of a finished `make claim`, such as runs/claim."
            )
        rows, target = {}, {}
        for probe in probes:
            run = probe.name.removesuffix("-linear")
            rows[run] = measures(_sets(_evaluated(probe, options.config)))
            target[run] = out_of_domain(_sets(probe.parent / f"{run}-eval"))
    except (UsageError, RunError) as error:
        return tell(error)
    text = text_of(rows, target)
    write_text(options.workdir / "shape.md", text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
