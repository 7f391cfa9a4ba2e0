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

# Random streams of a step; negative m uses NEGATIVE + m.
SHUFFLE, QUERY_VIEW, KEY_VIEW, NEGATIVE = range(4)
MIXING = 2**16  # of MoCHi; far more than there are negatives


class Views(NamedTuple):
    """Normalised images of one batch: query and key [N, S, S, 3], negatives [N, M, S, S, 3]."""

    query: jax.Array
    key: jax.Array
    negatives: jax.Array


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
        more: further negatives, one per image each. One that reads the texture is the last, in
            place of `texture`.

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
    more: tuple[Negative, ...] = ()

    def __post_init__(self) -> None:
        if any(negative.reads == "texture" for negative in self.negatives[:-1]):
            raise UsageError(
                f"The negatives are {', '.join(self.names)}, but must have at most one that reads "
                "the texture, as the last: a batch has one texture per image."
            )

    @property
    def negatives(self) -> tuple[Negative, ...]:
        """The M negatives of an image, in the order of their images in a batch."""
        patches = (Patches(self.patch_range, self.patch_mode),) * self.patches
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
        negatives = jnp.zeros((len(query), 0, *query.shape[1:]), query.dtype)
        made = [
            self._negative(m, order, step, batch, query)
            for m, order in enumerate(orders_of_negatives)
        ]
        return Views(query, key, jnp.concatenate([negatives, *made], axis=1))

    def keys(self, step: jax.Array, purpose: int, n: int) -> jax.Array:
        """Returns a typed key per place of a global batch of n samples, for a stream of a step."""
        return self._keys(step, purpose, None, n)

    def _negative(
        self, m: int, order: jax.Array | None, step: jax.Array, batch: Batch, query: jax.Array
    ) -> jax.Array:
        """Makes negative m of every image, in `order`, [N, 1, S, S, 3]."""
        negative = self.negatives[m]
        if "negatives" in batch:
            seen = self._view(batch["negatives"][:, m], step, QUERY_VIEW, order)
        elif negative.reads == "texture":
            seen = self._view(batch["texture"], step, QUERY_VIEW, order)
        else:
            seen = query if order is None else query[order]
        keys = self._keys(step, NEGATIVE + m, order, len(query))
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
