"""Builds and compiles the linear probe of a job's settings."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from nsneg_jax.jobs.frozen import ProbeSettings
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
    size = settings.reading.image_size
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)
    features = jax.eval_shape(
        partial(probe.frozen_features, pretrained.encoder, settings.dtype), backbone, image
    )
    rates = len(settings.learning_rates)
    return method, probe.init_state(method, backbone, rates, features.shape[1], classes)


def compile_steps(
    method: probe.Probe, devices: Mesh
) -> tuple[jax.stages.Wrapped, jax.stages.Wrapped]:
    """Compiles `probe.train_step` and `probe.end_epoch` for the devices; both donate the state."""
    whole, split = mesh.replicated(devices), mesh.split_batch(devices)
    train_step = jax.jit(
        partial(probe.train_step, method),
        in_shardings=(whole, split),
        out_shardings=whole,
        donate_argnums=0,
    )
    return train_step, jax.jit(probe.end_epoch, out_shardings=whole, donate_argnums=0)
