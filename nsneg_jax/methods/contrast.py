"""Cosine similarities of embeddings, and the contrastive loss with non-semantic negatives."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from nsneg_jax.registry import Registry


class Similarities(NamedTuple):
    """Cosine similarities of N queries, float in [-1, 1].

    Attributes:
        positive: [N], with the key of the same image.
        queue: [N, K], with the keys of earlier images.
        nonsemantic: [N, M], with the image's own non-semantic negatives.
    """

    positive: jax.Array
    queue: jax.Array
    nonsemantic: jax.Array


class ContrastiveLoss(Protocol):
    """A loss that MoCo minimises, a function of the similarities; hashable, so static under jit."""

    def __call__(self, similarities: Similarities, /) -> jax.Array:
        """Returns the loss per query, float [N]."""
        ...

    def ranks(self, similarities: Similarities, /) -> jax.Array:
        """Counts the K + M negatives that score higher than the key, int [N]."""
        ...


@dataclass(frozen=True)
class InfoNCE:
    """The loss of Ge et al. 2021: InfoNCE with non-semantic negatives.

    Attributes:
        temperature: T, greater than 0.
        alphas: weight of the similarity per non-semantic negative, M of them.
    """

    temperature: float
    alphas: tuple[float, ...] = ()

    def __call__(self, s: Similarities) -> jax.Array:
        """-log exp(q.k/T) / (exp(q.k/T) + sum_i exp(q.n_i/T) + sum_m exp(alpha_m q.t_m/T)), [N]."""
        positive, queue, nonsemantic = self._logits(s)
        # The queue first: devices that share it then exchange only its N sums.
        of_queue = jax.nn.logsumexp(queue, axis=1, keepdims=True)
        terms = jnp.concatenate([positive[:, None], of_queue, nonsemantic], axis=1)
        return jax.nn.logsumexp(terms, axis=1) - positive

    def ranks(self, s: Similarities) -> jax.Array:
        """Counts the K + M negatives with a larger logit than the key, int [N]."""
        positive, queue, nonsemantic = self._logits(s)
        key = positive[:, None]
        return (queue > key).sum(axis=1) + (nonsemantic > key).sum(axis=1)

    def _logits(self, s: Similarities) -> Similarities:
        weighted = jnp.array(self.alphas, s.nonsemantic.dtype) * s.nonsemantic
        return Similarities(*(x / self.temperature for x in (s.positive, s.queue, weighted)))


@dataclass(frozen=True)
class IFM(InfoNCE):
    """Implicit feature modification (Robinson et al. 2021, arXiv 2106.11230) of InfoNCE.

    The mean of two InfoNCE losses: of the similarities as they are, and of the hardest ones that
    embeddings moved by `epsilon` could have, which are the key's less epsilon and every negative's
    plus epsilon. As in the authors' code for MoCo (github.com/joshr17/IFM), epsilon enters before
    the division by the temperature, and the second loss has the weight alpha = 1 of
    (L + alpha L_epsilon) / (1 + alpha).

    IFM knows no non-semantic negatives. Their embeddings move like the others', and then alpha_m
    multiplies: alpha_m (q.t_m + epsilon).

    Attributes:
        epsilon: how far similarities move, greater than 0; the authors have 0.05 to 0.2.
    """

    epsilon: float = 0.1

    def __call__(self, s: Similarities) -> jax.Array:
        """(L(s) + L(s.positive - e, s.queue + e, s.nonsemantic + e)) / 2 per query, [N]."""
        e = self.epsilon
        harder = Similarities(s.positive - e, s.queue + e, s.nonsemantic + e)
        return (super().__call__(s) + super().__call__(harder)) / 2


# Builds a loss from (temperature, alphas) and epsilon by name.
LossBuilder = Callable[..., ContrastiveLoss]


def _infonce(temperature: float, alphas: tuple[float, ...], *, epsilon: float) -> ContrastiveLoss:
    return InfoNCE(temperature, alphas)


LOSSES: Registry[LossBuilder] = Registry("loss", {"infonce": _infonce, "ifm": IFM})


def register(name: str, builder: LossBuilder) -> None:
    """Registers a loss under a name, which configs give as `loss.name`.

    Args:
        name: none of the package's own.
        builder: called with temperature and alphas, one per non-semantic negative, and with epsilon
            (`loss.epsilon`) by name; returns a `ContrastiveLoss`.

    Raises:
        ValueError: the package has one of this name.
    """
    LOSSES.add(name, builder)


def histogram(values: jax.Array, bins: int) -> jax.Array:
    """Counts cosine similarities in bins of equal width over [-1, 1].

    A bin includes its lower edge; the last one also its upper edge. Rounding may carry values
    slightly beyond [-1, 1]; they count in the outermost bins.

    Args:
        values: float, of any shape, with fewer than 2^31 values.
        bins: number of bins.

    Returns:
        int32 [bins].
    """
    inner = jnp.linspace(-1, 1, bins + 1, dtype=values.dtype)[1:-1]
    # One comparison pass per edge: accelerators are slow at adding to bins one value at a time.
    below = jax.lax.map(lambda edge: (values < edge).sum(dtype=jnp.int32), inner)
    ends = jnp.zeros(1, jnp.int32), jnp.full(1, values.size, jnp.int32)
    return jnp.diff(jnp.concatenate([ends[0], below, ends[1]]))


def l2_normalize(x: jax.Array) -> jax.Array:
    """Scales rows [..., dim] to unit length, in float32 or wider."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(axis=-1, keepdims=True), 1e-24))


def spread(embeddings: jax.Array) -> jax.Array:
    """Measures how widely unit vectors are spread over the sphere, float [].

    It is the standard deviation per dimension, averaged over the dimensions, times sqrt(dim): near
    1 for directions drawn evenly, 0 for equal vectors (Chen & He 2021, section 4.1, without the
    factor).

    Args:
        embeddings: unit vectors [N, dim].
    """
    return embeddings.std(axis=0).mean() * embeddings.shape[-1] ** 0.5


def similarities(q: jax.Array, k: jax.Array, queue: jax.Array, t: jax.Array) -> Similarities:
    """Computes cosine similarities of unit vectors, in full float32 on every device.

    Args:
        q: queries [N, dim].
        k: keys of the same images [N, dim].
        queue: keys of earlier images [K, dim].
        t: non-semantic negatives [N, M, dim].
    """
    exact = jax.lax.Precision.HIGHEST
    return Similarities(
        jnp.einsum("nd,nd->n", q, k, precision=exact),
        jnp.einsum("nd,kd->nk", q, queue, precision=exact),
        jnp.einsum("nd,nmd->nm", q, t, precision=exact),
    )
