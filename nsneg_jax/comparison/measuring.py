"""Measures what the runs of a comparison take, by short ones."""

import math
import shutil
from pathlib import Path
from statistics import median

from nsneg_jax.comparison.planning import Measured
from nsneg_jax.comparison.running.stages import carry_out
from nsneg_jax.comparison.runs import Run, Setting, folder_of, stages_of
from nsneg_jax.comparison.variants import Compared, label
from nsneg_jax.errors import RunError
from nsneg_jax.files import json_lines
from nsneg_jax.training.workdir import METRICS

_STEPS = 60  # at least


def measure(compared: Compared, setting: Setting, processes: int, deadline: float) -> Measured:
    """Runs the first two variants shortly, with probe and evaluation, side by side as later.

    Args:
        compared: the method's variants.
        setting: setting of the runs; its workdir is used for these only, and removed.
        processes: runs at a time.
        deadline: reading of `time.monotonic` at which the budget ends.

    Raises:
        RunError: a command failed, or the time was up before both had ended.
        Stopped: a signal stopped the commands.
    """
    setting = setting._replace(epochs=math.ceil(_STEPS / setting.sizes.per_epoch))
    shutil.rmtree(setting.workdir, ignore_errors=True)
    runs = [Run(compared.baseline, 0), Run(compared.main, 0)]
    stages = {run.name: stages_of(run, setting) for run in runs}
    seconds = carry_out(stages, min(processes, len(runs)), deadline)
    if len(seconds) < sum(map(len, stages.values())):
        raise RunError(
            f"The budget was over before a first short run of {label(compared.baseline)} and of "
            f"{label(compared.main)} had ended. Give a larger --budget."
        )
    steps = setting.epochs * setting.sizes.per_epoch
    step, rest = {}, {}
    for run in runs:
        whole = sum(seconds[stage.workdir] for stage in stages[run.name])
        step[run.variant] = _seconds_per_step(folder_of(run, setting.workdir), setting.sizes.batch)
        rest[run.variant] = max(0.0, whole - steps * step[run.variant])
    shutil.rmtree(setting.workdir)
    return Measured(step, rest)


def _seconds_per_step(pretraining: Path, batch: int) -> float:
    found = [line.get("images_per_second") for line in json_lines(pretraining / METRICS)]
    return batch / median(speed for speed in found if speed)
