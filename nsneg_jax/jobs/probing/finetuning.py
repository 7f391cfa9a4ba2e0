"""Builds and compiles the fine-tuning of a job's settings."""

from functools import partial

import jax
from jax.sharding import Mesh

from nsneg_jax.jobs.frozen import FinetuneSettings
from nsneg_jax.jobs.probing.program import compile_training, number_of_features
from nsneg_jax.methods import finetune, optimizer
from nsneg_jax.pretrained import Pretrained


def build(
    settings: FinetuneSettings, pretrained: Pretrained, steps_per_epoch: int, classes: int
) -> tuple[finetune.FineTuning, finetune.FineTuningState]:
    """Builds the method and its initial state."""
    of = settings.optimizer
    schedule = optimizer.learning_rate_schedule(
        of.schedule,
        of.learning_rate,
        steps_per_epoch,
        settings.epochs,
        of.milestones,
        of.warmup_epochs,
    )
    method = finetune.FineTuning(
        encoder=pretrained.encoder,
        optimizer=optimizer.make(
            of.name, schedule, momentum=of.momentum, weight_decay=of.weight_decay
        ),
        flip_probability=settings.flip_probability,
        dtype=settings.dtype,
        seed=settings.seed,
        classifier_factor=of.classifier_factor,
        label_smoothing=settings.label_smoothing,
        anchor=settings.anchor,
        groups=settings.bn_groups or None,
    )
    backbone = {"params": pretrained.params, "stats": pretrained.stats}
    features = number_of_features(settings, pretrained)
    return method, finetune.init_state(method, backbone, features, classes)


def compile_steps(
    method: finetune.FineTuning, devices: Mesh
) -> tuple[jax.stages.Wrapped, jax.stages.Wrapped]:
    """Compiles `finetune.train_step` and `finetune.end_epoch`; both donate the state."""
    return compile_training(partial(finetune.train_step, method), finetune.end_epoch, devices)
