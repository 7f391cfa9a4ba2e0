"""MoCHi: hard negatives mixed from keys of the queue (Kalantidis et al. 2020, arXiv 2010.01028).

For each query q, the N keys of the queue that are most similar to it are mixed in random pairs,
and with the query itself:

    h  = unit(alpha n_i + (1 - alpha) n_j)    alpha uniform in (0, 1),   s of them
    h' = unit(beta q + (1 - beta) n_i)        beta uniform in (0, 1/2),  s' of them

Their similarities to q join those of the queue in the loss. Mixed embeddings are constants: no
gradient flows through them, so that of h' knows q only as one side of the product. The two keys of
a pair are different.

Cost per step, for N images of the batch and embeddings of length D: the N (s + s') D numbers of the
mixed embeddings, N (2 s + s') gathered keys, and a search for the hardest keys in N x K
similarities. A queue that is split over devices is gathered first.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from nsneg_jax.methods import shuffling
from nsneg_jax.methods.contrast import l2_normalize


class MixDraws(NamedTuple):
    """All random decisions about the mixed negatives of n queries.

    Attributes:
        first, second: int32 [n, s], two different places among the N hardest keys.
        alpha: float32 [n, s] in [0, 1), weight of the first.
        single: int32 [n, s'], place of the key that is mixed with the query.
        beta: float32 [n, s'] in [0, 1/2), weight of the query.
    """

    first: jax.Array
    second: jax.Array
    alpha: jax.Array
    single: jax.Array
    beta: jax.Array


@dataclass(frozen=True)
class MoCHi:
    """The settings; hashable, so they can be static under jit.

    Attributes:
        hardest: N, at least 2 and at most the size of the queue.
        pairs: s, negatives per query mixed from two keys.
        with_query: s', negatives per query mixed from a key and the query.
        warmup_steps: steps before the first mixed negatives.
    """

    hardest: int
    pairs: int
    with_query: int
    warmup_steps: int

    def draw(self, keys: jax.Array) -> MixDraws:
        """Draws the decisions for typed keys [n], one per query.

        Numbers are always drawn in float32, so the draws do not depend on `jax_enable_x64`.
        """
        s, with_query, hardest = self.pairs, self.with_query, self.hardest

        def one(key: jax.Array) -> MixDraws:
            # Remainders of 32-bit numbers favour small values by less than N / 2^32.
            places, weights = jax.random.split(key)
            bits = jax.random.bits(places, (2 * s + with_query,), jnp.uint32)
            first = bits[:s] % jnp.uint32(hardest)
            further = 1 + bits[s : 2 * s] % jnp.uint32(hardest - 1)
            chance = jax.random.uniform(weights, (s + with_query,), jnp.float32)
            return MixDraws(
                first.astype(jnp.int32),
                ((first + further) % jnp.uint32(hardest)).astype(jnp.int32),
                chance[:s],
                (bits[2 * s :] % jnp.uint32(hardest)).astype(jnp.int32),
                chance[s:] / 2,
            )

        return jax.vmap(one)(keys)

    def similarities(
        self, step: jax.Array, q: jax.Array, queue: jax.Array, of_queue: jax.Array, draws: MixDraws
    ) -> jax.Array:
        """Returns the similarities of queries to their mixed negatives.

        Args:
            step: steps done before this one.
            q: queries, unit vectors [n, dim]; the gradient flows to them.
            queue: keys of earlier images, unit vectors [K, dim].
            of_queue: similarities of the queries to these, [n, K].
            draws: see `draw`.

        Returns:
            [n, s + s'], -inf in the steps of the warm-up, which adds nothing to a sum of
            exponentials.
        """
        fixed, queue = jax.lax.stop_gradient(q), shuffling.replicate(queue)
        _, hardest = jax.lax.top_k(jax.lax.stop_gradient(of_queue), self.hardest)

        def key_at(places: jax.Array) -> jax.Array:
            return queue[jnp.take_along_axis(hardest, places, axis=1)]

        alpha, beta = (x[..., None].astype(q.dtype) for x in (draws.alpha, draws.beta))
        pairs = alpha * key_at(draws.first) + (1 - alpha) * key_at(draws.second)
        with_query = beta * fixed[:, None] + (1 - beta) * key_at(draws.single)
        mixed = l2_normalize(jnp.concatenate([pairs, with_query], axis=1))
        found = jnp.einsum(
            "nd,nsd->ns", q, jax.lax.stop_gradient(mixed), precision=jax.lax.Precision.HIGHEST
        )
        return jnp.where(step < self.warmup_steps, -jnp.inf, found)
