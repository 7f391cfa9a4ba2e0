"""Builds and compiles the fine-tuning of a job's settings."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from nsneg_jax.jobs.frozen import FinetuneSettings
from nsneg_jax.methods import finetune, optimizer
from nsneg_jax.parallel import mesh
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
    size = settings.reading.image_size
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    features = jax.eval_shape(pretrained.encoder.features, *backbone.values(), image)
    return method, finetune.init_state(method, backbone, features.shape[1], classes)


def compile_steps(
    method: finetune.FineTuning, devices: Mesh
) -> tuple[jax.stages.Wrapped, jax.stages.Wrapped]:
    """Compiles `finetune.train_step` and `finetune.end_epoch`; both donate the state."""
    whole, split = mesh.replicated(devices), mesh.split_batch(devices)
    train_step = jax.jit(
        partial(finetune.train_step, method),
        in_shardings=(whole, split),
        out_shardings=whole,
        donate_argnums=0,
    )
    return train_step, jax.jit(finetune.end_epoch, out_shardings=whole, donate_argnums=0)
