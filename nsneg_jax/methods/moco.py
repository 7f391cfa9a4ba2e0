"""MoCo-v2 with non-semantic negatives: Ge et al., NeurIPS 2021 (arXiv 2110.14189).

For a batch of N images with query view q, key view k and M non-semantic negatives t each, a queue
of K earlier keys n, temperature T and weight alpha,

    L = -log  exp(q.k/T) / ( exp(q.k/T) + sum_i exp(q.n_i/T) + sum_m exp(alpha q.t_m/T) )

averaged over the batch. One step, in the original's order: query forward, momentum update of the
key encoder, key forward, one forward of each negative through the key encoder (without gradient),
loss against the queue as it was, enqueue the keys, SGD.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.sharding import Mesh

from nsneg_jax.methods.negatives import draw_patches, patch_negatives
from nsneg_jax.methods.views import ViewRecipe, augment
from nsneg_jax.models.encoder import Encoder, Tree
from nsneg_jax.parallel import mesh

Batch = dict[str, jax.Array]  # 'query', 'key' (and 'texture'): uint8 crops [N, S, S, 3]

# what a step draws random numbers for; negative m has NEGATIVE + m
SHUFFLE, QUERY_VIEW, KEY_VIEW, NEGATIVE = range(4)


@dataclass(frozen=True)
class MoCo:
    """The method's networks and settings; hashable, so it can be static under jit.

    Attributes:
        learning_rate: by step; what the optimizer uses, here to be reported.
        queue_size: K. momentum: m of the key encoder. temperature: T.
        alphas: of each of the M non-semantic negatives, the weight of its similarity.
        texture: whether the last of them is the batch's texture; the others are patches.
        groups: batch-norm groups, the number of processes of the original.
        merge_passes: key and negatives in one forward pass of (1 + M) N images instead of 1 + M
            passes: same mathematics, better use of the chip, more memory.
        patch_range: smallest and largest patch, in pixels of the view.
        recipe: of the two views.
        dtype: of the views and the encoder's computation.
        seed: of every draw the steps make.
        devices: that share the step's work; None leaves the layout to the compiler, which then
            exchanges some things twice.
        shard_queue: each device holds a part of the queue's rows, and not the whole.
        loads_shuffled: crops of keys and negatives come in the orders of shuffling BN already;
            what the negatives are made from is the batch's 'negatives', uint8 [N, M, S, S, 3].
    """

    encoder: Encoder
    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule
    queue_size: int
    momentum: float
    temperature: float
    alphas: tuple[float, ...]
    texture: bool
    groups: int
    merge_passes: bool
    patch_range: tuple[int, int]
    recipe: ViewRecipe
    dtype: str
    seed: int
    devices: Mesh | None = None
    shard_queue: bool = False
    loads_shuffled: bool = False

    def replicate(self, x: jax.Array) -> jax.Array:
        """x, whole on every device."""
        if self.devices is None:
            return x
        return jax.lax.with_sharding_constraint(x, mesh.replicated(self.devices))

    def split(self, x: jax.Array, axis: int = 0) -> jax.Array:
        """x with an axis, that of the batch, split over the devices."""
        if self.devices is None:
            return x
        return jax.lax.with_sharding_constraint(x, mesh.split_axis(self.devices, axis))


@struct.dataclass
class TrainState:
    """Everything a run needs to go on.

    `step` int32, steps done; parameters and running statistics of query (q) and key (k) encoder;
    `queue` [K, dim], one normalised key a row; the optimiser's state.
    """

    step: jax.Array
    params_q: Tree
    stats_q: Tree
    params_k: Tree
    stats_k: Tree
    queue: jax.Array
    opt_state: optax.OptState


class Views(NamedTuple):
    """Normalised images of one batch: query and key [N, S, S, 3], negatives [N, M, S, S, 3]."""

    query: jax.Array
    key: jax.Array
    negatives: jax.Array


class Outputs(NamedTuple):
    """Per-sample results of a step.

    `loss` [N]; cosine similarities of the query to its key, `positive` [N], on average to the
    queue, `negative` [N], and to its non-semantic negatives, `nonsemantic` [N, M]; `rank` [N],
    how many of the K + M negatives have a larger logit than the key.
    """

    loss: jax.Array
    positive: jax.Array
    negative: jax.Array
    nonsemantic: jax.Array
    rank: jax.Array


def init_state(moco: MoCo, params: Tree, stats: Tree, dim: int) -> TrainState:
    """The state before the first step: equal encoders, a queue of random unit vectors."""
    # 1: another stream than the encoder's
    queue = np.random.default_rng((moco.seed, 1)).normal(size=(moco.queue_size, dim))
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


def is_finite(state: TrainState) -> jax.Array:
    """Whether every parameter of the query encoder is a number, bool []."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params_q)]).all()


