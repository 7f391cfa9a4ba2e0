"""The two published view recipes of MoCo, batched on the device.

The host decodes and crops; what is random after that happens here. The operations are those of
torchvision's transforms on PIL images (`ColorJitter`, `RandomGrayscale`, MoCo's `GaussianBlur`),
in floating point, so without their rounding to whole grey levels between operations.

Everything is a pure function over a batch of square or oblong RGB pictures `[N, H, W, 3]` with one
PRNG key or one parameter a sample. No operation looks across samples, so the batch axis may be
sharded, and a sample's result depends on its own key and crop alone. That last holds for JAX's
default keys (threefry); keys of the implementation 'rbg' depend on their neighbours under `vmap`.
"""

from dataclasses import dataclass
from math import ceil
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from nsneg_jax.errors import UsageError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as in Pillow's convert("L")
_HUE = 3  # place of hue among (brightness, contrast, saturation, hue)


@dataclass(frozen=True)
class ViewRecipe:
    """What is done to a crop, and how often. Hashable, so it may be a static argument of `jit`.

    Probabilities lie in [0, 1]; an operation with probability 0 is left out of the program.

    Attributes:
        order: 'v2' = jitter, grayscale, blur, flip, normalise; 'v1' = grayscale, jitter, blur,
            flip, normalise.
        jitter: strengths (brightness, contrast, saturation, hue). The first three draw a factor
            from [max(0, 1 - s), 1 + s]; hue draws a shift from [-s, s], in turns, s at most 0.5.
        blur_sigma: smallest and largest standard deviation in pixels.

    Raises:
        UsageError: for values outside these ranges.
    """

    order: Literal["v1", "v2"]
    jitter: tuple[float, float, float, float]
    jitter_probability: float
    grayscale_probability: float
    blur_probability: float
    blur_sigma: tuple[float, float]
    flip_probability: float

    def __post_init__(self) -> None:
        if self.order not in ("v1", "v2"):
            raise UsageError(
                f"The view order is {self.order!r}, but must be 'v1' or 'v2'. Choose one of them."
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
            or self.jitter[_HUE] > 0.5
        ):
            raise UsageError(
                f"jitter is {self.jitter}, but must be four strengths (brightness, contrast, "
                "saturation, hue), none negative, hue at most 0.5 turns. (0.4, 0.4, 0.4, 0.1) is "
                "the published setting; 0 leaves one of them out."
            )
        if len(self.blur_sigma) != 2 or not 0 < self.blur_sigma[0] <= self.blur_sigma[1]:
            raise UsageError(
                f"blur_sigma is {self.blur_sigma}, but must be (smallest, largest) in pixels with "
                "0 < smallest <= largest. (0.1, 2.0) is the published setting; to do without blur "
                "set blur_probability to 0."
            )


# main_moco.py of facebookresearch/moco, without and with --aug-plus, after the crop.
V1 = ViewRecipe("v1", (0.4, 0.4, 0.4, 0.4), 1.0, 0.2, 0.0, (0.1, 2.0), 0.5)
V2 = ViewRecipe("v2", (0.4, 0.4, 0.4, 0.1), 0.8, 0.2, 0.5, (0.1, 2.0), 0.5)


class ViewDraws(NamedTuple):
    """All that chance decides about one view. Shapes for one sample; a batch adds a leading `[N]`.

    Attributes:
        jitter: bool []. Whether to jitter.
        order: int32 [4]. The operation done first, second, ... as an index into `factors`.
        factors: float32 [4]. Brightness, contrast and saturation factor; hue shift in turns.
        grayscale: bool [].
        sigma: float32 []. Standard deviation of the blur in pixels; 0 = no blur.
        flip: bool [].
    """

    jitter: jax.Array
    order: jax.Array
    factors: jax.Array
    grayscale: jax.Array
    sigma: jax.Array
    flip: jax.Array


