"""The runs of the claim and their commands: pre-training, linear probe, evaluation."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from experiments.claim import chains
from experiments.claim.progress import Stage
from nsneg_jax import command_line
from nsneg_jax.errors import UsageError
from nsneg_jax.jobs.opening import to_json
from nsneg_jax.training.workdir import CHECKPOINTS, RESULTS, check_workdir

MAIN, CONFIGS = Path("main.py"), Path("configs")
LABELS = {
    "moco": "MoCo",
    "patch1": "patch, alpha 1",
    "patch2": "patch, alpha 2",
    "patch3": "patch, alpha 3",
    "texture": "texture, alpha 2",
    "patch+texture": "patch + texture, alpha 2",
}
ALPHAS = {"moco": 0.0, "patch1": 1.0, "patch2": 2.0, "patch3": 3.0}  # of patch negatives alone
# what an ablation adds: variants, and the override that it makes by the name it gives them
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
# shares of a run's time, for the time left
_PRETRAINING, _PROBE, _EVALUATION = 0.87, 0.05, 0.08


class Run(NamedTuple):
    """One pre-training with its probe and evaluation.

    Attributes:
        variant: of configs/claim.py.
        seed: of the run: initial weights, order of the images, every draw.
        change: name of what it does otherwise than the variant, '' for nothing.
        override: the argument that makes the change.
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
    """What all runs of a claim have in common.

    Attributes:
        workdir: of the claim.
        large: the setting for a GPU.
        data_seed: of the pictures, None for that of configs/claim.py.
        epochs: of pre-training, None for those of configs/claim.py.
    """

    workdir: Path
    large: bool = False
    data_seed: int | None = None
    epochs: int | None = None

    @property
    def about(self) -> str:
        """In a few words."""
        if self.large:
            return "large: 20,000 pictures of 64 px, ResNet-18"
        return "small: 4,000 pictures of 32 px, a ResNet of 8 layers"


def runs_of(variants: Sequence[str], seeds: Sequence[int], ablations: Sequence[str]) -> list[Run]:
    """The runs, seed by seed, so that an early stop leaves whole comparisons.

    Ablations change only those of the `variants` that they are about.

    Raises:
        UsageError: an ablation is about none of the variants.
    """
    for ablation in ablations:
        changed = ABLATIONS[ablation][0]
        if not set(changed) & set(variants):
            raise UsageError(
                f"The ablation {ablation} is about {' and '.join(changed)}, but the variants are "
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
    """The commands of a run: pre-training, linear probe, evaluation.

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
    return [
        _stage(f"{run.name}, pre-training", arguments, _PRETRAINING),
        _stage(f"{run.name}, linear probe", probe, _PROBE),
        _stage(f"{run.name}, evaluation", evaluation, _EVALUATION),
    ]


def _stage(name: str, arguments: list[str], share: float) -> Stage:
    parsed = command_line.parse([str(MAIN), *arguments])
    config, workdir = parsed.config, parsed.workdir
    check_workdir(to_json(config), workdir)
    if config.job == "pretrain":
        images = int(config.data.source.partition(":")[2].partition("@")[0])
        total = config.epochs * (images // config.batch_size)
        product = workdir / CHECKPOINTS / str(total)
    else:
        total = config.epochs if config.job == "linear" else None
        product = workdir / RESULTS
    link = chains.Link(
        name=name,
        command=[sys.executable, str(MAIN), *arguments],
        log=workdir / "log.txt",
        done=product.exists,
    )
    return Stage(link, workdir, share, total)


def _resolved(arguments: list[str]) -> ConfigDict:
    return command_line.parse([str(MAIN), *arguments]).config
