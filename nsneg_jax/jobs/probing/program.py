"""Builds and compiles the linear probe of a job's settings."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from nsneg_jax.jobs.frozen import FinetuneSettings, ProbeSettings
from nsneg_jax.methods import optimizer, probe
from nsneg_jax.parallel import mesh
from nsneg_jax.pretrained import Pretrained


def build(
    settings: ProbeSettings, pretrained: Pretrained, steps_per_epoch: int, classes: int
) -> tuple[probe.Probe, probe.ProbeState]:
    """Builds the probe and its initial state."""
    sgd = settings.optimizer
    factor = optimizer.learning_rate_schedule(
        sgd.schedule, 1.0, steps_per_epoch, settings.epochs, sgd.milestones
    )
    make = partial(optimizer.sgd, momentum=sgd.momentum, weight_decay=sgd.weight_decay)
    method = probe.Probe(
        encoder=pretrained.encoder,
        optimizer=probe.classifier_optimizer(settings.learning_rates, make(factor)),
        flip_probability=settings.flip_probability,
        dtype=settings.dtype,
        seed=settings.seed,
    )
    backbone = {"params": pretrained.params, "stats": pretrained.stats}
    features = number_of_features(settings, pretrained)
    rates = len(settings.learning_rates)
    return method, probe.init_state(method, backbone, rates, features, classes)


def number_of_features(settings: ProbeSettings | FinetuneSettings, pretrained: Pretrained) -> int:
    """Returns the length of an image's features."""
    size = settings.reading.image_size
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)
    backbone = {"params": pretrained.params, "stats": pretrained.stats}
    compute = partial(probe.frozen_features, pretrained.encoder, settings.dtype)
    return int(jax.eval_shape(compute, backbone, image).shape[1])


def compile_steps(
    method: probe.Probe, devices: Mesh
) -> tuple[jax.stages.Wrapped, jax.stages.Wrapped]:
    """Compiles `probe.train_step` and `probe.end_epoch` for the devices; both donate the state."""
    return compile_training(partial(probe.train_step, method), probe.end_epoch, devices)


def compile_training(
    train_step: Callable[..., Any], end_epoch: Callable[..., Any], devices: Mesh
) -> tuple[jax.stages.Wrapped, jax.stages.Wrapped]:
    """Compiles a step of (state, batch) and the end of an epoch; both donate the state."""
    whole, split = mesh.replicated(devices), mesh.split_batch(devices)
    step = jax.jit(train_step, in_shardings=(whole, split), out_shardings=whole, donate_argnums=0)
    return step, jax.jit(end_epoch, out_shardings=whole, donate_argnums=0)