def l2_normalize(x: jax.Array) -> jax.Array:
    """Rows of unit length, in float32 at least."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(axis=-1, keepdims=True), 1e-24))


def momentum_update(params_k: Tree, params_q: Tree, momentum: float) -> Tree:
    """theta_k = m theta_k + (1 - m) theta_q; batch-norm statistics take no part."""
    return jax.tree.map(lambda k, q: k * momentum + q * (1 - momentum), params_k, params_q)


def similarities(
    q: jax.Array, k: jax.Array, queue: jax.Array, t: jax.Array, moco: MoCo
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Cosine similarities of queries [N, dim]: to keys [N], queue [N, K], negatives [N, M]."""
    exact = jax.lax.Precision.HIGHEST
    everyones = moco.replicate(q) if moco.shard_queue else q
    negative = jnp.einsum("nd,kd->nk", everyones, queue, precision=exact)
    return (
        jnp.einsum("nd,nd->n", q, k, precision=exact),
        moco.split(negative, axis=1) if moco.shard_queue else negative,
        jnp.einsum("nd,nmd->nm", q, t, precision=exact),
    )


def contrast_logits(
    positive: jax.Array, negative: jax.Array, nonsemantic: jax.Array, moco: MoCo
) -> jax.Array:
    """Logits [N, 1 + K + M]: the key, the queue, the non-semantic negatives weighted by alpha."""
    weighted = jnp.array(moco.alphas, nonsemantic.dtype) * nonsemantic
    logits = jnp.concatenate([positive[:, None], negative, weighted], axis=1)
    return logits / moco.temperature


def contrast(
    positive: jax.Array, negative: jax.Array, nonsemantic: jax.Array, moco: MoCo
) -> tuple[jax.Array, jax.Array]:
    """Loss [N], and how many of the K + M negatives have a larger logit than the key, [N]."""
    if not moco.shard_queue:
        logits = contrast_logits(positive, negative, nonsemantic, moco)
        label = jnp.zeros(len(logits), jnp.int32)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, label)
        return loss, (logits[:, 1:] > logits[:, :1]).sum(axis=1)
    # the same sum of exponentials, that of the queue's part first: of the N x K logits each device
    # has the columns of its own rows of the queue, and only sums over them leave it
    queue_logits = negative / moco.temperature
    of_queue = moco.split(jax.nn.logsumexp(queue_logits, axis=1))
    logits = contrast_logits(positive, of_queue[:, None] * moco.temperature, nonsemantic, moco)
    key = logits[:, :1]
    larger = moco.split((queue_logits > moco.replicate(key)).sum(axis=1))
    rank = larger + (logits[:, 2:] > key).sum(axis=1)
    return jax.nn.logsumexp(logits, axis=1) - logits[:, 0], rank


def queue_pointer(step: jax.Array, batch_size: int, queue_size: int) -> jax.Array:
    """The row that step `step` writes first: (step * batch_size) % queue_size."""
    # the product would overflow; the pointer repeats after queue_size / gcd steps
    period = queue_size // math.gcd(queue_size, batch_size)
    return (step % period) * batch_size % queue_size


