"""Methods with two views that ask for each other, with non-semantic negatives.

BYOL, SimCLR and MoCo-v3 are one step with different parts. Both views of an image are queries, and
each has negatives of its own, made from itself:

    p = predict(encode(view)),  z = target(view),  t = target(negative),  all scaled to length 1
    L = scale * (mean loss(p_1; z_2, t_1) + mean loss(p_2; z_1, t_2))

The target is a network that follows the encoder (BYOL, MoCo-v3), and z and t have no gradient; or
it is the encoder itself (SimCLR), there is no predictor, and z has a gradient. `objectives` has the
losses, `models.heads` the heads.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from nsneg_jax.methods import shuffling
from nsneg_jax.methods.accumulation import UNDIVIDED, Parts, gradient
from nsneg_jax.methods.batches import ViewMaker, Views
from nsneg_jax.methods.contrast import ContrastiveLoss, Similarities, l2_normalize, spread
from nsneg_jax.methods.method import Metrics
from nsneg_jax.methods.moco import momentum_update
from nsneg_jax.methods.shuffling import Batch
from nsneg_jax.methods.siamese.objectives import Candidates, direction, mean_of_candidates
from nsneg_jax.models import Predictor
from nsneg_jax.models.encoder import Encoder, Tree


@dataclass(frozen=True)
class Siamese:
    """The method's networks and settings; hashable, so it can be static under jit.

    Attributes:
        encoder: structure of the network with its projection head.
        predictor: the head that follows it for queries; None for none.
        optimizer: optimiser of encoder and predictor.
        learning_rate: learning rate by step, the optimiser's own; reported in the metrics.
        loss: function of the similarities of one direction.
        candidates: what a query is compared with besides z and t, see `objectives.direction`.
        scale: multiplies the sum of both directions' mean losses.
        momentum: m of the target by step, for the update after that step; None if the encoder is
            its own target.
        views: makes the views and negatives; its `of_both` is set.
        groups: batch-norm groups; 1 for statistics of the whole batch.
        merge_passes: whether the passes of the same network are one call: same mathematics, better
            use of the chip, more memory.
        joint: whether both views share batch-norm statistics, as one pass of 2 N images (SimCLR);
            otherwise each is a pass of its own.
        negative_gradient: without a target: whether t has a gradient.
        parts: parts of the queries whose gradients are summed, to save memory; needs a target.
    """

    encoder: Encoder
    predictor: Predictor | None
    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule
    loss: ContrastiveLoss
    candidates: Candidates
    scale: float
    momentum: optax.Schedule | None
    views: ViewMaker
    groups: int
    merge_passes: bool
    joint: bool = False
    negative_gradient: bool = False
    parts: Parts = UNDIVIDED

    @property
    def state_type(self) -> type["SiameseState"]:
        return SiameseState

    @property
    def shuffles(self) -> bool:
        """Whether key passes shuffle the batch: they do not, both views are queries."""
        return False

    @property
    def key_passes(self) -> int:
        """Forward passes per step, not counting the first view's through the encoder."""
        negatives = self.views.num_negatives
        if self.joint:
            return negatives
        of_target = 2 if self.momentum is not None else 0
        return 1 + of_target + 2 * negatives

    @property
    def queue_fields(self) -> tuple[str, ...]:
        return ()

    def choices(self, batch_size: int) -> int:
        """Choices of the contrast task: z, its other candidates and the M negatives; 0 if none."""
        candidates = {"none": 0, "other view": batch_size, "both views": 2 * batch_size - 1}
        found = candidates[self.candidates]
        return found + self.views.num_negatives if found else 0

    def init(self, params: Tree, stats: Tree) -> "SiameseState":
        """Returns the state before the first step; the target begins equal to the encoder."""
        params_p, stats_p = ({}, {}) if self.predictor is None else self.predictor.initial()
        target: tuple[Tree, Tree] = ({}, {})
        if self.momentum is not None:
            target = jax.tree.map(jnp.copy, (params, stats))
        return SiameseState(
            step=jnp.zeros((), jnp.int32),
            params_q=params,
            stats_q=stats,
            params_p=params_p,
            stats_p=stats_p,
            params_k=target[0],
            stats_k=target[1],
            opt_state=self.optimizer.init((params, params_p)),
        )

    def step(
        self, state: "SiameseState", batch: Batch, arranged: bool = False
    ) -> tuple["SiameseState", Metrics]:
        """Takes one step from uint8 crops; see `Method.step`.

        The metrics are loss, positive_similarity, nonsemantic_similarity, embedding_std (of z),
        gradient_norm, learning_rate and, with candidates, negative_similarity, accuracy_top1 and
        accuracy_top5 of the contrast task in percent.
        """
        learning_rate = self.learning_rate(state.step)
        state, outputs = update(self, state, self.views(state.step, batch))
        return state, metrics_of(self, outputs) | {"learning_rate": learning_rate}

    def similarities(self, state: "SiameseState", batch: Batch) -> Similarities:
        """Returns the similarities behind the loss of the step that `batch` would be next.

        Those of the first views' queries come first, then those of the second's; `queue` has -inf
        for a query's own image, see `objectives.direction`.
        """
        # Without a gradient there are no activations to keep.
        whole = replace(self, parts=UNDIVIDED)
        both = update(whole, state, self.views(state.step, batch))[1].similarities
        return jax.tree.map(lambda *of_views: jnp.concatenate(of_views), *both)


