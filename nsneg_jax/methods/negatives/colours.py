"""Negatives that keep nothing but the colours of an image."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from nsneg_jax.methods.negatives.maker import Reads


@dataclass(frozen=True)
class ColourHistogram:
    """The pixels of the view in random order: its colour histogram, and nothing of their places.

    Each image has an order of its own, as the "random pixels" of Zhang et al. 2017, "Understanding
    deep learning requires rethinking generalization".
    """

    name: str = "colour_histogram"
    reads: Reads = "query"

    def __call__(self, images: jax.Array, keys: jax.Array) -> jax.Array:
        """Permutes the pixels of each image [N, S, S, C]; see `Negative`."""
        n, height, width, channels = images.shape
        bits = jax.vmap(lambda key: jax.random.bits(key, (height * width,), jnp.uint32))(keys)
        planes = images.reshape(n, height * width, channels)
        # One sort carries the colours along: gathers are slow on TPUs. Equal numbers, about one
        # pair in three images of 224, keep the order of their pixels.
        _, *sorted_planes = jax.lax.sort((bits, *jnp.moveaxis(planes, 2, 0)), num_keys=1)
        return jnp.stack(sorted_planes, axis=-1).reshape(images.shape)