def enqueue(queue: jax.Array, keys: jax.Array, step: jax.Array) -> jax.Array:
    """Writes keys [N, dim] over the oldest rows of queue [K, dim]; N need not divide K."""
    pointer = queue_pointer(step, len(keys), len(queue))
    rows = (pointer + jnp.arange(len(keys))) % len(queue)
    return queue.at[rows].set(keys, unique_indices=True)


def encode_keys(
    moco: MoCo, params: Tree, stats: Tree, views: Views, permutations: jax.Array | None
) -> tuple[jax.Array, jax.Array, Tree]:
    """Embeddings k [N, dim] of the keys and t [N, M, dim] of the negatives, in the queries' order,
    and the running statistics after all passes."""
    images = jnp.concatenate([views.key[:, None], views.negatives], axis=1)
    n, passes = images.shape[:2]
    if moco.merge_passes:
        # sample by sample, not pass by pass: a sharded batch axis stays where it is
        flat = images.reshape(n * passes, *images.shape[2:])
        embeddings, stats = moco.encoder(params, stats, flat, moco.groups, passes)
        embeddings = embeddings.reshape(n, passes, -1)
    else:
        embeddings = []
        for p in range(passes):
            embedding, stats = moco.encoder(params, stats, images[:, p], moco.groups)
            embeddings.append(embedding)
        embeddings = jnp.stack(embeddings, axis=1)
    embeddings = l2_normalize(embeddings)
    if permutations is not None:
        # gathered once, for the queue and for their own queries
        places = moco.replicate(jnp.argsort(permutations, axis=1))
        embeddings = moco.replicate(embeddings)[places.T, jnp.arange(passes)]
        embeddings = moco.replicate(embeddings)
    return embeddings[:, 0], embeddings[:, 1:], stats


def update(
    moco: MoCo, state: TrainState, views: Views, permutations: jax.Array | None = None
) -> tuple[TrainState, Outputs]:
    """One step on given views.

    Args:
        moco: the method.
        state: before the step.
        views: normalised images; with `permutations`, key and negatives are already shuffled.
        permutations: int [1 + M, N], shuffling BN: place i of the key images holds sample
            permutations[0, i], place i of negative m sample permutations[1 + m, i].

    Returns:
        The state after the step, and per-sample results.
    """
    params_k = momentum_update(state.params_k, state.params_q, moco.momentum)
    k, t, stats_k = encode_keys(moco, params_k, state.stats_k, views, permutations)

    def loss_fn(params_q):
        q, stats_q = moco.encoder(params_q, state.stats_q, views.query, moco.groups)
        positive, negative, nonsemantic = similarities(l2_normalize(q), k, state.queue, t, moco)
        loss, rank = contrast(positive, negative, nonsemantic, moco)
        outputs = Outputs(loss, positive, negative.mean(axis=1), nonsemantic, rank)
        return loss.mean(), (stats_q, outputs)

    gradients, (stats_q, outputs) = jax.grad(loss_fn, has_aux=True)(state.params_q)
    updates, opt_state = moco.optimizer.update(gradients, state.opt_state, state.params_q)
    state = TrainState(
        step=state.step + 1,
        params_q=optax.apply_updates(state.params_q, updates),
        stats_q=stats_q,
        params_k=params_k,
        stats_k=stats_k,
        queue=enqueue(state.queue, moco.replicate(k), state.step),
        opt_state=opt_state,
    )
    return state, outputs


