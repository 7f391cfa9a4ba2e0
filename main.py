"""Runs one job: python main.py --config=FILE[:variant] --workdir=DIR [--config.field=value].

With --plan in place of --workdir it only says what a pre-training will need (docs/planning.md).
"""

import importlib
import sys

from nsneg_jax.errors import RunError, UsageError, tell
from nsneg_jax.jobs import command_line
from nsneg_jax.parallel import hosts
from nsneg_jax.parallel.compilation_cache import keep_programs
from nsneg_jax.training.workdir import flatten

JOBS = {
    "pretrain": "nsneg_jax.jobs.pretrain:pretrain",
    "linear": "nsneg_jax.jobs.linear:linear",
    "knn": "nsneg_jax.jobs.knn:knn",
    "evaluate": "nsneg_jax.jobs.evaluate:evaluate",
    "features": "nsneg_jax.jobs.features:write_features",
}
_STOPPABLE = ("pretrain", "linear", "evaluate")  # these save and stop on SIGTERM


def run(command: command_line.Command) -> None:
    if command.config.job not in JOBS:
        raise UsageError(f"job is {command.config.job!r}, but must be one of {', '.join(JOBS)}.")
    if command.plan is not None:
        keep_programs(command.compilation_cache)
        importlib.import_module("nsneg_jax.planning.plan").show(command.config, command.plan)
        return
    # imported only here, so that a mistake in the command is told before JAX has started
    with hosts.joined(
        command.launch,
        flatten(command.config.to_dict()),
        command.workdir,
        command.compilation_cache,
        stoppable=command.config.job in _STOPPABLE,
    ):
        module, job = JOBS[command.config.job].split(":")
        getattr(importlib.import_module(module), job)(command.config, command.workdir)


def main(argv: list[str]) -> int:
    """Returns the exit status: 0 done or stopped cleanly, 2 a user's mistake, 1 otherwise."""
    try:
        run(command_line.parse(argv))
    except (UsageError, RunError) as error:
        return tell(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
