"""The paper's claim on the built-in shapes: python -m experiments.claim --workdir=DIR.

Pre-trains each variant of configs/claim.py with each seed, probes and evaluates it, and compares
the variants with MoCo, seed by seed, in DIR/claim.md and pictures. Finished parts are kept: run the
same command again to resume, also with more seeds or variants.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import jax

from experiments.claim import report as claim_report
from experiments.claim.runs import ABLATIONS, CONFIGS, LABELS, MAIN, Setting, runs_of, stages_of
from nsneg_jax.comparison.running.stages import accelerator, at_a_time, carry_out
from nsneg_jax.errors import EXPLAINED, UsageError, tell
from nsneg_jax.files import user_path
from nsneg_jax.training.signals import ended_by_signals


def claim(arguments: argparse.Namespace) -> None:
    """Runs all unfinished parts, and writes the report.

    On a signal the commands save and stop.

    Raises:
        UsageError: a run in the workdir has another config.
        RunError: a command failed.
        Stopped: a signal stopped the commands.
    """
    for needed in (MAIN, CONFIGS / "claim.py"):
        if not needed.exists():
            raise UsageError(f"There is no {needed} here. Run this in the project's folder.")
    kind = accelerator() if arguments.setting == "auto" else ""
    large = arguments.setting == "large" or bool(kind)
    runs = runs_of(arguments.variants, arguments.seeds, arguments.ablate)
    setting = Setting(arguments.workdir, large, arguments.data_seed, arguments.epochs)
    stages = {run.name: stages_of(run, setting) for run in runs}
    processes = arguments.processes or at_a_time(len(runs), "large" if large else "")
    print(f"setting  {setting.about}{f', found {kind}' if kind else ''}")
    print(f"runs     {len(runs)}, {processes} at a time; logs are in {arguments.workdir}/*/log.txt")
    carry_out(stages, processes)
    text = claim_report.write(runs, arguments.workdir)
    print(text)
    print(f"done: {arguments.workdir}/claim.md and pictures beside it")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the command line of `python -m experiments.claim`."""
    parser = argparse.ArgumentParser(prog="python -m experiments.claim", description=__doc__)
    parser.add_argument(
        "--workdir", type=user_path, default=Path("runs/claim"), help="(%(default)s)"
    )
    parser.add_argument(
        "--variants",
        type=_names(LABELS),
        default=["moco", "patch2"],
        help="variants of configs/claim.py, separated by commas (moco,patch2)",
    )
    parser.add_argument(
        "--seeds", type=_numbers, default=[0, 1, 2], help="seeds, with commas (0,1,2)"
    )
    parser.add_argument(
        "--full", action="store_true", help="all variants, seeds 0 to 4, instead of the above"
    )
    parser.add_argument(
        "--ablate",
        type=_names(ABLATIONS),
        default=[],
        help=f"additional runs of the variants with a change: {','.join(ABLATIONS)}",
    )
    parser.add_argument(
        "--setting",
        choices=("auto", "small", "large"),
        default="auto",
        help="small: minutes per run on a core; large: for a GPU; auto: large if JAX finds one",
    )
    parser.add_argument(
        "--processes", type=int, default=0, help="runs at a time; by default one per core"
    )
    parser.add_argument(
        "--epochs", type=int, help="of pre-training; by default those of configs/claim.py"
    )
    parser.add_argument(
        "--data_seed",
        type=int,
        help="seed of the pictures; by default one that no setting was chosen on",
    )
    arguments = parser.parse_args(argv)
    if arguments.full:
        arguments.variants, arguments.seeds = list(LABELS), list(range(5))
    return arguments


def _names(known):
    def names(text: str) -> list[str]:
        given = text.split(",")
        wrong = [name for name in given if name not in known]
        if wrong or len(set(given)) < len(given):
            raise argparse.ArgumentTypeError(
                f"{text!r} must be names from {','.join(known)}, each once, separated by commas"
            )
        return given

    return names


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(number) for number in text.split(",")]
    except ValueError:
        numbers = [-1]
    if min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise argparse.ArgumentTypeError(
            f"{text!r} must be whole numbers, each once, separated by commas"
        )
    return numbers


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status, as main.py."""
    arguments = parse(argv)
    jax.config.update("jax_platforms", "cpu")  # the accelerator is for the runs
    try:
        with ended_by_signals("finished runs stay; run the same command again to go on"):
            claim(arguments)
    except EXPLAINED as error:
        return tell(error)
    return 0