@struct.dataclass
class SiameseState:
    """Everything a run needs to continue.

    Holds `step` (int32, steps done), parameters and running statistics of the encoder (q), the
    predictor (p) and the target (k), and the optimiser's state, of (params_q, params_p). What a
    method has not is {}.
    """

    step: jax.Array
    params_q: Tree
    stats_q: Tree
    params_p: Tree
    stats_p: Tree
    params_k: Tree
    stats_k: Tree
    opt_state: optax.OptState


class Outputs(NamedTuple):
    """Results of a step.

    Holds `loss` [], the similarities of both directions, `embedding_std` [] (`contrast.spread` of
    z) and `gradient_norm` [] (L2 norm over all parameters of encoder and predictor).
    """

    loss: jax.Array
    similarities: tuple[Similarities, ...]
    embedding_std: jax.Array
    gradient_norm: jax.Array


def update(method: Siamese, state: SiameseState, views: Views) -> tuple[SiameseState, Outputs]:
    """Takes one step on given views.

    Args:
        method: the method.
        state: state before the step.
        views: normalised images, with `key_negatives`.

    Returns:
        The state after the step, and its results.
    """
    assert views.key_negatives is not None, "ViewMaker.of_both is not set"
    images = jnp.stack([views.query, views.key], axis=1)[:, :, None]
    negatives = jnp.stack([views.negatives, views.key_negatives], axis=1)
    stats_k, target = state.stats_k, None
    if method.momentum is not None:
        both = jnp.concatenate([images, negatives], axis=2)
        embedded, stats_k = _embed(method, method.encoder, state.params_k, state.stats_k, both)
        embedded = l2_normalize(embedded)
        target = embedded[:, :, 0], embedded[:, :, 1:]
    encoder = method.parts.encoder(method.encoder)

    def loss_fn(
        trained: tuple[Tree, Tree], stats: tuple[Tree, Tree], rows: _Rows
    ) -> tuple[jax.Array, tuple[tuple[Tree, Tree], _Compared]]:
        images, own, places = rows
        params_q, params_p = trained
        embedded, stats_q = _embed(method, encoder, params_q, stats[0], images)
        p, stats_p = _predict(method, params_p, stats[1], embedded[:, :, 0])
        z, t = own or (p, _own_negatives(method, params_q, stats[0], negatives, p))
        batch = (target[0], places) if target else None
        of_views = tuple(direction(p, z, t, query, method.candidates, batch) for query in (0, 1))
        losses = tuple(method.loss(s) for s in of_views)
        return _mean(method, losses), ((stats_q, stats_p), _Compared(z, of_views, losses))

    trained, stats = (state.params_q, state.params_p), (state.stats_q, state.stats_p)
    rows = images, target, jnp.arange(len(images))
    gradients, (stats, compared) = gradient(loss_fn, trained, stats, rows, method.parts)
    updates, opt_state = method.optimizer.update(gradients, state.opt_state, trained)
    params_q, params_p = optax.apply_updates(trained, updates)
    params_k = state.params_k
    if method.momentum is not None:
        params_k = momentum_update(params_k, params_q, method.momentum(state.step))
    z = shuffling.replicate(compared.z).reshape(-1, compared.z.shape[-1])
    loss, norm = _mean(method, compared.losses), optax.tree.norm(gradients)
    outputs = Outputs(loss, compared.similarities, spread(z), norm)
    state = SiameseState(
        step=state.step + 1,
        params_q=params_q,
        stats_q=stats[0],
        params_p=params_p,
        stats_p=stats[1],
        params_k=params_k,
        stats_k=stats_k,
        opt_state=opt_state,
    )
    return state, outputs


