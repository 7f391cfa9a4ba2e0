"""Checks the values of a config before any data or device is touched.

Each field alone is checked by its row in the tables of `nsneg_jax.jobs.fields`; here are the rules
between fields, and those that depend on the number of devices.
"""

import os

from ml_collections import ConfigDict

from nsneg_jax.evaluation.protocols.benchmarks import MADE_HERE
from nsneg_jax.input.labelled import scaled_resize
from nsneg_jax.jobs.fields.checker import FEWEST_PER_GROUP, Checker
from nsneg_jax.jobs.fields.field import wrong
from nsneg_jax.jobs.fields.rows.shared import COUNTED, MOST_STEPS
from nsneg_jax.pretrained import UNTRAINED
from nsneg_jax.training.workdir import flatten

_PROCESSES_PER_PROCESSOR = 16
_LARGEST_SIDE = 8192  # pixels of the shorter side of a resized picture


def check_reading(config: ConfigDict) -> None:
    """Checks that the input asks for no more than a machine can do.

    Args:
        config: config of any job; sizes that it leaves to another run are not checked.

    Raises:
        UsageError: it asks for far too many processes on this machine, or too large pictures.
    """
    size = config.data.image_size
    for name, value in flatten(config.to_dict()).items():
        if name.endswith("resize") and scaled_resize(max(value, 0), size) > _LARGEST_SIDE:
            most = _LARGEST_SIDE * 224 // size
            raise wrong(
                name,
                value,
                f"at most {most} for data.image_size {size}, so that pictures have no more than "
                f"{_LARGEST_SIDE:,} pixels on their shorter side",
            )
    most = _PROCESSES_PER_PROCESSOR * (os.cpu_count() or 1)
    if config.data.workers > most:
        expected = f"at most {most}, {_PROCESSES_PER_PROCESSOR} per processor of this machine"
        raise wrong("data.workers", config.data.workers, expected)


def validate_linear(config: ConfigDict, devices: int) -> None:
    """Checks a linear job as far as possible without the encoder and the data.

    Args:
        config: config of a linear job.
        devices: number of devices that share the batch.

    Raises:
        UsageError: a field is wrong; the message names the first one.
    """
    _check_frozen_encoder(config, devices, "linear")


def validate_finetune(config: ConfigDict, devices: int) -> None:
    """Like `validate_linear`, for the finetune job."""
    check = _check_frozen_encoder(config, devices, "finetune")
    warmup = config.optimizer.warmup_epochs
    check.expect(
        "optimizer.warmup_epochs", warmup < config.epochs, f"less than epochs, {config.epochs}"
    )
    check.expect(
        "bn_groups",
        not config.bn_groups or config.batch_size % config.bn_groups == 0,
        f"0 or a divisor of batch_size, {config.batch_size}",
    )
    check.expect(
        "bn_groups",
        not config.bn_groups or config.batch_size // config.bn_groups >= FEWEST_PER_GROUP,
        f"0 or at most {config.batch_size // FEWEST_PER_GROUP}, so that each group has 2 images "
        f"or more of batch_size, {config.batch_size}",
    )


def validate_knn(config: ConfigDict, devices: int) -> None:
    """Like `validate_linear`, for the kNN job."""
    _check_frozen_encoder(config, devices, "knn")


def validate_features(config: ConfigDict, devices: int) -> None:
    """Like `validate_linear`, for the features job."""
    _check_frozen_encoder(config, devices, "features")


def validate_evaluate(config: ConfigDict, devices: int) -> None:
    """Like `validate_linear`, for the evaluate job."""
    check = _check_frozen_encoder(config, devices, "evaluate", "linear probe (such as runs/linear)")
    only = [name.strip() for name in config.only.split(",")] if config.only else []
    check.expect(
        "only",
        set(only) <= set(config.sets) and len(set(only)) == len(only),
        f"names of sets with commas, each once, among {', '.join(config.sets)} (or more in a "
        "config file of your own)",
    )
    for name in config.sets:
        if config.sets[name].generate:
            check.expect(
                f"sets.{name}.benchmark",
                config.sets[name].benchmark in MADE_HERE,
                f"one of {', '.join(map(repr, MADE_HERE))} while sets.{name}.generate is set "
                "(others are not made here)",
            )


def total_steps(epochs: int, steps_per_epoch: int, given: int = 0) -> int:
    """Returns the steps of a training.

    Args:
        epochs, steps_per_epoch: its length.
        given: another number of steps; 0 for none.

    Raises:
        UsageError: there are more steps than can be counted.
    """
    total = given or epochs * steps_per_epoch
    if total > MOST_STEPS:
        most = MOST_STEPS // steps_per_epoch
        raise wrong(
            "epochs", epochs, f"at most {most:,} with {steps_per_epoch:,} steps ({COUNTED})"
        )
    return total


def _check_frozen_encoder(
    config: ConfigDict, devices: int, job: str, run: str = "run (such as runs/patch)"
) -> Checker:
    """Checks the fields that every job with a frozen encoder reads."""
    check = Checker(config, job)
    check.expect(
        "pretrained",
        bool(config.pretrained.removeprefix(UNTRAINED)),
        f"the workdir of a {run} or a checkpoint folder in it",
    )
    check.divisible_batch(devices)
    return check
