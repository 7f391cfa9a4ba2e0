"""MoCo-v2 with both views as queries, each with negatives of its own.

Both directions share the momentum update and the old queue; the loss is the mean of both, and the
keys of both views are enqueued, those of the first view first. It is the symmetric form of MoCo's
demo on CIFAR-10, which adds the losses instead of taking their mean.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from nsneg_jax.methods import shuffling
from nsneg_jax.methods.accumulation import UNDIVIDED, gradient
from nsneg_jax.methods.batches import Views
from nsneg_jax.methods.contrast import Similarities, l2_normalize, similarities
from nsneg_jax.methods.method import Metrics
from nsneg_jax.methods.moco import (
    Found,
    MoCo,
    Outputs,
    TrainState,
    descend,
    encode_keys,
    metrics_of,
    momentum_update,
)
from nsneg_jax.methods.shuffling import Batch
from nsneg_jax.models.encoder import Tree

Direction = tuple[Views, jax.Array | None]  # views and, shuffled, the orders of keys and negatives
_Rows = list[tuple[jax.Array, jax.Array, jax.Array]]  # by direction: query, k, t


@dataclass(frozen=True)
class SymmetricMoCo(MoCo):
    """MoCo whose views are both queries; the crops of a batch come in the images' order."""

    @property
    def key_passes(self) -> int:
        """Forward passes per step, not counting the first view's through the query encoder."""
        return 1 + 2 * super().key_passes

    def step(
        self, state: TrainState, batch: Batch, arranged: bool = False
    ) -> tuple[TrainState, Metrics]:
        """Takes one step; see `moco.train_step`.

        Raises:
            ValueError: the crops are arranged for the passes of one direction.
        """
        if arranged:
            raise ValueError("crops of both directions cannot be arranged")
        learning_rate = self.learning_rate(state.step)
        state, outputs = update(self, state, self._directions(state.step, batch))
        return state, metrics_of(outputs) | {"learning_rate": learning_rate}

    def similarities(self, state: TrainState, batch: Batch) -> Similarities:
        """Returns the similarities behind the loss of the step that `batch` would be next, [2N]."""
        whole = replace(self, parts=UNDIVIDED)
        return update(whole, state, self._directions(state.step, batch))[1].similarities

    def _directions(self, step: jax.Array, batch: Batch) -> tuple[Direction, Direction]:
        orders: tuple[jax.Array | None, jax.Array | None] = (None, None)
        batches = (batch, batch | {"query": batch["key"], "key": batch["query"]})
        if self.shuffles:
            drawn = self.views.draw_orders(step, len(batch["query"]), times=2)
            orders = (drawn[: len(drawn) // 2], drawn[len(drawn) // 2 :])
            first, second = (
                shuffling.arrange(each, order, self.views.reads_texture)
                for each, order in zip(batches, (orders[0], orders[1]), strict=True)
                if order is not None
            )
            batches = (first, second)
        views = [
            self.views(step, each, order, swapped)
            for each, order, swapped in zip(batches, orders, (False, True), strict=True)
        ]
        return (views[0], orders[0]), (views[1], orders[1])


def update(
    moco: MoCo, state: TrainState, directions: tuple[Direction, Direction]
) -> tuple[TrainState, Outputs]:
    """Takes one step on given views.

    Args:
        moco: the method.
        state: state before the step.
        directions: views with the first view as 'query' and with the second; keys and negatives are
            in the orders, see `moco.update`.

    Returns:
        The state after the step, and its results, [2N]: first views, then second ones.
    """
    params_k = momentum_update(state.params_k, state.params_q, moco.momentum)
    stats_k, encoded = state.stats_k, []
    for views, orders in directions:
        k, t, stats_k = encode_keys(moco, params_k, stats_k, views, orders)
        encoded.append((k, t))
    encoder = moco.parts.encoder(moco.encoder)

    def loss_fn(params_q: Tree, stats_q: Tree, rows: _Rows) -> tuple[jax.Array, tuple[Tree, Found]]:
        of_views = []
        for query, k, t in rows:
            q, stats_q = encoder(params_q, stats_q, query, moco.groups)
            of_views.append(similarities(l2_normalize(q), k, state.queue, t))
        s: Similarities = jax.tree.map(lambda *both: jnp.concatenate(both), *of_views)
        loss = moco.loss(s)
        return loss.mean(), (stats_q, (loss, s))

    rows = [(views.query, k, t) for (views, _), (k, t) in zip(directions, encoded, strict=True)]
    gradients, (stats_q, found) = gradient(
        loss_fn, state.params_q, state.stats_q, rows, moco.parts, queries=2
    )
    # The second direction's keys are of the first views.
    keys = [k for k, _ in reversed(encoded)]
    after = replace(state, stats_q=stats_q, params_k=params_k, stats_k=stats_k)
    return descend(moco, after, gradients, found, keys)
