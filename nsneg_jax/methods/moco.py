"""MoCo-v2 with non-semantic negatives: Ge et al., NeurIPS 2021 (arXiv 2110.14189).

For a batch of N images with query view q, key view k and M non-semantic negatives t each, a queue
of K earlier keys n, temperature T and weight alpha,

    L = -log  exp(q.k/T) / ( exp(q.k/T) + sum_i exp(q.n_i/T) + sum_m exp(alpha q.t_m/T) )

averaged over the batch. One step, in the original's order: query forward, momentum update of the
key encoder, key forward, one forward per negative through the key encoder (without gradient),
loss against the old queue, enqueue the keys, SGD.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from nsneg_jax.methods import shuffling
from nsneg_jax.methods.accumulation import UNDIVIDED, Parts, gradient
from nsneg_jax.methods.batches import MIXING, ViewMaker, Views
from nsneg_jax.methods.contrast import (
    ContrastiveLoss,
    Similarities,
    l2_normalize,
    similarities,
    spread,
)
from nsneg_jax.methods.method import Metrics
from nsneg_jax.methods.negatives.mochi import MixDraws, MoCHi
from nsneg_jax.methods.shuffling import Batch
from nsneg_jax.models.encoder import Encoder, Tree

Found = tuple[jax.Array, Similarities]  # the loss per query and what it is a function of
_Rows = tuple[jax.Array, jax.Array, jax.Array, MixDraws | None]  # query, k, t, MoCHi's draws


@dataclass(frozen=True)
class MoCo:
    """The method's networks and settings; hashable, so it can be static under jit.

    Attributes:
        encoder: structure of both the query and the key encoder.
        dim: length of an embedding.
        optimizer: optimiser of the query encoder.
        learning_rate: learning rate by step, the optimiser's own; reported in the metrics.
        loss: function of the similarities.
        views: makes the views and the M non-semantic negatives of a batch.
        queue_size: K.
        momentum: m of the key encoder.
        groups: batch-norm groups, one per process of the original.
        merge_passes: whether keys and negatives share one forward pass of (1 + M) N images instead
            of 1 + M passes: same mathematics, better use of the chip, more memory.
        mochi: mixes further negatives from the queue, which join its similarities in the loss and
            in nothing else; None for none.
    """

    encoder: Encoder
    dim: int
    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule
    loss: ContrastiveLoss
    views: ViewMaker
    queue_size: int
    momentum: float
    groups: int
    merge_passes: bool
    mochi: MoCHi | None = None
    parts: Parts = UNDIVIDED

    @property
    def state_type(self) -> type["TrainState"]:
        return TrainState

    @property
    def shuffles(self) -> bool:
        """Whether each key pass shuffles the batch; with one group, order has no effect."""
        return self.groups > 1

    @property
    def key_passes(self) -> int:
        """Forward passes of the key encoder per step: one for the keys, one per negative."""
        return 1 + self.views.num_negatives

    @property
    def queue_fields(self) -> tuple[str, ...]:
        """Fields of the state whose rows may be split over devices."""
        return ("queue",)

    def choices(self, batch_size: int) -> int:
        """Choices of the contrast task: the key, K queue entries and M negatives."""
        return 1 + self.queue_size + self.views.num_negatives

    def init(self, params: Tree, stats: Tree) -> "TrainState":
        return init_state(self, params, stats)

    def step(
        self, state: "TrainState", batch: Batch, arranged: bool = False
    ) -> tuple["TrainState", Metrics]:
        return train_step(self, state, batch, arranged)

    def similarities(self, state: "TrainState", batch: Batch) -> Similarities:
        """Returns the similarities behind the loss of the step that `batch` would be next."""
        # Without a gradient there are no activations to keep.
        return _next_step(replace(self, parts=UNDIVIDED), state, batch)[1].similarities


@struct.dataclass
class TrainState:
    """Everything a run needs to continue.

    Holds `step` (int32, steps done), parameters and running statistics of the query (q) and key (k)
    encoder, `queue` [K, dim] with one normalised key per row, and the optimiser's state.
    """

    step: jax.Array
    params_q: Tree
    stats_q: Tree
    params_k: Tree
    stats_k: Tree
    queue: jax.Array
    opt_state: optax.OptState


class Outputs(NamedTuple):
    """Results of a step.

    Holds `loss` [N], `rank` [N] (how many of the K + M negatives score higher than the key), the
    similarities behind both, `embedding_std` [] (`contrast.spread` of the keys) and `gradient_norm`
    [] (L2 norm over all parameters of the query encoder).
    """

    loss: jax.Array
    rank: jax.Array
    similarities: Similarities
    embedding_std: jax.Array
    gradient_norm: jax.Array


def init_state(moco: MoCo, params: Tree, stats: Tree) -> TrainState:
    """Returns the state before the first step: equal encoders, a queue of random unit vectors."""
    # 1 separates this stream from the encoder's initial values.
    queue = np.random.default_rng((moco.views.seed, 1)).normal(size=(moco.queue_size, moco.dim))
    copy = jax.tree.map(jnp.copy, (params, stats))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params_q=params,
        stats_q=stats,
        params_k=copy[0],
        stats_k=copy[1],
        queue=l2_normalize(jnp.asarray(queue, jax.tree.leaves(params)[0].dtype)),
        opt_state=moco.optimizer.init(params),
    )


def train_step(
    moco: MoCo, state: TrainState, batch: Batch, arranged: bool = False
) -> tuple[TrainState, Metrics]:
    """Takes one step from uint8 crops: augmentation, negatives, and `update`.

    Args:
        moco: the method; static under jit.
        state: state before the step; may be donated.
        batch: uint8 crops [N, S, S, 3]: 'query', 'key', and 'texture' where it is a negative.
        arranged: whether the crops are already as `shuffling.arrange` leaves them.

    Returns:
        The state after the step and scalar metrics: loss, accuracy_top1 and accuracy_top5 of the
        (1 + K + M)-way contrast task in percent, the mean cosine similarities, embedding_std,
        gradient_norm, learning_rate.
    """
    learning_rate = moco.learning_rate(state.step)
    state, outputs = _next_step(moco, state, batch, arranged)
    return state, metrics_of(outputs) | {"learning_rate": learning_rate}


def _next_step(
    moco: MoCo, state: TrainState, batch: Batch, arranged: bool = False
) -> tuple[TrainState, "Outputs"]:
    orders = moco.views.draw_orders(state.step, len(batch["query"])) if moco.shuffles else None
    if orders is not None and not arranged:
        batch = shuffling.arrange(batch, orders, moco.views.reads_texture)
    views = moco.views(state.step, batch, orders)
    return update(moco, state, views, orders)


def update(
    moco: MoCo, state: TrainState, views: Views, orders: jax.Array | None = None
) -> tuple[TrainState, Outputs]:
    """Takes one step on given views.

    Args:
        moco: the method.
        state: state before the step.
        views: normalised images; with `orders`, keys and negatives are already shuffled.
        orders: int [1 + M, N], the orders of shuffling BN: place i of the keys holds sample
            orders[0, i], place i of negative m holds sample orders[1 + m, i].

    Returns:
        The state after the step, and its results.
    """
    params_k = momentum_update(state.params_k, state.params_q, moco.momentum)
    k, t, stats_k = encode_keys(moco, params_k, state.stats_k, views, orders)
    encoder = moco.parts.encoder(moco.encoder)

    def loss_fn(params_q: Tree, stats_q: Tree, rows: _Rows) -> tuple[jax.Array, tuple[Tree, Found]]:
        query, k, t, draws = rows
        q, stats_q = encoder(params_q, stats_q, query, moco.groups)
        q = l2_normalize(q)
        s = similarities(q, k, state.queue, t)
        loss = moco.loss(_with_mixed(moco, state, q, s, draws))
        return loss.mean(), (stats_q, (loss, s))

    rows = views.query, k, t, _draw_mixed(moco, state, len(k))
    gradients, (stats_q, found) = gradient(loss_fn, state.params_q, state.stats_q, rows, moco.parts)
    after = replace(state, stats_q=stats_q, params_k=params_k, stats_k=stats_k)
    return descend(moco, after, gradients, found, (k,))


def descend(
    moco: MoCo, state: TrainState, gradients: Tree, found: Found, keys: Sequence[jax.Array]
) -> tuple[TrainState, Outputs]:
    """Updates the query encoder along the gradient of the loss, and enqueues keys.

    Args:
        moco: the method.
        state: state before the step, but with the key encoder and all statistics of after it.
        gradients: gradient with respect to the query encoder's parameters.
        found: the loss per query and the similarities.
        keys: embeddings [N, dim] per view, in the order of the queue.

    Returns:
        The state after the step, and its results.
    """
    loss, s = found
    updates, opt_state = moco.optimizer.update(gradients, state.opt_state, state.params_q)
    # The queue needs all keys, and their spread nothing else.
    parts = [shuffling.replicate(k) for k in keys]
    whole = parts[0] if len(parts) == 1 else jnp.concatenate(parts)
    norm = optax.tree.norm(gradients)
    outputs = Outputs(loss, moco.loss.ranks(s), s, spread(whole), norm)
    state = replace(
        state,
        step=state.step + 1,
        params_q=optax.apply_updates(state.params_q, updates),
        queue=enqueue(state.queue, whole, state.step),
        opt_state=opt_state,
    )
    return state, outputs


def _draw_mixed(moco: MoCo, state: TrainState, n: int) -> MixDraws | None:
    """Draws the mixed negatives of n queries; None without any."""
    if moco.mochi is None:
        return None
    return moco.mochi.draw(moco.views.keys(state.step, MIXING, n))


def _with_mixed(
    moco: MoCo, state: TrainState, q: jax.Array, s: Similarities, draws: MixDraws | None
) -> Similarities:
    """Adds the similarities of queries to mixed negatives to those of the queue."""
    if moco.mochi is None or draws is None:
        return s
    mixed = moco.mochi.similarities(state.step, q, state.queue, s.queue, draws)
    return s._replace(queue=jnp.concatenate([s.queue, mixed], axis=1))


def momentum_update(params_k: Tree, params_q: Tree, momentum: float) -> Tree:
    """Returns m theta_k + (1 - m) theta_q; batch-norm statistics are left alone."""
    return jax.tree.map(lambda k, q: k * momentum + q * (1 - momentum), params_k, params_q)


def encode_keys(
    moco: MoCo, params: Tree, stats: Tree, views: Views, orders: jax.Array | None
) -> tuple[jax.Array, jax.Array, Tree]:
    """Embeds keys, k [N, dim], and negatives, t [N, M, dim], in the queries' order.

    Returns k, t and the running statistics after all passes.
    """
    images = jnp.concatenate([views.key[:, None], views.negatives], axis=1)
    embeddings, stats = moco.encoder.embed_passes(
        params, stats, images, moco.groups, moco.merge_passes
    )
    embeddings = l2_normalize(embeddings)
    if orders is not None:
        embeddings = shuffling.restore(embeddings, orders)
    k, t = embeddings[:, 0], embeddings[:, 1:]
    if orders is not None:
        # Else the compiler might split it for the parts of a batch, and gather it for the queue.
        k = shuffling.replicate(k)
    return k, t, stats


def queue_pointer(step: jax.Array | int, batch_size: int, queue_size: int) -> jax.Array | int:
    """Returns the first row that step `step` writes: (step * batch_size) % queue_size."""
    # The product would overflow; the pointer repeats after queue_size / gcd steps.
    period = queue_size // math.gcd(queue_size, batch_size)
    return (step % period) * batch_size % queue_size


def enqueue(queue: jax.Array, keys: jax.Array, step: jax.Array) -> jax.Array:
    """Writes keys [N, dim] over the oldest rows of queue [K, dim]; N need not divide K."""
    pointer = queue_pointer(step, len(keys), len(queue))
    rows = (pointer + jnp.arange(len(keys))) % len(queue)
    return queue.at[rows].set(keys, unique_indices=True)


def metrics_of(outputs: Outputs) -> Metrics:
    """Returns the results of a step as scalars, means over its samples; accuracies in percent."""
    s = outputs.similarities
    metrics = {
        "loss": outputs.loss.mean(),
        "accuracy_top1": 100.0 * (outputs.rank < 1).mean(),
        "accuracy_top5": 100.0 * (outputs.rank < 5).mean(),
        "positive_similarity": s.positive.mean(),
        "negative_similarity": s.queue.mean(axis=1).mean(),
        "embedding_std": outputs.embedding_std,
        "gradient_norm": outputs.gradient_norm,
    }
    if s.nonsemantic.shape[1]:
        metrics["nonsemantic_similarity"] = s.nonsemantic.mean()
    return metrics
