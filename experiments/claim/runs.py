"""The runs of the claim and their commands: pre-training, linear probe, evaluation."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from nsneg_jax import command_line
from nsneg_jax.comparison.running.progress import Stage
from nsneg_jax.comparison.running.stages import stage
from nsneg_jax.errors import UsageError

MAIN, CONFIGS = Path("main.py"), Path("configs")
LABELS = {
    "moco": "MoCo",
    "patch1": "patch, alpha 1",
    "patch2": "patch, alpha 2",
    "patch3": "patch, alpha 3",
    "texture": "texture, alpha 2",
    "patch+texture": "patch + texture, alpha 2",
}
ALPHAS = {"moco": 0.0, "patch1": 1.0, "patch2": 2.0, "patch3": 3.0}  # of runs with only patches
# Runs that an ablation adds: its variants, and its overrides by name.
ABLATIONS = {
    "queue": (("moco", "patch2"), {"half queue": "--config.moco.queue_size={half_queue}"}),
    "learning_rate": (
        ("moco", "patch2"),
        {"twice the learning rate": "--config.optimizer.learning_rate={twice_rate}"},
    ),
    "dtype": (("moco", "patch2"), {"bfloat16": "--config.model.dtype=bfloat16"}),
    "patch_size": (
        ("patch2",),
        {
            "patches 8 to 16": "--config.negatives.patch_size=(8,16)",
            "patches 72 to 112": "--config.negatives.patch_size=(72,112)",
        },
    ),
}
# Fractions of a run's time, to estimate the time left.
_PRETRAINING, _PROBE, _EVALUATION = 0.87, 0.05, 0.08


class Run(NamedTuple):
    """One pre-training with its probe and evaluation.

    Attributes:
        variant: variant of configs/claim.py.
        seed: seed of the initial weights, the order of the images and every draw.
        change: name of its change to the variant; '' for none.
        override: argument that makes the change.
    """

    variant: str
    seed: int
    change: str = ""
    override: str = ""

    @property
    def name(self) -> str:
        change = f"-{self.change.replace(' ', '-')}" if self.change else ""
        return f"{self.variant}{change}-{self.seed}"

    @property
    def label(self) -> str:
        change = f", {self.change}" if self.change else ""
        return LABELS[self.variant] + change


class Setting(NamedTuple):
    """The settings that all runs of a claim share.

    Attributes:
        workdir: workdir of the claim.
        large: whether to use the setting for a GPU.
        data_seed: seed of the pictures; None uses the seed in configs/claim.py.
        epochs: epochs of pre-training; None uses those in configs/claim.py.
    """

    workdir: Path
    large: bool = False
    data_seed: int | None = None
    epochs: int | None = None

    @property
    def about(self) -> str:
        """Describes the setting in a few words."""
        if self.large:
            return "large: 20,000 pictures of 64 px, ResNet-18"
        return "small: 4,000 pictures of 32 px, a ResNet of 8 layers"


def runs_of(variants: Sequence[str], seeds: Sequence[int], ablations: Sequence[str]) -> list[Run]:
    """Returns the runs, seed by seed, so that an early stop leaves complete comparisons.

    An ablation adds runs only for its own variants among `variants`.

    Raises:
        UsageError: an ablation applies to none of the variants.
    """
    for ablation in ablations:
        changed = ABLATIONS[ablation][0]
        if not set(changed) & set(variants):
            raise UsageError(
                f"The ablation {ablation} applies to {' and '.join(changed)}, but the variants are "
                f"{', '.join(variants)}. Add one of the former to --variants, or leave it out."
            )
    runs = []
    for seed in seeds:
        runs += [Run(variant, seed) for variant in variants]
        for ablation in ablations:
            changed, overrides = ABLATIONS[ablation]
            runs += [
                Run(variant, seed, change, override)
                for change, override in overrides.items()
                for variant in changed
                if variant in variants
            ]
    return runs


def stages_of(run: Run, setting: Setting) -> list[Stage]:
    """Returns the commands of a run: pre-training, linear probe, evaluation.

    Raises:
        UsageError: one of its workdirs holds a run with another config.
    """
    base = f"--config={CONFIGS / 'claim.py'}:{'large:' if setting.large else ''}{run.variant}"
    folder = setting.workdir / run.name
    arguments = [base, f"--workdir={folder}", f"--config.seed={run.seed}"]
    config = _resolved(arguments)
    data, _, reported = config.data.source.partition("@")
    seed = int(reported) if setting.data_seed is None else setting.data_seed
    source = f"{data}@{seed}"
    arguments.append(f"--config.data.source={source}")
    if setting.epochs is not None:
        arguments.append(f"--config.epochs={setting.epochs}")
    if run.override:
        values = {
            "half_queue": config.moco.queue_size // 2,
            "twice_rate": 2 * config.optimizer.learning_rate,
        }
        arguments.append(run.override.format(**values))
    size = f"--config.data.image_size={config.data.image_size}"
    threads = f"--config.data.threads={config.data.threads}"
    probe = [
        f"--config={CONFIGS / 'linear.py'}:tiny",
        f"--workdir={folder}-linear",
        f"--config.pretrained={folder}",
        f"--config.seed={run.seed}",
        f"--config.data.source={source}",
        size,
        threads,
    ]
    evaluation = [
        f"--config={CONFIGS / 'evaluate.py'}:tiny",
        f"--workdir={folder}-eval",
        f"--config.pretrained={folder}-linear",
        f"--config.label={run.label}",
        size,
        threads,
    ]
    sets = _resolved(evaluation).sets
    evaluation += [f"--config.sets.{name}.source={sets[name].source}@{seed}" for name in sets]
    program, images = [str(MAIN)], int(data.partition(":")[2])
    return [
        stage(f"{run.name}, pre-training", program, arguments, _PRETRAINING, images),
        stage(f"{run.name}, linear probe", program, probe, _PROBE),
        stage(f"{run.name}, evaluation", program, evaluation, _EVALUATION),
    ]


def _resolved(arguments: list[str]) -> ConfigDict:
    return command_line.parse([str(MAIN), *arguments]).config