def draw_view(key: jax.Array, recipe: ViewRecipe) -> ViewDraws:
    """Draws one view's decisions from one typed key (`jax.vmap` it over `[N]` keys).

    Numbers are drawn in float32 whatever `jax_enable_x64` says, so that the draws do not depend on
    it; each decision has numbers of its own, so that a changed probability leaves the others alone.
    """
    # one call for all: a call for each decision takes XLA three times as long to compile
    chance = jax.random.uniform(key, (13,), jnp.float32)
    u_jitter, u_gray, u_blur, u_sigma, u_flip = chance[:5]
    strength = jnp.array(recipe.jitter, jnp.float32)
    centre = jnp.array([1, 1, 1, 0], jnp.float32)
    low = (centre - strength).at[:_HUE].max(0)
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
    """Does to each crop what was drawn for it.

    Args:
        crops: uint8 [N, H, W, 3].
        draws: of a batch.
        recipe: the one the draws came from.
        dtype: of the result. Computed in float32, or in float64 where this is float64 and
            `jax_enable_x64` is set.

    Returns:
        [N, H, W, 3] of `dtype`, normalised with ImageNet's mean and standard deviation.
    """
    compute = jnp.float64 if jnp.dtype(dtype) == jnp.float64 else jnp.float32
    x = crops.astype(compute) / 255

    def jittered(x: jax.Array) -> jax.Array:
        if recipe.jitter_probability == 0 or not any(recipe.jitter):
            return x
        identity = jnp.array([1, 1, 1, 0], jnp.float32)
        factors = jnp.where(draws.jitter[:, None], draws.factors, identity)
        return color_jitter(x, draws.order, factors, with_hue=recipe.jitter[_HUE] > 0)

    def grayed(x: jax.Array) -> jax.Array:
        if recipe.grayscale_probability == 0:
            return x
        return jnp.where(_per_sample(draws.grayscale), grayscale(x), x)

    x = jittered(grayed(x)) if recipe.order == "v1" else grayed(jittered(x))
    if recipe.blur_probability > 0:
        x = gaussian_blur(x, draws.sigma, ceil(3 * recipe.blur_sigma[1]))
    if recipe.flip_probability > 0:
        x = flip(x, draws.flip)
    return normalise(x).astype(dtype)


