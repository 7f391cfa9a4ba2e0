"""The runs of a comparison as commands: pre-training, linear probe, evaluation."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from nsneg_jax.comparison.columns import COLUMNS
from nsneg_jax.comparison.pictures import CHOOSE, TRAIN
from nsneg_jax.comparison.planning import Sizes
from nsneg_jax.comparison.running.progress import Stage
from nsneg_jax.comparison.running.stages import stage
from nsneg_jax.comparison.variants import label

# Fractions of a run's time, to estimate the time left.
_PRETRAINING, _PROBE, _EVALUATION = 0.7, 0.2, 0.1
_LOG_EVERY = 10  # steps; a measurement needs several lines
_PROBE_EPOCHS, _PROBE_MILESTONES = 20, (10, 15)


class Run(NamedTuple):
    """One pre-training with its probe and evaluation; its folders begin with `name`."""

    variant: str
    seed: int

    @property
    def name(self) -> str:
        """Name of the workdir of the pre-training."""
        return f"{self.variant}-{self.seed}"


class Setting(NamedTuple):
    """What all runs share.

    Attributes:
        workdir: folder of their workdirs.
        pictures: folder of the pictures.
        side: side of the pictures in pixels.
        train: number of training pictures.
        sizes: what depends on that number.
        epochs: epochs of pre-training.
        large: whether they run on an accelerator.
    """

    workdir: Path
    pictures: Path
    side: int
    train: int
    sizes: Sizes
    epochs: int
    large: bool


def runs_of(variants: Sequence[str], seeds: Sequence[int]) -> list[Run]:
    """Returns the runs, seed by seed, so that an early end leaves complete comparisons."""
    return [Run(variant, seed) for seed in seeds for variant in variants]


def folder_of(run: Run, workdir: Path, job: str = "") -> Path:
    """Returns the workdir of a run's pre-training, or of its 'probe' or 'test'."""
    return workdir / (f"{run.name}-{job}" if job else run.name)


def stages_of(run: Run, setting: Setting) -> list[Stage]:
    """Returns the commands of a run.

    Raises:
        UsageError: one of its workdirs holds a run with another config.
    """
    trained, probed, tested = (
        folder_of(run, setting.workdir, job) for job in ("", "probe", "test")
    )
    pictures = setting.pictures.resolve()
    data = [f"--config.data.source=folder:{pictures}", f"--config.data.split={TRAIN}"]
    data += [f"--config.data.eval_split={CHOOSE}"]
    side = f"--config.data.image_size={setting.side}"
    pretraining = [
        f"--config=compare:{'large:' if setting.large else ''}{run.variant}",
        f"--workdir={trained}",
        f"--config.seed={run.seed}",
        *data,
        side,
        f"--config.epochs={setting.epochs}",
        f"--config.batch_size={setting.sizes.batch}",
        f"--config.moco.queue_size={setting.sizes.queue}",
        f"--config.log_every_steps={_LOG_EVERY}",
        "--config.checkpoint.keep=1",
        "--config.pictures=False",
    ]
    threads = f"--config.data.threads={8 if setting.large else 1}"
    probe = [
        "--config=linear:tiny",
        f"--workdir={probed}",
        f"--config.pretrained={trained}",
        f"--config.seed={run.seed}",
        *data,
        side,
        threads,
        f"--config.epochs={_PROBE_EPOCHS}",
        f"--config.optimizer.milestones={_PROBE_MILESTONES}",
    ]
    test = [
        "--config=evaluate:columns",
        f"--workdir={tested}",
        f"--config.pretrained={probed}",
        f"--config.label={label(run.variant)}",
        side,
        threads,
        *(
            f"--config.sets.{column.name}.source=folder:{pictures}"
            + ("/corruption" if column.name == "corruption" else "")
            for column in COLUMNS
        ),
    ]

    def of(job: str) -> list[str]:
        return ["-m", "nsneg_jax", job]

    return [
        stage(
            f"{run.name}, pre-training", of("pretrain"), pretraining, _PRETRAINING, setting.train
        ),
        stage(f"{run.name}, linear probe", of("linear"), probe, _PROBE),
        stage(f"{run.name}, evaluation", of("evaluate"), test, _EVALUATION),
    ]
