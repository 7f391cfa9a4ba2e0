"""The linear probe: classifiers trained on the pooled features of a frozen encoder.

Follows the original's main_lincls.py: the encoder runs in inference mode, SGD trains only the
classifier. Several classifiers, one per learning rate, can learn from the same features.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from nsneg_jax.methods.views import flip, normalise
from nsneg_jax.models.encoder import Encoder, Tree

Batch = dict[str, jax.Array]  # 'image' uint8 [N, S, S, 3], 'label' int32 [N], 'valid' bool [N]
Sums = dict[str, jax.Array]

_INITIAL_STD = 0.01
# The rank of a label that is no answer: no top-k reaches it, however few the classes.
UNRANKED = int(np.iinfo(np.int32).max)


@dataclass(frozen=True)
class Probe:
    """The encoder and settings of a probe; hashable, so it can be static under jit.

    Attributes:
        encoder: frozen network that computes the features.
        optimizer: optimiser of the L stacked classifiers.
        flip_probability: chance of flipping a training image, in [0, 1].
        dtype: dtype of the encoder's computation.
        seed: seed of the flips and of the classifiers' initial weights.
    """

    encoder: Encoder
    optimizer: optax.GradientTransformation
    flip_probability: float
    dtype: str
    seed: int


@struct.dataclass
class ProbeState:
    """Everything a run needs to continue, for L learning rates, F features and C classes.

    Attributes:
        step: int32, steps done.
        backbone: {'params', 'stats'} of the frozen encoder.
        classifier: {'kernel' [L, F, C], 'bias' [L, C]}.
        opt_state: state of the optimiser.
        sums: sums over the epoch so far, see `count`.
        best: classifiers with the highest validation top-1 so far.
        best_accuracy: [L], their top-1 in percent.
        best_epoch: int32 [L], their epoch from 1; 0 before the first validation.
    """

    step: jax.Array
    backbone: Tree
    classifier: Tree
    opt_state: optax.OptState
    sums: Sums
    best: Tree
    best_accuracy: jax.Array
    best_epoch: jax.Array


def classifier_optimizer(
    rates: tuple[float, ...], sgd: optax.GradientTransformation
) -> optax.GradientTransformation:
    """Runs `sgd` with one learning rate per stacked classifier.

    Args:
        rates: L learning rates.
        sgd: SGD whose schedule is a factor of each rate.
    """

    def scale(update: jax.Array) -> jax.Array:
        factors = jnp.array(rates, update.dtype)
        return update * factors.reshape(-1, *[1] * (update.ndim - 1))

    return optax.chain(sgd, optax.stateless(lambda updates, _: jax.tree.map(scale, updates)))


def init_state(probe: Probe, backbone: Tree, rates: int, features: int, classes: int) -> ProbeState:
    """Returns the state before the first step: equal classifiers, N(0, 0.01) weights, zero bias."""
    dtype = jax.tree.leaves(backbone["params"])[0].dtype
    kernel = np.random.default_rng((probe.seed, 2)).normal(0, _INITIAL_STD, (features, classes))
    classifier = {
        "kernel": jnp.asarray(np.repeat(kernel[None], rates, axis=0), dtype),
        "bias": jnp.zeros((rates, classes), dtype),
    }
    return ProbeState(
        step=jnp.zeros((), jnp.int32),
        backbone=backbone,
        classifier=classifier,
        opt_state=probe.optimizer.init(classifier),
        sums=zero_sums(rates, dtype),
        best=jax.tree.map(jnp.copy, classifier),
        best_accuracy=jnp.full((rates,), -1, dtype),
        best_epoch=jnp.zeros((rates,), jnp.int32),
    )


def zero_sums(rates: int, dtype: jnp.dtype) -> Sums:
    """Returns the sums of `count` over no images."""
    each = {name: jnp.zeros((rates,), dtype) for name in ("loss", "top1", "top5")}
    return {**each, "images": jnp.zeros((), jnp.int32)}


def logits(classifier: Tree, features: jax.Array) -> jax.Array:
    """Computes logits [L, N, C] of features [N, F]."""
    product = jnp.einsum(
        "nf,lfc->lnc", features, classifier["kernel"], precision=jax.lax.Precision.HIGHEST
    )
    return product + classifier["bias"][:, None]


def ranks(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """Counts the classes ranked above the label, int32 [..., N].

    Ties go to the lower class index, so constant logits do no better than chance. The rank is
    `UNRANKED` where the label's logit is not finite, or any logit is NaN.

    Args:
        outputs: logits [..., N, C]; -inf for a class that is not allowed as an answer.
        labels: int [N].
    """
    own = _own(outputs, labels)
    earlier = jnp.arange(outputs.shape[-1]) < labels[:, None]
    before = (outputs > own) | (outputs == own) & earlier
    known = jnp.isfinite(own[..., 0]) & ~jnp.isnan(outputs).any(axis=-1)
    return jnp.where(known, before.sum(axis=-1, dtype=jnp.int32), UNRANKED)


def _own(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    index = jnp.broadcast_to(labels[:, None], (*outputs.shape[:-1], 1))
    return jnp.take_along_axis(outputs, index, axis=-1)


def count(outputs: jax.Array, labels: jax.Array, valid: jax.Array) -> Sums:
    """Sums loss and correct answers over the valid images of a batch.

    Args:
        outputs: logits [L, N, C].
        labels: int [N].
        valid: bool [N], False for padding.

    Returns:
        'loss' [L], cross-entropy; 'top1' and 'top5' [L], images whose label is among the k largest
        logits, see `ranks`; 'images' int32, number of valid images.
    """
    rank = ranks(outputs, labels)
    losses = jax.nn.logsumexp(outputs, axis=2) - _own(outputs, labels)[..., 0]

    def total(values: jax.Array) -> jax.Array:
        return jnp.where(valid, values, 0).sum(axis=1, dtype=losses.dtype)

    return {
        "loss": total(losses),
        "top1": total(rank < 1),
        "top5": total(rank < 5),
        "images": valid.sum(dtype=jnp.int32),
    }


def update(
    probe: Probe, state: ProbeState, features: jax.Array, labels: jax.Array, valid: jax.Array
) -> ProbeState:
    """Takes one step of SGD on the classifiers, given features [N, F].

    The loss is the mean over the valid images. The batch is added to the epoch's sums as it stands
    before the step, as in the original's training loop.
    """

    def loss_fn(classifier: Tree) -> tuple[jax.Array, Sums]:
        sums = count(logits(classifier, features), labels, valid)
        # Classifiers share no parameters, so the gradient of the sum trains each on its own loss.
        return (sums["loss"] / jnp.maximum(sums["images"], 1)).sum(), sums

    gradients, sums = jax.grad(loss_fn, has_aux=True)(state.classifier)
    updates, opt_state = probe.optimizer.update(gradients, state.opt_state, state.classifier)
    return replace(
        state,
        step=state.step + 1,
        classifier=optax.apply_updates(state.classifier, updates),
        opt_state=opt_state,
        sums=jax.tree.map(jnp.add, state.sums, sums),
    )


def frozen_features(encoder: Encoder, dtype: str, backbone: Tree, images: jax.Array) -> jax.Array:
    """Computes pooled features [N, F] in inference mode, in the parameters' dtype.

    Args:
        encoder: the network.
        dtype: dtype of the computation.
        backbone: 'params' and 'stats' of the network.
        images: uint8 [N, S, S, 3].
    """
    floats = images.astype(jnp.dtype(dtype)) / 255
    features = encoder.features(backbone["params"], backbone["stats"], normalise(floats))
    return features.astype(jax.tree.leaves(backbone["params"])[0].dtype)


def train_step(probe: Probe, state: ProbeState, batch: Batch) -> ProbeState:
    """Takes one step from uint8 crops: flips, features, `update`."""
    images = flipped(probe, state.step, batch["image"])
    features = frozen_features(probe.encoder, probe.dtype, state.backbone, images)
    return update(probe, state, features, batch["label"], batch["valid"])


def flipped(probe: Probe, step: jax.Array, images: jax.Array) -> jax.Array:
    """Flips each of the images [N, S, S, 3] of a step with the probe's probability."""
    key = jax.random.fold_in(jax.random.key(probe.seed), step)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(images)))
    chance = jax.vmap(jax.random.uniform)(keys)
    return flip(images, chance < probe.flip_probability)


def evaluation_step(
    probe: Probe, backbone: Tree, classifier: Tree, sums: Sums, batch: Batch
) -> Sums:
    """Adds the counts of a batch to `sums`."""
    features = frozen_features(probe.encoder, probe.dtype, backbone, batch["image"])
    outputs = logits(classifier, features)
    return jax.tree.map(jnp.add, sums, count(outputs, batch["label"], batch["valid"]))


def end_epoch(state: ProbeState, accuracy: jax.Array, epoch: jax.Array) -> ProbeState:
    """Keeps each classifier that beats its best so far, and resets the sums.

    Args:
        state: state at the end of an epoch.
        accuracy: validation top-1 [L] in percent.
        epoch: number of the epoch, from 1.
    """
    better = accuracy > state.best_accuracy

    def keep(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return replace(
        state,
        sums=jax.tree.map(jnp.zeros_like, state.sums),
        best=jax.tree.map(keep, state.classifier, state.best),
        best_accuracy=keep(accuracy.astype(state.best_accuracy.dtype), state.best_accuracy),
        best_epoch=keep(jnp.full_like(state.best_epoch, epoch), state.best_epoch),
    )