def augment(
    crops: jax.Array, keys: jax.Array, recipe: ViewRecipe, dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """Draws and applies a view for each crop; see `draw_view` and `apply_view`.

    Args:
        crops: uint8 [N, H, W, 3].
        keys: typed keys [N].
        recipe: what to draw.
        dtype: of the result.

    Returns:
        [N, H, W, 3] of `dtype`, normalised.
    """
    draws = jax.vmap(lambda key: draw_view(key, recipe))(keys)
    return apply_view(crops, draws, recipe, dtype)


def color_jitter(
    images: jax.Array, order: jax.Array, factors: jax.Array, with_hue: bool = True
) -> jax.Array:
    """The four jitter operations in each sample's own order (torchvision's `ColorJitter`).

    Args:
        images: float [N, H, W, 3] in [0, 1].
        order: int [N, 4], a permutation of 0..3 a row.
        factors: float [N, 4], see `ViewDraws`; (1, 1, 1, 0) returns the image bit for bit.
        with_hue: False leaves the hue shift out of the program.

    Returns:
        Float [N, H, W, 3] in [0, 1].
    """
    # A different order for each sample means that a batch evaluates every operation in every
    # place. Brightness, contrast and saturation are one blend with different targets and so share
    # a place; hue, the costly one, is done once, between three places before it and three after,
    # of which a sample uses three in all. The places are a loop because XLA on CPU would otherwise
    # fuse each blend into the mean of the next and into the blur, and compute it many times over.
    place = jnp.arange(_HUE)
    hue_place = jnp.argmax(order == _HUE, axis=1)[:, None]
    blends = jnp.take_along_axis(order, place + (place >= hue_place), axis=1)
    amounts = jnp.take_along_axis(factors, blends, axis=1)

    def one_blend(x: jax.Array, step: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        kind, amount = _per_sample(step[0]), step[1]
        gray = _luma(x)
        mean = gray.mean(axis=(1, 2, 3), keepdims=True)
        target = jnp.where(kind == 2, gray, jnp.where(kind == 1, mean, 0))
        return _blend(x, target, amount), None

    def three_blends(x: jax.Array, active: jax.Array) -> jax.Array:
        return jax.lax.scan(one_blend, x, (blends.T, jnp.where(active, amounts, 1).T))[0]

    if not with_hue:
        return three_blends(images, jnp.ones_like(blends, bool))
    x = three_blends(images, place < hue_place)
    x = hue(x, factors[:, _HUE])
    return three_blends(x, place >= hue_place)


def brightness(images: jax.Array, factor: jax.Array) -> jax.Array:
    """Blends with black (Pillow's `ImageEnhance.Brightness`).

    Args:
        images: float [N, H, W, 3] in [0, 1].
        factor: float [N], at least 0; 1 changes nothing.
    """
    return _blend(images, jnp.zeros((), images.dtype), factor)


def contrast(images: jax.Array, factor: jax.Array) -> jax.Array:
    """Blends with the mean of the grayscale picture (Pillow's `ImageEnhance.Contrast`).

    Pillow rounds that mean to a whole grey level; this does not.

    Args:
        images: float [N, H, W, 3] in [0, 1].
        factor: float [N], at least 0; 1 changes nothing.
    """
    return _blend(images, _luma(images).mean(axis=(1, 2, 3), keepdims=True), factor)


def saturation(images: jax.Array, factor: jax.Array) -> jax.Array:
    """Blends with the grayscale picture (Pillow's `ImageEnhance.Color`).

    Args:
        images: float [N, H, W, 3] in [0, 1].
        factor: float [N], at least 0; 1 changes nothing.
    """
    return _blend(images, _luma(images), factor)


def grayscale(images: jax.Array) -> jax.Array:
    """ITU-R 601 luma in all three channels (Pillow's `convert("L")`), float [N, H, W, 3]."""
    return jnp.broadcast_to(_luma(images), images.shape)


def hue(images: jax.Array, shift: jax.Array) -> jax.Array:
    """Turns the hue in HSV space (torchvision's `adjust_hue`).

    Args:
        images: float [N, H, W, 3] in [0, 1].
        shift: float [N] in turns; 0 changes nothing, 1/3 moves red to green.
    """
    shift = _per_sample(shift.astype(images.dtype))[..., 0]
    red, green, blue = (images[..., c] for c in range(3))
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    divisor = jnp.where(chroma > 0, chroma, 1)
    # Channels are compared with one another, never with `value`: a compiler may compute the two
    # sides of an equality with different roundings, and the hue would then be a wrong one.
    sixths = jnp.where(
        (red >= green) & (red >= blue),
        (green - blue) / divisor,
        jnp.where(green >= blue, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )

    def channel(offset: int) -> jax.Array:
        k = offset + sixths + 6 * shift
        k = k - 6 * jnp.floor(k / 6)
        return value - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0, 1)

    turned = jnp.clip(jnp.stack([channel(5), channel(3), channel(1)], axis=-1), 0, 1)
    return jnp.where(shift[..., None] != 0, turned, images)


def gaussian_blur(images: jax.Array, sigma: jax.Array, radius: int) -> jax.Array:
    """Gaussian blur with a standard deviation per sample, edges repeated.

    Stands for Pillow's `ImageFilter.GaussianBlur(sigma)`, which approximates this by box blurs.

    Args:
        images: float [N, H, W, 3].
        sigma: float [N] in pixels; 0 returns the image bit for bit.
        radius: reach of the kernel in pixels, the same for all; three times the largest sigma is
            ample.
    """
    # Products with banded matrices: XLA on CPU keeps them apart from their surroundings, whereas
    # it fused a sum of shifted pictures with what comes before and after, and so computed that
    # for every tap. A grouped convolution, a filter for each sample, was ten times slower.
    width = jnp.where(sigma > 0, sigma, 1).astype(images.dtype)[:, None, None]
    x = images
    for axis, product in ((1, "noi,niwc->nowc"), (2, "noi,nhic->nhoc")):
        reach = [(0, 0)] * 4
        reach[axis] = (radius, radius)
        padded = jnp.pad(x, reach, mode="edge")
        distance = jnp.arange(padded.shape[axis]) - jnp.arange(x.shape[axis])[:, None] - radius
        taps = jnp.where(abs(distance) <= radius, jnp.exp(-0.5 * (distance / width) ** 2), 0)
        taps = taps / taps.sum(axis=2, keepdims=True)
        x = jnp.einsum(product, taps, padded, precision=jax.lax.Precision.HIGHEST)
    return jnp.where(_per_sample(sigma) > 0, x, images)


def flip(images: jax.Array, flipped: jax.Array) -> jax.Array:
    """Mirrors left and right where `flipped` (bool [N]) says so; [N, H, W, C] of any dtype."""
    return jnp.where(_per_sample(flipped), images[:, :, ::-1], images)


def normalise(images: jax.Array) -> jax.Array:
    """Float [..., 3] in [0, 1] to zero mean and unit variance on ImageNet, a channel each."""
    mean, std = (jnp.array(v, images.dtype) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (images - mean) / std


def denormalise(images: jax.Array) -> jax.Array:
    """The inverse of `normalise`: float [..., 3] back to [0, 1] up to rounding, not clipped."""
    mean, std = (jnp.array(v, images.dtype) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return images * std + mean


def _per_sample(values: jax.Array) -> jax.Array:
    return values[:, None, None, None]


def _luma(images: jax.Array) -> jax.Array:
    red, green, blue = (images[..., c : c + 1] for c in range(3))
    return _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue


def _blend(images: jax.Array, target: jax.Array, factor: jax.Array) -> jax.Array:
    factor = _per_sample(factor.astype(images.dtype))
    return jnp.clip(factor * images + (1 - factor) * target, 0, 1)