class _Compared(NamedTuple):
    z: jax.Array
    similarities: tuple[Similarities, ...]
    losses: tuple[jax.Array, ...]


# Of each image: both views, (z, t) if there is a target, its place in the batch.
_Rows = tuple[jax.Array, tuple[jax.Array, jax.Array] | None, jax.Array]


def _mean(method: Siamese, losses: tuple[jax.Array, ...]) -> jax.Array:
    """Returns the loss of the step from the losses [N] of both directions."""
    return method.scale * (losses[0].mean() + losses[1].mean())


def _embed(
    method: Siamese, encoder: Encoder, params: Tree, stats: Tree, images: jax.Array
) -> tuple[jax.Array, Tree]:
    """Embeds images [N, 2, P, S, S, 3], P per view, to [N, 2, P, dim]; returns the statistics."""
    n, views, passes = images.shape[:3]
    lead = (n * views, passes) if method.joint else (n, views * passes)
    flat = images.reshape(*lead, *images.shape[3:])
    embedded, stats = encoder.embed_passes(params, stats, flat, method.groups, method.merge_passes)
    return embedded.reshape(n, views, passes, -1), stats


def _predict(
    method: Siamese, params: Tree, stats: Tree, embedded: jax.Array
) -> tuple[jax.Array, Tree]:
    """Maps embeddings [N, 2, dim] to predictions of length 1; returns the statistics."""
    if method.predictor is None:
        return l2_normalize(embedded), stats
    n, views, dim = embedded.shape
    network = method.parts.encoder(method.predictor.network)
    p, stats = network(params, stats, embedded.reshape(n * views, dim), method.groups, views)
    return l2_normalize(p.reshape(n, views, dim)), stats


def _own_negatives(
    method: Siamese, params: Tree, stats: Tree, negatives: jax.Array, p: jax.Array
) -> jax.Array:
    """Embeds negatives [N, 2, M, S, S, 3] by the encoder to unit vectors [N, 2, M, dim], as p.

    Running statistics are left alone: they are for images, which evaluation shows.
    """
    if negatives.shape[2] == 0:
        return jnp.zeros((*p.shape[:2], 0, p.shape[2]), p.dtype)
    if not method.negative_gradient:
        params = jax.lax.stop_gradient(params)
    return l2_normalize(_embed(method, method.encoder, params, stats, negatives)[0])


def metrics_of(method: Siamese, outputs: Outputs) -> Metrics:
    """Returns the results of a step as scalars, means over both directions."""

    def mean(values: Callable[[Similarities], jax.Array]) -> jax.Array:
        return sum((values(s) for s in outputs.similarities), jnp.zeros(())) / 2

    metrics = {
        "loss": outputs.loss,
        "positive_similarity": mean(lambda s: s.positive.mean()),
        "embedding_std": outputs.embedding_std,
        "gradient_norm": outputs.gradient_norm,
    }
    if method.views.num_negatives:
        metrics["nonsemantic_similarity"] = mean(lambda s: s.nonsemantic.mean())
    if method.candidates != "none":
        metrics["negative_similarity"] = mean(mean_of_candidates)
        metrics["accuracy_top1"] = mean(lambda s: 100.0 * (method.loss.ranks(s) < 1).mean())
        metrics["accuracy_top5"] = mean(lambda s: 100.0 * (method.loss.ranks(s) < 5).mean())
    return metrics
