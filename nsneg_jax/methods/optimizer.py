"""Optimisers and learning-rate schedules by name, through Optax."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax

from nsneg_jax.errors import UsageError
from nsneg_jax.registry import Registry

Optimizer = Callable[..., optax.GradientTransformation]


def sgd(
    schedule: optax.Schedule, *, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    """PyTorch's SGD: weight decay joins the gradient of every parameter (biases and batch-norm
    scales too) before the momentum; the learning rate multiplies the momentum buffer."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay), optax.sgd(schedule, momentum=momentum)
    )


def adamw(
    schedule: optax.Schedule, *, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter 2019), `momentum` its beta_1; decays all but vectors."""
    return optax.adamw(schedule, b1=momentum, weight_decay=weight_decay, mask=_matrices)


def lars(
    schedule: optax.Schedule, *, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    """LARS (You et al. 2017), trust coefficient 0.001; biases and batch-norm scales are neither
    decayed nor adapted, as in SimCLR."""
    return optax.lars(
        schedule,
        weight_decay,
        weight_decay_mask=_matrices,
        trust_ratio_mask=_matrices,
        momentum=momentum,
    )


OPTIMIZERS: Registry[Optimizer] = Registry("optimiser", {"sgd": sgd, "adamw": adamw, "lars": lars})


def register(name: str, optimizer: Optimizer) -> None:
    """Makes an optimiser known under a name, that configs give as `optimizer.name`.

    Args:
        name: none of the package's own.
        optimizer: called with the learning rate by step, and momentum and weight_decay by name.

    Raises:
        ValueError: the package has one of this name.
    """
    OPTIMIZERS.add(name, optimizer)


def make(name: str, schedule: optax.Schedule, **settings: Any) -> optax.GradientTransformation:
    """The optimiser `name`.

    Args:
        name: in `OPTIMIZERS`.
        schedule: learning rate by step.
        settings: of that optimiser: momentum, weight_decay.

    Raises:
        UsageError: there is no such optimiser.
    """
    if name not in OPTIMIZERS:
        raise UsageError(f"There is no optimiser {name!r}, only {', '.join(OPTIMIZERS)}.")
    return OPTIMIZERS[name](schedule, **settings)


def learning_rate_schedule(
    kind: str,
    learning_rate: float,
    steps_per_epoch: int,
    epochs: int,
    milestones: Sequence[int] = (),
    warmup_epochs: int = 0,
) -> optax.Schedule:
    """Learning rate as a function of the step.

    Keeps the behaviour of `adjust_learning_rate` in the original's main_moco.py, which changes it
    once per epoch: 'cosine' is lr/2 * (1 + cos(pi * epoch / epochs)); 'step' multiplies by 0.1
    from each milestone on. The original has no warm-up.

    Args:
        kind: 'cosine' or 'step'.
        learning_rate: lr, of the first epoch.
        steps_per_epoch: floor(data-set size / batch size).
        epochs: length of the run.
        milestones: of 'step', in epochs.
        warmup_epochs: the first epochs, in which the rate grows to its value step by step, in
            equal parts; 0 for none.
    """
    if kind == "cosine":
        by_epoch = optax.cosine_decay_schedule(learning_rate, epochs)
    else:
        by_epoch = optax.piecewise_constant_schedule(learning_rate, dict.fromkeys(milestones, 0.1))
    warmup_steps = warmup_epochs * steps_per_epoch

    def by_step(step: jax.Array) -> jax.Array:
        rate = by_epoch(step // steps_per_epoch)
        if not warmup_steps:
            return rate
        return rate * jax.numpy.minimum((step + 1) / warmup_steps, 1)

    return by_step


def _matrices(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
