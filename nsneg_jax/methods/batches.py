"""Turns the uint8 crops of a batch into views and non-semantic negatives, on the device.

The draws of a sample depend only on (seed, step, its place in the global batch), never on the
number of devices or on the order of samples in a pass.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from nsneg_jax.errors import UsageError
from nsneg_jax.methods import shuffling
from nsneg_jax.methods.negatives import Mode, Negative, Patches, Texture, numbered
from nsneg_jax.methods.shuffling import Batch
from nsneg_jax.methods.views import ViewRecipe, augment

# Random streams of a step; negative m uses NEGATIVE + m, that of the key view KEY_NEGATIVE + m.
SHUFFLE, QUERY_VIEW, KEY_VIEW, NEGATIVE = range(4)
KEY_NEGATIVE, MIXING = 2**16, 2**17  # far more than there are negatives; MoCHi's
# Streams of query view, key view and negatives, if the first view asks and if the second does.
_Streams = tuple[int, int, int]
_FIRST: _Streams = (QUERY_VIEW, KEY_VIEW, NEGATIVE)
_SECOND: _Streams = (KEY_VIEW, QUERY_VIEW, KEY_NEGATIVE)


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

    The negatives of an image are its patches, then those of `more`, then its texture.

    Attributes:
        recipe: augmentation of both views.
        patches: number of patch negatives per image.
        texture: whether the batch's texture is one more negative, the last.
        patch_range: smallest and largest side of a patch, in pixels of the view.
        dtype: dtype of the views and negatives.
        seed: seed of every draw.
        patch_mode: where patches come from, one of `negatives.MODES`.
        patch_align: see `negatives.draw_patches`.
        more: further negatives, one per image each. One that reads the texture is the last, in
            place of `texture`.
        of_both: whether negatives are made of the key view too.

    Raises:
        UsageError: two negatives read the texture, or one that is not the last.
    """

    recipe: ViewRecipe
    patches: int
    texture: bool
    patch_range: tuple[int, int]
    dtype: str
    seed: int
    patch_mode: Mode = "crops"
    patch_align: int = 0
    more: tuple[Negative, ...] = ()
    of_both: bool = False

    def __post_init__(self) -> None:
        if any(negative.reads == "texture" for negative in self.negatives[:-1]):
            raise UsageError(
                f"The negatives are {', '.join(self.names)}, but must have at most one that reads "
                "the texture, as the last: a batch has one texture per image."
            )

    @property
    def negatives(self) -> tuple[Negative, ...]:
        """The M negatives of an image, in the order of their images in a batch."""
        patches = (Patches(self.patch_range, self.patch_mode, self.patch_align),) * self.patches
        return patches + self.more + (Texture(),) * self.texture

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the negatives, each once, such as 'patch', 'patch 2', 'texture'."""
        return tuple(numbered([negative.name for negative in self.negatives]))

    @property
    def num_negatives(self) -> int:
        """M, the number of negatives per image."""
        return self.patches + len(self.more) + self.texture

    @property
    def reads_texture(self) -> bool:
        """Whether a batch needs the textures of its images, for the last negative."""
        return any(negative.reads == "texture" for negative in self.negatives[-1:])

    def draw_orders(self, step: jax.Array, n: int, times: int = 1) -> jax.Array:
        """Draws the orders of shuffling BN for keys and each negative, int32 [times (1 + M), n]."""
        return shuffling.draw_orders(self._key(step, SHUFFLE), times * (1 + self.num_negatives), n)

    def __call__(
        self,
        step: jax.Array,
        batch: Batch,
        orders: jax.Array | None = None,
        swapped: bool = False,
    ) -> Views:
        """Makes the views and negatives of a batch.

        Args:
            step: steps done before this one.
            batch: uint8 crops [N, S, S, 3]: 'query', 'key', and 'texture' where it is used. A
                texture gets the same draws as its query.
            orders: int [1 + M, N], the orders of the key crops and of the sources of the negatives
                in `batch`, as `shuffling.arrange` leaves them; None for the queries' order.
            swapped: whether 'query' and 'key' of the batch have changed places: each crop keeps the
                draws of its view, and the negatives, which have their own, are made of the other.
        """
        streams = _SECOND if swapped else _FIRST
        query = self._view(batch["query"], step, streams[0], None)
        order_of_key, *orders_of_negatives = (
            [None] * (1 + self.num_negatives) if (orders is None) else orders
        )
        key = self._view(batch["key"], step, streams[1], order_of_key)
        none = jnp.zeros((len(query), 0, *query.shape[1:]), query.dtype)
        made = [
            self._negative(m, order, step, batch, query, streams)
            for m, order in enumerate(orders_of_negatives)
        ]
        views = Views(query, key, jnp.concatenate([none, *made], axis=1))
        if not self.of_both:
            return views
        of_key = [
            self._negative(m, None, step, batch, key, _SECOND) for m in range(self.num_negatives)
        ]
        return views._replace(key_negatives=jnp.concatenate([none, *of_key], axis=1))

    def keys(self, step: jax.Array, purpose: int, n: int) -> jax.Array:
        """Returns a typed key per place of a global batch of n samples, for a stream of a step."""
        return self._keys(step, purpose, None, n)

    def _negative(
        self,
        m: int,
        order: jax.Array | None,
        step: jax.Array,
        batch: Batch,
        query: jax.Array,
        streams: _Streams,
    ) -> jax.Array:
        """Makes negative m of every view that asks, in `order`, [N, 1, S, S, 3].

        A texture has one crop, with the draws of the view.
        """
        negative = self.negatives[m]
        if "negatives" in batch:
            seen = self._view(batch["negatives"][:, m], step, streams[0], order)
        elif negative.reads == "texture":
            seen = self._view(batch["texture"], step, streams[0], order)
        else:
            seen = query if order is None else query[order]
        keys = self._keys(step, streams[2] + m, order, len(query))
        return negative(seen, keys)[:, None]

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
