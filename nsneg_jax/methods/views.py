"""The two published view recipes of MoCo, batched on the device.

The host decodes and crops; all later random operations happen here. They follow torchvision's
transforms on PIL images (`ColorJitter`, `RandomGrayscale`) and MoCo's `GaussianBlur`, but in
floating point, without rounding to whole grey levels between operations (but see
`ViewRecipe.round_down`).

All functions are pure and take a batch of RGB pictures `[N, H, W, 3]` with one PRNG key or one
parameter per sample. No operation looks across samples, so the batch axis may be sharded and a
sample's result depends only on its own key and crop. The latter needs JAX's default keys
(threefry); 'rbg' keys depend on their neighbours under `vmap`.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from nsneg_jax.errors import UsageError
from nsneg_jax.methods.operations.colour import HUE, Planes, choose, grayscale, images_of, planes_of
from nsneg_jax.methods.operations.photometric import color_jitter, gaussian_blur

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ViewRecipe:
    """The random operations on a crop. Hashable, so it may be a static argument of `jit`.

    Probabilities lie in [0, 1]; an operation with probability 0 is left out of the program.

    Attributes:
        order: 'v2' = jitter, grayscale, blur, flip, normalise; 'v1' = grayscale, jitter, blur,
            flip, normalise.
        jitter: strengths s of brightness, contrast, saturation and hue. The first three draw a
            factor from [max(0, 1 - s), 1 + s]; hue draws a shift in turns from [-s, s], s at most
            0.5.
        blur_sigma: smallest and largest standard deviation in pixels.
        round_down: whether brightness, contrast and saturation round down to whole levels of 255,
            as Pillow's do.

    Raises:
        UsageError: a value is out of range.
    """

    order: Literal["v1", "v2"]
    jitter: tuple[float, float, float, float]
    jitter_probability: float
    grayscale_probability: float
    blur_probability: float
    blur_sigma: tuple[float, float]
    flip_probability: float
    round_down: bool = False

    def __post_init__(self) -> None:
        if self.order not in ("v1", "v2"):
            raise UsageError(
                f"The view order is {self.order!r}, but must be 'v1' or 'v2'. Choose either."
            )
        for name in ("jitter", "grayscale", "blur", "flip"):
            value = getattr(self, f"{name}_probability")
            if not 0 <= value <= 1:
                raise UsageError(
                    f"{name}_probability is {value}, but a probability lies between 0 and 1. "
                    "Set it to a value in that range; 0 leaves the operation out."
                )
        if (
            len(self.jitter) != 4
            or not all(strength >= 0 for strength in self.jitter)
            or self.jitter[HUE] > 0.5
        ):
            raise UsageError(
                f"jitter is {self.jitter}, but must be four strengths (brightness, contrast, "
                "saturation, hue), none negative, hue at most 0.5 turns. (0.4, 0.4, 0.4, 0.1) is "
                "the published setting; 0 leaves one of them out."
            )
        if len(self.blur_sigma) != 2 or not 0 < self.blur_sigma[0] <= self.blur_sigma[1]:
            raise UsageError(
                f"blur_sigma is {self.blur_sigma}, but must be (smallest, largest) in pixels with "
                "0 < smallest <= largest. (0.1, 2.0) is the published setting; set "
                "blur_probability to 0 for no blur."
            )


# main_moco.py in facebookresearch/moco, without and with --aug-plus, after the crop.
V1 = ViewRecipe("v1", (0.4, 0.4, 0.4, 0.4), 1.0, 0.2, 0.0, (0.1, 2.0), 0.5)
V2 = ViewRecipe("v2", (0.4, 0.4, 0.4, 0.1), 0.8, 0.2, 0.5, (0.1, 2.0), 0.5)


class ViewDraws(NamedTuple):
    """All random decisions about one view. Shapes are per sample; a batch adds a leading `[N]`.

    Attributes:
        jitter: bool []. Whether to jitter.
        order: int32 [4]. The first, second, ... operation as an index into `factors`.
        factors: float32 [4]. Brightness, contrast and saturation factor; hue shift in turns.
        grayscale: bool []. Whether to make the view grey.
        sigma: float32 []. Standard deviation of the blur in pixels; 0 = no blur.
        flip: bool []. Whether to mirror left and right.
    """

    jitter: jax.Array
    order: jax.Array
    factors: jax.Array
    grayscale: jax.Array
    sigma: jax.Array
    flip: jax.Array


def draw_view(key: jax.Array, recipe: ViewRecipe) -> ViewDraws:
    """Draws the decisions of one view from one typed key (`jax.vmap` it over `[N]` keys).

    Numbers are always drawn in float32, so the draws do not depend on `jax_enable_x64`. Each
    decision has its own numbers, so changing one probability leaves the others alone.
    """
    # One call for all: a call per decision takes XLA three times as long to compile.
    chance = jax.random.uniform(key, (13,), jnp.float32)
    u_jitter, u_gray, u_blur, u_sigma, u_flip = chance[:5]
    strength = jnp.array(recipe.jitter, jnp.float32)
    centre = jnp.array([1, 1, 1, 0], jnp.float32)
    low = (centre - strength).at[:HUE].max(0)
    small, large = (jnp.float32(sigma) for sigma in recipe.blur_sigma)
    sigma = small + u_sigma * (large - small)
    return ViewDraws(
        jitter=u_jitter < recipe.jitter_probability,
        order=jnp.argsort(chance[5:9]).astype(jnp.int32),
        factors=low + chance[9:] * (centre + strength - low),
        grayscale=u_gray < recipe.grayscale_probability,
        sigma=jnp.where(u_blur < recipe.blur_probability, sigma, jnp.float32(0)),
        flip=u_flip < recipe.flip_probability,
    )


def apply_view(
    crops: jax.Array, draws: ViewDraws, recipe: ViewRecipe, dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """Applies its draws to each crop.

    Args:
        crops: uint8 [N, H, W, 3].
        draws: draws of the batch.
        recipe: recipe that the draws came from.
        dtype: dtype of the result. The computation is in float64 if this is float64 and
            `jax_enable_x64` is set, else in float32.

    Returns:
        [N, H, W, 3] in `dtype`, normalised with ImageNet's mean and standard deviation.
    """
    compute = jnp.float64 if jnp.dtype(dtype) == jnp.float64 else jnp.float32
    x = planes_of(crops.astype(compute) / 255)

    def jittered(x: Planes) -> Planes:
        if recipe.jitter_probability == 0 or not any(recipe.jitter):
            return x
        identity = jnp.array([1, 1, 1, 0], jnp.float32)
        factors = jnp.where(draws.jitter[:, None], draws.factors, identity)
        hue = recipe.jitter[HUE] > 0
        return color_jitter(x, draws.order, factors, hue, recipe.round_down)

    def grayed(x: Planes) -> Planes:
        if recipe.grayscale_probability == 0:
            return x
        return choose(draws.grayscale, grayscale(x), x)

    x = jittered(grayed(x)) if recipe.order == "v1" else grayed(jittered(x))
    if recipe.blur_probability > 0:
        x = gaussian_blur(x, draws.sigma, recipe.blur_sigma[1])
    # Cast before stacking, so that memory holds only the narrow dtype.
    planes = zip(x, IMAGENET_MEAN, IMAGENET_STD, strict=True)
    red, green, blue = (((plane - mean) / std).astype(dtype) for plane, mean, std in planes)
    images = images_of((red, green, blue))
    return flip(images, draws.flip) if recipe.flip_probability > 0 else images


def augment(
    crops: jax.Array, keys: jax.Array, recipe: ViewRecipe, dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """Draws and applies a view for each crop; see `draw_view` and `apply_view`.

    Args:
        crops: uint8 [N, H, W, 3].
        keys: typed keys [N].
        recipe: operations to draw.
        dtype: dtype of the result.

    Returns:
        [N, H, W, 3] in `dtype`, normalised.
    """
    draws = jax.vmap(lambda key: draw_view(key, recipe))(keys)
    return apply_view(crops, draws, recipe, dtype)


def flip(images: jax.Array, flipped: jax.Array) -> jax.Array:
    """Mirrors images [N, H, W, C] of any dtype left and right where `flipped` (bool [N])."""
    return jnp.where(flipped[:, None, None, None], images[:, :, ::-1], images)


def normalise(images: jax.Array) -> jax.Array:
    """Maps float [..., 3] in [0, 1] to zero mean and unit variance on ImageNet, per channel."""
    mean, std = (jnp.array(v, images.dtype) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (images - mean) / std


def denormalise(images: jax.Array) -> jax.Array:
    """Inverts `normalise`: float [..., 3] back to [0, 1] up to rounding, not clipped."""
    mean, std = (jnp.array(v, images.dtype) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return images * std + mean
