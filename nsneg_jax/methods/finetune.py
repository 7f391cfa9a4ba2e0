"""Fine-tuning: encoder and classifier trained together on labelled images.

As SimCLR fine-tunes on a part of the labels (Chen et al. 2020, appendix B.5): random crops and
flips, cross-entropy, and every parameter follows the gradient. The distance to the starting weights
may be penalised (L2-SP, Xuhong et al. 2018), which keeps what pre-training has learnt.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import optax
from flax import struct

from nsneg_jax.methods import probe
from nsneg_jax.methods.probe import Batch, Probe, ProbeState
from nsneg_jax.methods.views import normalise
from nsneg_jax.models.encoder import Tree


@dataclass(frozen=True)
class FineTuning(Probe):
    """The encoder and settings of fine-tuning; hashable, so it can be static under jit.

    The optimiser is that of {'params': the encoder's, 'classifier': ...}.

    Attributes:
        classifier_factor: the classifier's learning rate as a multiple of the encoder's.
        label_smoothing: part of a label that is spread evenly over all classes, in [0, 1).
        anchor: weight of half the squared distance of the encoder's parameters to those at the
            start; 0 for none.
        groups: batch-norm groups of a batch; None keeps the running statistics of the start.
    """

    classifier_factor: float
    label_smoothing: float
    anchor: float
    groups: int | None


@struct.dataclass
class FineTuningState(ProbeState):
    """Like a probe's, with one classifier; `best` is the one at the end of the last epoch.

    Attributes:
        start: the encoder's parameters before the first step; {} without an anchor.
    """

    start: Tree


def init_state(tuning: FineTuning, backbone: Tree, features: int, classes: int) -> FineTuningState:
    """Returns the state before the first step, with the classifier of a probe."""
    of_probe = probe.init_state(tuning, backbone, 1, features, classes)
    values = {name: getattr(of_probe, name) for name in of_probe.__dataclass_fields__}
    trained = {"params": backbone["params"], "classifier": of_probe.classifier}
    start = jax.tree.map(jnp.copy, backbone["params"]) if tuning.anchor else {}
    return FineTuningState(**values | {"opt_state": tuning.optimizer.init(trained)}, start=start)


def train_step(tuning: FineTuning, state: FineTuningState, batch: Batch) -> FineTuningState:
    """Takes one step from uint8 crops: flips, and the gradient of encoder and classifier.

    Copies that fill up the last batch of an epoch count in batch norm, but not in the loss.
    """
    images = probe.flipped(tuning, state.step, batch["image"])
    floats = normalise(images.astype(jnp.dtype(tuning.dtype)) / 255)
    labels, valid = batch["label"], batch["valid"]

    def loss_fn(trained: Tree) -> tuple[jax.Array, tuple[Tree, probe.Sums]]:
        features, stats = tuning.encoder.trained_features(
            trained["params"], state.backbone["stats"], floats, tuning.groups
        )
        features = features.astype(trained["classifier"]["kernel"].dtype)
        outputs = probe.logits(trained["classifier"], features)
        losses = smoothed_cross_entropy(outputs[0], labels, tuning.label_smoothing)
        mean = jnp.where(valid, losses, 0).sum() / jnp.maximum(valid.sum(), 1)
        if tuning.anchor:
            mean += tuning.anchor * half_squared_distance(trained["params"], state.start)
        return mean, (stats, probe.count(outputs, labels, valid))

    trained = {"params": state.backbone["params"], "classifier": state.classifier}
    gradients, (stats, sums) = jax.grad(loss_fn, has_aux=True)(trained)
    updates, opt_state = tuning.optimizer.update(gradients, state.opt_state, trained)
    updates["classifier"] = jax.tree.map(
        lambda update: tuning.classifier_factor * update, updates["classifier"]
    )
    trained = optax.apply_updates(trained, updates)
    return replace(
        state,
        step=state.step + 1,
        backbone={"params": trained["params"], "stats": stats},
        classifier=trained["classifier"],
        opt_state=opt_state,
        sums=jax.tree.map(jnp.add, state.sums, sums),
    )


def smoothed_cross_entropy(outputs: jax.Array, labels: jax.Array, smoothing: float) -> jax.Array:
    """Returns the cross-entropy with smoothed labels, as PyTorch's CrossEntropyLoss, [N].

    Args:
        outputs: logits [N, C].
        labels: int [N].
        smoothing: part of a label that is spread evenly over all C classes.
    """
    own = jnp.take_along_axis(outputs, labels[:, None], axis=1)[:, 0]
    target = (1 - smoothing) * own + smoothing * outputs.mean(axis=1)
    return jax.nn.logsumexp(outputs, axis=1) - target


def half_squared_distance(params: Tree, start: Tree) -> jax.Array:
    """Returns half the squared L2 distance of two sets of parameters, float []."""
    moved = jax.tree.map(jnp.subtract, params, start)
    return jnp.asarray(optax.tree.norm(moved, squared=True)) / 2


def end_epoch(state: FineTuningState, accuracy: jax.Array, epoch: jax.Array) -> FineTuningState:
    """Keeps the classifier, which belongs to the encoder of this epoch, and resets the sums.

    Args:
        state: state at the end of an epoch.
        accuracy: validation top-1 [1] in percent.
        epoch: number of the epoch, from 1.
    """
    return replace(
        state,
        sums=jax.tree.map(jnp.zeros_like, state.sums),
        best=jax.tree.map(jnp.copy, state.classifier),
        best_accuracy=accuracy.astype(state.best_accuracy.dtype),
        best_epoch=jnp.full_like(state.best_epoch, epoch),
    )