def sample_keys(key: jax.Array, places: jax.Array) -> jax.Array:
    """One PRNG key for each of the `places` in the global batch."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, places)


def draw_permutations(moco: MoCo, step: jax.Array, n: int) -> jax.Array:
    """The orders of shuffling BN for the key pass and each negative pass, [1 + M, n]."""
    keys = sample_keys(_purpose_key(moco, step, SHUFFLE), jnp.arange(1 + len(moco.alphas)))
    # drawn by every device: split, its sorts would exchange their keys
    return moco.replicate(jax.vmap(lambda key: jax.random.permutation(key, n))(keys))


def make_views(
    moco: MoCo, step: jax.Array, batch: Batch, permutations: jax.Array | None = None
) -> Views:
    """Augments the crops of a batch and makes the negatives: patches of the query views, textures.

    What a sample gets depends on (seed, step, its place in the global batch) and nothing else.

    Args:
        moco: the method.
        step: steps done before this one.
        batch: uint8 crops; a texture, cut as the query was, gets the same draws as the query.
        permutations: [1 + M, N], lays out key and negatives as `update` expects it.
    """
    n, size = batch["query"].shape[:2]
    orders = [None] * (1 + len(moco.alphas)) if permutations is None else permutations

    def keys(purpose, order):
        places = jnp.arange(n) if order is None else order
        return sample_keys(_purpose_key(moco, step, purpose), moco.split(places))

    def view(crops, purpose, order):
        return augment(crops, keys(purpose, order), moco.recipe, jnp.dtype(moco.dtype))

    def ordered(crops, order):
        # crops move between devices as uint8, before augmentation makes floats of them, and once
        # for all orders
        return crops if order is None else moco.replicate(crops)[moco.split(order)]

    query = view(batch["query"], QUERY_VIEW, None)
    on_one_device = moco.devices is None or moco.devices.size == 1

    def negative(m, order):
        is_texture = moco.texture and m == len(moco.alphas) - 1
        if moco.loads_shuffled:
            seen = view(batch["negatives"][:, m], QUERY_VIEW, order)
        elif is_texture:  # gets the same draws as the query
            seen = view(ordered(batch["texture"], order), QUERY_VIEW, order)
        elif order is None:
            seen = query
        elif on_one_device:
            seen = query[order]
        else:  # crops are a fourth or half of what views would be to exchange
            seen = view(ordered(batch["query"], order), QUERY_VIEW, order)
        if is_texture:
            return seen[:, None]
        draws = draw_patches(keys(NEGATIVE + m, order), 1, size, *moco.patch_range)
        return patch_negatives(seen, draws)

    key_crops = batch["key"] if moco.loads_shuffled else ordered(batch["key"], orders[0])
    key = view(key_crops, KEY_VIEW, orders[0])
    none = jnp.zeros((n, 0, *query.shape[1:]), query.dtype)
    negatives = [negative(m, orders[1 + m]) for m in range(len(moco.alphas))]
    return Views(query, key, jnp.concatenate([none, *negatives], axis=1))


def _purpose_key(moco: MoCo, step: jax.Array, purpose: int) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(moco.seed), step), purpose)


def train_step(
    moco: MoCo, state: TrainState, batch: Batch
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step from uint8 crops: augmentation, negatives, and `update`.

    Args:
        moco: the method; static under jit.
        state: before the step; may be donated.
        batch: uint8 crops.

    Returns:
        The state after the step and scalar metrics: loss, accuracy_top1 and accuracy_top5 of the
        (1 + K + M)-way contrast task in percent, the mean cosine similarities, learning_rate.
    """
    # shuffling changes nothing for a single group: it sees the whole batch in any order
    shuffled = moco.groups > 1
    n = len(batch["query"])
    permutations = draw_permutations(moco, state.step, n) if shuffled else None
    views = make_views(moco, state.step, batch, permutations)
    learning_rate = moco.learning_rate(state.step)
    state, outputs = update(moco, state, views, permutations)
    metrics = {
        "loss": outputs.loss.mean(),
        "accuracy_top1": 100.0 * (outputs.rank < 1).mean(),
        "accuracy_top5": 100.0 * (outputs.rank < 5).mean(),
        "positive_similarity": outputs.positive.mean(),
        "negative_similarity": outputs.negative.mean(),
        "learning_rate": learning_rate,
    }
    if moco.alphas:
        metrics["nonsemantic_similarity"] = outputs.nonsemantic.mean()
    return state, metrics
