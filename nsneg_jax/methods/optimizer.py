"""Optimisers and learning-rate schedules by name, through Optax."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from nsneg_jax.errors import UsageError
from nsneg_jax.models.encoder import HEAD, Tree
from nsneg_jax.registry import Registry

Optimizer = Callable[..., optax.GradientTransformation]


def sgd(
    schedule: optax.Schedule, *, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    """Makes PyTorch's SGD.

    Weight decay is added to the gradient of every parameter (biases and batch-norm scales too)
    before the momentum; the learning rate multiplies the momentum buffer.
    """
    return optax.chain(
        optax.add_decayed_weights(weight_decay), optax.sgd(schedule, momentum=momentum)
    )


def adamw(
    schedule: optax.Schedule, *, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    """Makes AdamW (Loshchilov and Hutter 2019) with beta_1 = `momentum`; decays all but vectors."""
    return optax.adamw(schedule, b1=momentum, weight_decay=weight_decay, mask=_matrices)


def lars(
    schedule: optax.Schedule, *, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    """Makes LARS (You et al. 2017) with trust coefficient 0.001.

    As in SimCLR, biases and batch-norm scales are neither decayed nor adapted.
    """
    return optax.lars(
        schedule,
        weight_decay,
        weight_decay_mask=_matrices,
        trust_ratio_mask=_matrices,
        momentum=momentum,
    )


OPTIMIZERS: Registry[Optimizer] = Registry("optimiser", {"sgd": sgd, "adamw": adamw, "lars": lars})


def register(name: str, optimizer: Optimizer) -> None:
    """Registers an optimiser under a name, which configs give as `optimizer.name`.

    Args:
        name: none of the package's own.
        optimizer: called with the learning rate by step, and with momentum and weight_decay by
            name.

    Raises:
        ValueError: the package has one of this name.
    """
    OPTIMIZERS.add(name, optimizer)


def make(name: str, schedule: optax.Schedule, **settings: Any) -> optax.GradientTransformation:
    """Makes the optimiser `name`.

    Args:
        name: a name in `OPTIMIZERS`.
        schedule: learning rate by step.
        settings: momentum and weight_decay.

    Raises:
        UsageError: there is no such optimiser.
    """
    if name not in OPTIMIZERS:
        raise UsageError(f"There is no optimiser {name!r}. Choose one of {', '.join(OPTIMIZERS)}.")
    return OPTIMIZERS[name](schedule, **settings)


class Anchored(NamedTuple):
    """State of `anchored`.

    Attributes:
        start: the backbone's parameters before the first step.
        inner: state of the optimiser that follows.
    """

    start: Tree
    inner: optax.OptState


def anchored(
    optimizer: optax.GradientTransformation, weight: float
) -> optax.GradientTransformation:
    """Makes an optimiser that also pulls the backbone to where it began (L2-SP).

    Before each step of `optimizer` it adds weight * (params - start) to the gradient: that of half
    the squared distance to the starting parameters (Xuhong et al. 2018). So the anchor is a term of
    the loss with every optimiser, as in fine-tuning. It is coupled: AdamW and LARS scale it
    together with the loss's gradient, where AdamW's weight decay bypasses that scale.

    Heads are free. What is trained is the encoder's parameters, whose head is `HEAD`, or a tuple
    that begins with them.

    Args:
        optimizer: the optimiser that gets the sum.
        weight: 0 or more.
    """

    def init(params: Any) -> Anchored:
        # Copied, because the step donates the parameters and this state apart.
        start = jax.tree.map(jnp.copy, _without_head(_encoder_of(params)))
        return Anchored(start, optimizer.init(params))

    def update(gradients: Any, state: optax.OptState, params: Any = None) -> tuple[Any, Anchored]:
        assert isinstance(state, Anchored) and params is not None
        encoder = _encoder_of(params)
        pulled = dict(_encoder_of(gradients))
        for name, start in state.start.items():
            pulled[name] = jax.tree.map(
                lambda gradient, now, then: gradient + weight * (now - then),
                pulled[name],
                encoder[name],
                start,
            )
        whole = (pulled, *gradients[1:]) if isinstance(gradients, tuple) else pulled
        updates, inner = optimizer.update(whole, state.inner, params)
        return updates, Anchored(state.start, inner)

    return optax.GradientTransformation(init, update)


def _encoder_of(trained: Any) -> Tree:
    return dict(trained[0] if isinstance(trained, tuple) else trained)


def _without_head(params: Tree) -> Tree:
    return {name: leaf for name, leaf in params.items() if name != HEAD}


def learning_rate_schedule(
    kind: str,
    learning_rate: float,
    steps_per_epoch: int,
    epochs: int,
    milestones: Sequence[int] = (),
    warmup_epochs: int = 0,
) -> optax.Schedule:
    """Returns the learning rate as a function of the step.

    As in `adjust_learning_rate` of the original's main_moco.py, the rate changes once per epoch:
    'cosine' is lr/2 * (1 + cos(pi * epoch / epochs)); 'step' multiplies by 0.1 from each milestone
    on. The original has no warm-up.

    Args:
        kind: 'cosine' or 'step'.
        learning_rate: lr, the rate of the first epoch.
        steps_per_epoch: floor(data-set size / batch size).
        epochs: length of the run.
        milestones: epochs where 'step' lowers the rate.
        warmup_epochs: first epochs, in which the rate grows linearly per step; 0 for none.
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
        return rate * jnp.minimum((step + 1) / warmup_steps, 1)

    return by_step


def _matrices(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
