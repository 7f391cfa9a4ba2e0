"""Patch negatives and the loss in your own training loop: Flax Linen, Optax, 200 steps.

    python -m examples.own_loop [STEPS]

This file has its own network, optimiser, momentum encoder and queue; nsneg_jax provides the
augmentation, the negatives, the loss and the pictures, its built-in shapes.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from nsneg_jax import augment, contrastive_loss, patch_negatives
from nsneg_jax.input.crops import resized_crop, sample_crop
from nsneg_jax.input.shapes.source import Shapes

SIDE, BATCH, DIM, QUEUE, MOMENTUM = 32, 64, 32, 512, 0.99


class Network(nn.Module):
    """Maps images [N, S, S, 3] to embeddings [N, DIM]."""

    @nn.compact
    def __call__(self, x):
        for width in (16, 32, 64):
            x = nn.relu(nn.GroupNorm(4)(nn.Conv(width, (3, 3), strides=2)(x)))
        return nn.Dense(DIM)(x.mean(axis=(1, 2)))


network, optimizer = Network(), optax.adam(1e-3)


@jax.jit
def step(state, crops, key):
    """Takes one step; `crops` are two random crops per picture, uint8 [2, N, S, S, 3]."""
    params, params_k, opt_state, queue = state
    for_query, for_key, for_patches = jax.random.split(key, 3)
    query, key_view = augment(crops[0], for_query), augment(crops[1], for_key)
    negatives = patch_negatives(query, for_patches)  # [N, 1, S, S, 3]
    params_k = optax.incremental_update(params, params_k, 1 - MOMENTUM)
    k = network.apply(params_k, key_view)
    t = network.apply(params_k, negatives[:, 0])[:, None]

    def loss_of(params):
        return contrastive_loss(network.apply(params, query), k, queue, t, alpha=2.0)

    loss, gradients = jax.value_and_grad(loss_of)(params)
    updates, opt_state = optimizer.update(gradients, opt_state, params)
    queue = jnp.concatenate([k, queue])[:QUEUE]
    return (optax.apply_updates(params, updates), params_k, opt_state, queue), loss


def random_crops(pictures, rng):
    """Cuts at least half the area of each picture, resized to SIDE: uint8 [N, SIDE, SIDE, 3]."""
    boxes = [sample_crop(rng, *picture.shape[:2], (0.5, 1.0)) for picture in pictures]
    crops = [resized_crop(*each, SIDE) for each in zip(pictures, boxes, strict=True)]
    return np.stack(crops)


def main(steps: int) -> None:
    shapes, rng = Shapes("train", image_size=SIDE, size=2000), np.random.default_rng(0)
    params = network.init(jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)))
    queue = jax.random.normal(jax.random.key(1), (QUEUE, DIM))
    state = params, params, optimizer.init(params), queue
    for number in range(steps):
        chosen = rng.choice(len(shapes), BATCH, replace=False)
        pictures = [shapes.image(index) for index in chosen]
        crops = np.stack([random_crops(pictures, rng) for _ in range(2)])
        state, loss = step(state, crops, jax.random.fold_in(jax.random.key(2), number))
        if number % 20 == 0 or number == steps - 1:
            print(f"step {number}  loss {loss:.3f}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
