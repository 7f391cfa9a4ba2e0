"""What a user adds from outside: method, network, loss, negative and optimiser, made small."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx, struct

from nsneg_jax import models
from nsneg_jax.jobs import build
from nsneg_jax.methods import contrast, negatives, optimizer
from nsneg_jax.methods.batches import ViewMaker
from nsneg_jax.methods.contrast import InfoNCE, Similarities, l2_normalize
from nsneg_jax.models.encoder import Encoder


class TinyViT(nnx.Module):
    """Linear patches of 4 px, one block of attention, a linear head; no batch norm."""

    def __init__(self, *, dim, width, dtype, param_dtype, seed, heads=2):
        rngs = nnx.Rngs(0 if seed is None else seed)
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.num_features = width
        self.patches = nnx.Conv(3, width, (4, 4), (4, 4), **options)
        self.norm = nnx.LayerNorm(width, **options)
        self.attention = nnx.MultiHeadAttention(heads, width, decode=False, **options)
        if dim:
            self.fc = nnx.Linear(width, dim, **options)

    def features(self, images):
        x = self.patches(images).reshape(len(images), -1, self.num_features)
        return (x + self.attention(self.norm(x))).mean(axis=1)

    def __call__(self, images):
        return self.fc(self.features(images))


@dataclass(frozen=True)
class DCL(InfoNCE):
    """The decoupled contrastive loss (Yeh et al. 2022): no positive pair in the denominator."""

    def __call__(self, s: Similarities) -> jax.Array:
        own = jnp.array(self.alphas, s.nonsemantic.dtype) * s.nonsemantic
        negatives = jnp.concatenate([s.queue, own], axis=1) / self.temperature
        return jax.nn.logsumexp(negatives, axis=1) - s.positive / self.temperature


def build_dcl(temperature, alphas, *, epsilon):
    return DCL(temperature, alphas)


@dataclass(frozen=True)
class MeanColour:
    """The mean colour of the view and nothing else."""

    name: str = "mean_colour"
    reads: str = "query"

    def __call__(self, images, keys):
        return jnp.broadcast_to(images.mean(axis=(1, 2), keepdims=True), images.shape)


@struct.dataclass
class ByolState:
    step: jax.Array
    params_q: Any
    stats_q: Any
    params_k: Any
    predictor: jax.Array
    opt_state: Any


@dataclass(frozen=True)
class Byol:
    """BYOL (Grill et al. 2020) with a linear predictor, pushed away from the negatives."""

    encoder: Encoder
    dim: int
    optimizer: optax.GradientTransformation
    views: ViewMaker
    momentum: float
    weight: float

    state_type = ByolState
    shuffles = False
    queue_fields = ()

    @property
    def key_passes(self):
        return 1 + self.views.num_negatives

    def choices(self, batch_size):
        return 0

    def init(self, params, stats):
        trained = {"encoder": params, "predictor": jnp.eye(self.dim)}
        return ByolState(
            step=jnp.zeros((), jnp.int32),
            params_q=params,
            stats_q=stats,
            params_k=jax.tree.map(jnp.copy, params),
            predictor=trained["predictor"],
            opt_state=self.optimizer.init(trained),
        )

    def step(self, state, batch, arranged=False):
        views = self.views(state.step, batch)
        target = jax.tree.map(
            lambda k, q: self.momentum * k + (1 - self.momentum) * q, state.params_k, state.params_q
        )

        def embed(params, images):
            return self.encoder(params, state.stats_q, images, 1)

        k = l2_normalize(embed(target, views.key)[0])
        t = l2_normalize(embed(target, views.negatives[:, 0])[0])

        def loss_fn(trained):
            embedding, stats = embed(trained["encoder"], views.query)
            q = l2_normalize(embedding @ trained["predictor"])
            return (2 - 2 * (q * k).sum(1) + self.weight * (q * t).sum(1)).mean(), stats

        trained = {"encoder": state.params_q, "predictor": state.predictor}
        (loss, stats), gradients = jax.value_and_grad(loss_fn, has_aux=True)(trained)
        updates, opt_state = self.optimizer.update(gradients, state.opt_state, trained)
        trained = optax.apply_updates(trained, updates)
        state = ByolState(
            state.step + 1, trained["encoder"], stats, target, trained["predictor"], opt_state
        )
        return state, {"loss": loss, "accuracy_top1": jnp.zeros(())}


def build_byol(config, encoder, views, schedule):
    return Byol(
        encoder=encoder,
        dim=config.model.dim,
        optimizer=build.build_optimizer(config, schedule),
        views=views,
        momentum=config.moco.momentum,
        weight=config.negatives.alpha,
    )


def lion(schedule, *, momentum, weight_decay):
    return optax.lion(schedule, b1=momentum, weight_decay=weight_decay)


models.register("tiny_vit", TinyViT)
build.register("my_byol", build_byol)
contrast.register("dcl", build_dcl)
negatives.register("mean_colour", lambda settings: MeanColour())
optimizer.register("lion", lion)


def moved(before, after) -> float:
    """Largest change of any parameter."""
    changes = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - np.asarray(b)).max(), before, after)
    return max(jax.tree.leaves(changes))
