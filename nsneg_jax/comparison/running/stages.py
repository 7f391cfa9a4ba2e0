"""The commands of a comparison: jobs as stages of chains, where they run, and running them."""

import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from nsneg_jax import command_line
from nsneg_jax.comparison.running import chains
from nsneg_jax.comparison.running.progress import RunsProgress, Stage
from nsneg_jax.errors import RunError, Stopped
from nsneg_jax.jobs.opening import to_json
from nsneg_jax.training.workdir import CHECKPOINTS, RESULTS, check_workdir

Arguments = Sequence[str]

# XLA on CPU allocates its temporary arrays per step. By default glibc returns them to the system
# each time, which takes a tenth of these runs (docs/benchmarks.md).
_KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**33)}


def accelerator() -> str:
    """Returns the device that JAX would use; '' for a CPU.

    Asks in a separate process, to free the device's memory.

    Raises:
        RunError: JAX does not start.
    """
    program = "import jax; d = jax.devices()[0]; print(d.platform, d.device_kind, sep='\\t')"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    if found.returncode:
        raise RunError(f"JAX does not start here: {found.stderr.strip().splitlines()[-1]}")
    platform, kind = found.stdout.strip().splitlines()[-1].split("\t")
    return "" if platform == "cpu" else kind


def at_a_time(runs: int, kind: str) -> int:
    """Returns how many runs go side by side: one per core, or one on an accelerator."""
    return 1 if kind else min(runs, os.cpu_count() or 1)


def stage(
    name: str,
    program: Sequence[str],
    arguments: Arguments,
    share: float,
    images: int = 0,
) -> Stage:
    """Returns a job as the stage of a chain.

    Args:
        name: for messages.
        program: what takes the arguments, such as ['main.py'] or ['-m', 'nsneg_jax', 'linear'].
        arguments: --config, --workdir and the fields to set.
        share: fraction of its run's time.
        images: number of training images, for a pre-training.

    Raises:
        UsageError: the arguments have a mistake, or their workdir holds a run with another config.
    """
    command = program[-1] if program[0] == "-m" else ""
    parsed = command_line.parse([program[0], *arguments], command)
    config, workdir = parsed.config, parsed.workdir
    assert workdir is not None
    check_workdir(to_json(config), workdir)
    if config.job == "pretrain":
        total = config.epochs * (images // config.batch_size)
        product = workdir / CHECKPOINTS / str(total)
    else:
        total = config.epochs if config.job == "linear" else None
        product = workdir / RESULTS
    link = chains.Link(
        name=name,
        command=[sys.executable, *program, *arguments],
        log=workdir / "log.txt",
        done=product.exists,
    )
    return Stage(link, workdir, share, total)


def carry_out(
    stages: Mapping[str, Sequence[Stage]],
    processes: int,
    deadline: float = math.inf,
    look: Callable[[], None] = lambda: None,
) -> dict[Path, float]:
    """Runs the stages that are not done, and shows their progress.

    Args:
        stages: stages by name of the run, in the order of their start.
        processes: runs at a time.
        deadline: reading of `time.monotonic` at which what runs is stopped.
        look: called several times per second.

    Returns:
        The seconds that each stage took, by its workdir; of those that ended here.

    Raises:
        RunError: a command failed.
        Stopped: a signal stopped the commands. At the deadline nothing is raised.
    """
    seconds: dict[Path, float] = {}

    def ended(link: chains.Link, took: float) -> None:
        seconds[link.log.parent] = took

    with RunsProgress(stages, processes) as display:

        def show() -> None:
            display.look()
            look()

        links = [[stage.link for stage in of_run] for of_run in stages.values()]
        stopped = chains.run(links, processes, _KEEP_MEMORY, show, deadline, ended)
    if stopped not in (None, chains.TIME_UP):
        raise Stopped(
            f"stopped by {stopped}, with everything saved; run the same command to resume"
        )
    return seconds
