"""Turns the uint8 crops of a batch into views and non-semantic negatives, on the device.

The draws of a sample depend only on (seed, step, its place in the global batch), never on the
number of devices or on the order of samples in a pass.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from nsneg_jax.methods import shuffling
from nsneg_jax.methods.negatives import Mode, draw_patches, oriented, patch_negatives
from nsneg_jax.methods.shuffling import Batch
from nsneg_jax.methods.views import ViewRecipe, augment

# Random streams of a step; negative m uses NEGATIVE + m, that of the key view KEY_NEGATIVE + m.
SHUFFLE, QUERY_VIEW, KEY_VIEW, NEGATIVE = range(4)
KEY_NEGATIVE = 2**16


class Views(NamedTuple):
    """Normalised images of one batch: query and key [N, S, S, 3], negatives [N, M, S, S, 3].

    `key_negatives`, with the shape of `negatives`, are made of the key views, for methods whose key
    views are queries too; None for others.
    """

    query: jax.Array
    key: jax.Array
    negatives: jax.Array
    key_negatives: jax.Array | None = None


@dataclass(frozen=True)
class ViewMaker:
    """Makes views and non-semantic negatives; hashable, so it can be static under jit.

    Attributes:
        recipe: augmentation of both views.
        patches: number of patch negatives per image.
        texture: whether the batch's texture is one more negative, the last.
        patch_range: smallest and largest side of a patch, in pixels of the view.
        dtype: dtype of the views and negatives.
        seed: seed of every draw.
        patch_mode: where patches come from, one of `negatives.MODES`.
        of_both: whether negatives are made of the key view too.
    """

    recipe: ViewRecipe
    patches: int
    texture: bool
    patch_range: tuple[int, int]
    dtype: str
    seed: int
    patch_mode: Mode = "crops"
    of_both: bool = False

    @property
    def num_negatives(self) -> int:
        """M, the number of negatives per image."""
        return self.patches + self.texture

    def draw_orders(self, step: jax.Array, n: int) -> jax.Array:
        """Draws the orders of shuffling BN for keys and each negative, int32 [1 + M, n]."""
        return shuffling.draw_orders(self._key(step, SHUFFLE), 1 + self.num_negatives, n)

    def __call__(self, step: jax.Array, batch: Batch, orders: jax.Array | None = None) -> Views:
        """Makes the views and negatives of a batch.

        Args:
            step: steps done before this one.
            batch: uint8 crops [N, S, S, 3]: 'query', 'key', and 'texture' where it is used. A
                texture gets the same draws as its query.
            orders: int [1 + M, N], the orders of the key crops and of the sources of the negatives
                in `batch`, as `shuffling.arrange` leaves them; None for the queries' order.
        """
        query = self._view(batch["query"], step, QUERY_VIEW, None)
        order_of_key, *orders_of_negatives = (
            [None] * (1 + self.num_negatives) if (orders is None) else orders
        )
        key = self._view(batch["key"], step, KEY_VIEW, order_of_key)
        none = jnp.zeros((len(query), 0, *query.shape[1:]), query.dtype)
        made = [
            self._negative(m, order, step, batch, query)
            for m, order in enumerate(orders_of_negatives)
        ]
        views = Views(query, key, jnp.concatenate([none, *made], axis=1))
        if not self.of_both:
            return views
        of_key = [self._negative_of_key(m, step, batch, key) for m in range(self.num_negatives)]
        return views._replace(key_negatives=jnp.concatenate([none, *of_key], axis=1))

    def _negative_of_key(
        self, m: int, step: jax.Array, batch: Batch, key_view: jax.Array
    ) -> jax.Array:
        """Makes negative m of every key view, [N, 1, S, S, 3].

        A texture is the query's crop of it, with the draws of the key view.
        """
        if m == self.patches:
            return self._view(batch["texture"], step, KEY_VIEW, None)[:, None]
        return self._patches(key_view, self._keys(step, KEY_NEGATIVE + m, None, len(key_view)))

    def _patches(self, source: jax.Array, keys: jax.Array) -> jax.Array:
        """Makes one patch negative per view of `source`, [N, 1, S, S, 3]."""
        draws = draw_patches(keys, 1, source.shape[1], *self.patch_range, self.patch_mode)
        return patch_negatives(oriented(source, self.patch_mode), draws)

    def _negative(
        self, m: int, order: jax.Array | None, step: jax.Array, batch: Batch, query: jax.Array
    ) -> jax.Array:
        """Makes negative m of every image, in `order`, [N, 1, S, S, 3]."""
        is_texture = m == self.patches
        if "negatives" in batch:
            seen = self._view(batch["negatives"][:, m], step, QUERY_VIEW, order)
        elif is_texture:
            seen = self._view(batch["texture"], step, QUERY_VIEW, order)
        else:
            seen = query if order is None else query[order]
        if is_texture:
            return seen[:, None]
        return self._patches(seen, self._keys(step, NEGATIVE + m, order, len(query)))

    def _view(
        self, crops: jax.Array, step: jax.Array, purpose: int, order: jax.Array | None
    ) -> jax.Array:
        keys = self._keys(step, purpose, order, len(crops))
        return augment(crops, keys, self.recipe, jnp.dtype(self.dtype))

    def _keys(self, step: jax.Array, purpose: int, order: jax.Array | None, n: int) -> jax.Array:
        places = jnp.arange(n) if order is None else order
        return shuffling.sample_keys(self._key(step, purpose), shuffling.split(places))

    def _key(self, step: jax.Array, purpose: int) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(self.seed), step), purpose)
