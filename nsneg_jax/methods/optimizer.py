"""SGD and the learning-rate schedules of the original."""

import optax
from ml_collections import ConfigDict


def learning_rate_schedule(
    config: ConfigDict, learning_rate: float, steps_per_epoch: int, epochs: int
) -> optax.Schedule:
    """Learning rate as a function of the step, changed once per epoch, without warm-up.

    Keeps the behaviour of `adjust_learning_rate` in the original's main_moco.py: 'cosine' is
    lr/2 * (1 + cos(pi * epoch / epochs)); 'step' multiplies by 0.1 from each milestone (in
    epochs) on.

    Args:
        config: the `optimizer` section: schedule, milestones.
        learning_rate: lr, that of the first epoch.
        steps_per_epoch: floor(data-set size / batch size).
        epochs: length of the run.
    """
    if config.schedule == "cosine":
        by_epoch = optax.cosine_decay_schedule(learning_rate, epochs)
    else:
        drops = dict.fromkeys(config.milestones, 0.1)
        by_epoch = optax.piecewise_constant_schedule(learning_rate, drops)
    return lambda step: by_epoch(step // steps_per_epoch)


def sgd(config: ConfigDict, schedule: optax.Schedule) -> optax.GradientTransformation:
    """PyTorch's SGD: weight decay joins the gradient of every parameter (biases and batch-norm
    scales too) before the momentum; the learning rate multiplies the momentum buffer.

    Args:
        config: the `optimizer` section: momentum, weight_decay.
        schedule: learning rate by step.
    """
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay),
        optax.sgd(schedule, momentum=config.momentum),
    )
