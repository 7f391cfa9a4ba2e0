"""The interface of a non-semantic negative: images and keys in, negatives out."""

from dataclasses import dataclass
from typing import Literal, Protocol

import jax

from nsneg_jax.methods.negatives.patches import Mode

Reads = Literal["query", "texture"]


class Negative(Protocol):
    """Makes a non-semantic negative per image; hashable, so it can be static under jit.

    Each sample's negative depends on its own image and key alone, so that the batch may be split
    over devices and shuffled.
    """

    @property
    def name(self) -> str:
        """A short name for pictures and tables, such as 'patch'."""
        ...

    @property
    def reads(self) -> Reads:
        """What it is made from: 'query', the query's view, or 'texture', the texture's.

        The texture is augmented with the query's draws. A batch has one texture per image, so at
        most one negative may read it.
        """
        ...

    def __call__(self, images: jax.Array, keys: jax.Array, /) -> jax.Array:
        """Makes the negatives.

        Args:
            images: normalised views [N, S, S, 3] in a floating dtype.
            keys: typed PRNG keys [N].

        Returns:
            Normalised images [N, S, S, 3] in the dtype of the views.
        """
        ...


@dataclass(frozen=True)
class Settings:
    """What a config says about negatives, for those who build them.

    Attributes:
        image_size: S, side of a view in pixels.
        patch_range: smallest and largest side of a patch, in pixels of the view.
        patch_mode: where patches come from, one of `MODES`.
        low_pass_sigma: standard deviation of the low-pass's Gaussian, in pixels of the view.
        high_pass_sigma: standard deviation of the Gaussian that the high-pass takes away, in pixels
            of the view.
        patch_align: pixels of which patches' sides and corners are multiples; 0 for any.
    """

    image_size: int
    patch_range: tuple[int, int]
    patch_mode: Mode
    low_pass_sigma: float
    high_pass_sigma: float
    patch_align: int = 0


@dataclass(frozen=True)
class Texture:
    """The texture itself, made before the training (Ge et al. 2021, section 3)."""

    name: str = "texture"
    reads: Reads = "texture"

    def __call__(self, images: jax.Array, keys: jax.Array) -> jax.Array:
        """Returns the texture's views [N, S, S, 3] as they are."""
        return images
