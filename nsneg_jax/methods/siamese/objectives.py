"""The losses of the methods with two views, as functions of cosine similarities.

For a query p, the view z of the same image that it is to find, other candidates n and the M
non-semantic negatives t made from the query's own view:

* BYOL (Grill et al. 2020; with negatives Ge et al. 2021): `CosineLoss`, no candidates;
* MoCo-v3 (Chen et al. 2021): `InfoNCE` among the other view's embeddings of the whole batch;
* SimCLR (Chen et al. 2020): `InfoNCE` among the embeddings of both views of the whole batch, which
  is NT-Xent.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from nsneg_jax.methods import shuffling
from nsneg_jax.methods.contrast import Similarities, similarities

Candidates = Literal["none", "other view", "both views"]


@dataclass(frozen=True)
class CosineLoss:
    """BYOL's loss with non-semantic negatives: -2 cos(p, z) + 2 sum_m alpha_m cos(p, t_m).

    It is the squared distance of unit vectors without its constant 2. The sum of the alphas should
    be below 1: at the start t is close to z, and a larger sum would push p away from both.

    Attributes:
        alphas: weight of the similarity per non-semantic negative, M of them.
    """

    alphas: tuple[float, ...] = ()

    def __call__(self, s: Similarities) -> jax.Array:
        """Returns the loss per query, float [N]."""
        weighted = jnp.array(self.alphas, s.nonsemantic.dtype) * s.nonsemantic
        return 2 * weighted.sum(axis=1) - 2 * s.positive

    def ranks(self, s: Similarities) -> jax.Array:
        """Counts the non-semantic negatives that are more similar than z, int [N]."""
        return (s.nonsemantic > s.positive[:, None]).sum(axis=1)


def direction(
    p: jax.Array,
    z: jax.Array,
    t: jax.Array,
    query: int,
    candidates: Candidates,
    batch: tuple[jax.Array, jax.Array] | None = None,
) -> Similarities:
    """Computes the similarities of the queries of one view to the embeddings of the other.

    Args:
        p: unit vectors of the queries [N, 2, dim], by view.
        z: unit vectors that are to be found [N, 2, dim].
        t: unit vectors of the negatives made from each view [N, 2, M, dim].
        query: 0 if the first view asks, 1 if the second does.
        candidates: what `queue` of the result is to hold: nothing, the other view's z of the
            batch, or those of both views.
        batch: if the arguments above are a part of the batch: z of all its images [B, 2, dim], and
            the places of the N queries among them, int [N].

    Returns:
        The similarities; in `queue`, [N, 0], [N, B] or [N, 2B], a query's own image has -inf.
    """
    other = 1 - query
    views = {"none": (), "other view": (other,), "both views": (other, query)}[candidates]
    of_batch, places = (z, jnp.arange(len(z))) if batch is None else batch
    keys = [of_batch[:, view] for view in views]
    # All devices need the embeddings of the whole batch.
    whole = shuffling.replicate(jnp.concatenate([of_batch[:0, 0], *keys]))
    s = similarities(p[:, query], z[:, other], whole, t[:, query])
    own = places[:, None] == jnp.arange(len(whole)) % len(of_batch)
    return s._replace(queue=jnp.where(own, -jnp.inf, s.queue))


def mean_of_candidates(s: Similarities) -> jax.Array:
    """Returns the mean similarity to the candidates of `direction`, without -inf, float []."""
    is_other = jnp.isfinite(s.queue)
    return jnp.where(is_other, s.queue, 0).sum() / is_other.sum()
