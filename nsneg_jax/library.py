"""The public functions of the package, such as `nsneg_jax.contrastive_loss`; they check arguments.

All except `load_pretrained` and `build_encoder` may be called within `jit` and `vmap`.
"""

from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from nsneg_jax import corruptions, models, pretrained
from nsneg_jax.embedding import Pretrained, check_whole
from nsneg_jax.errors import UsageError
from nsneg_jax.methods import negatives, views
from nsneg_jax.methods.contrast import InfoNCE, l2_normalize, similarities
from nsneg_jax.methods.shuffling import sample_keys
from nsneg_jax.models.encoder import Encoder, Tree
from nsneg_jax.parallel.mesh import DTYPES
from nsneg_jax.pytorch.loading import load

_RECIPES = {"v1": views.V1, "v2": views.V2}


def load_pretrained(
    path: str | Path,
    dtype: str = "float32",
    precision: str = "float32",
    *,
    image_size: int | None = None,
    resize: int | None = None,
) -> Pretrained:
    """Reads a trained encoder, whose `embed` and `classify` take raw images.

    `nsneg_jax.pretrained.load_pretrained` says where a run's image size comes from; our exported
    folders and safetensors files record it; other files have 224 and 256.

    Args:
        path: workdir of a pre-training, probe or fine-tuning, or a checkpoint folder; a folder that
            `nsneg convert export` or timm wrote; or a PyTorch (.pth, .pth.tar, .pt) or safetensors
            file: the original's, a torchvision ResNet or a ViT. Nothing in a file is executed.
        dtype: dtype of the computation: 'float32', 'bfloat16' or 'float64'.
        precision: precision of float32 products: 'float32' is full float32 on every device,
            'tensorfloat32' rounds to 11 bits on GPUs, 'default' also to 8 bits on TPUs.
        image_size: side of the encoder's input in pixels.
        resize: shorter side before the central crop, in pixels for views of 224, scaled for others;
            0 crops without resizing.

    Raises:
        UsageError: there is no checkpoint, it cannot be read, or it has another kind.
    """
    return load(path, dtype, precision, image_size=image_size, resize=resize)


# Settings of networks that are whole numbers, with the smallest.
_WHOLE_SETTINGS = {
    "dim": 0,
    "width": 1,
    "token_size": 1,
    "blocks": 0,
    "attention_heads": 0,
    "position_grid": 1,
}


def build_encoder(
    arch: str = "resnet50",
    *,
    dtype: str = "float32",
    precision: str = "float32",
    seed: int = 0,
    **settings: Any,
) -> tuple[Encoder, Tree, Tree]:
    """Builds a network with initial weights: a ResNet or ViT, with MoCo's head.

    Args:
        arch: 'resnet8' (three stages of one block), 'resnet18', 'resnet34', 'resnet50',
            'resnet101', 'vit_tiny', 'vit_small', 'vit_base', or a name registered with
            `nsneg_jax.models.register`.
        dtype: dtype of the computation: 'float32', 'bfloat16' or 'float64'.
        precision: precision of float32 products, see `load_pretrained`.
        seed: seed of the initial weights.
        settings: settings of the network. For a ResNet: `dim` (128), length of the embedding, 0
            leaves the head out; `mlp` (True), whether the head has two layers instead of one;
            `width` (64), channels of the first stage; `stem` ('imagenet'), or 'small' or
            'small_stride2' for images of at most 64 pixels; `bn_running` ('first'), source of batch
            norm's running statistics: the first group, or the 'mean' over the groups. For a ViT:
            `dim`, `mlp` and `width`, which gives 3, 6 or 12 times as many features; `token_size`
            (16), side of a token in pixels; and those of `nsneg_jax.models.transformers.vit.ViT`.

    Returns:
        The encoder, its parameters and its running statistics, both nested dicts of arrays in
        float32, or float64 for that dtype. With normalised images [N, H, W, 3],
        `encoder.features(params, stats, images)` returns features [N, F] in inference mode, and
        `encoder(params, stats, images, groups=1)` returns embeddings [N, dim] in training mode and
        the next running statistics. `groups` splits the batch for batch norm.

    Raises:
        UsageError: there is no such network or setting.
    """
    pretrained.check_computation(dtype, precision)
    for name, least in _WHOLE_SETTINGS.items():
        if name in settings:
            check_whole(name, settings[name], least)
    return models.build(arch, dtype=dtype, precision=precision, seed=seed, **settings)


def contrastive_loss(
    q: ArrayLike,
    k: ArrayLike,
    queue: ArrayLike,
    t: ArrayLike | None = None,
    temperature: float = 0.2,
    alpha: float | Sequence[float] = 2.0,
) -> jax.Array:
    """Computes the paper's loss (Ge et al., NeurIPS 2021), averaged over the batch.

        -log  exp(q.k/T) / ( exp(q.k/T) + sum_i exp(q.n_i/T) + sum_m exp(alpha_m q.t_m/T) )

    Products are between unit vectors: the function L2-normalises all embeddings, so you may pass
    raw outputs of the network. Gradients flow to whatever you differentiate by. MoCo's go only to
    `q`, so apply `jax.lax.stop_gradient` to the others if they depend on your parameters. The
    computation is in float32 or wider, with exact float32 products.

    Args:
        q: embeddings [N, D] of the query views.
        k: embeddings [N, D] of the key views.
        queue: embeddings [K, D] of other images' keys, the negatives n_i; K at least 1.
        t: embeddings [N, M, D] of M non-semantic negatives per image; None gives MoCo's loss.
        temperature: T, greater than 0.
        alpha: weight of the non-semantic negatives' similarity, 0 or greater: one number, or M.

    Returns:
        The mean loss, a scalar.

    Raises:
        UsageError: the shapes do not fit, or a number is out of range.
    """
    q, k, queue = (jnp.asarray(x) for x in (q, k, queue))
    t = jnp.zeros((*q.shape[:1], 0, *q.shape[1:]), q.dtype) if t is None else jnp.asarray(t)
    _check_shapes(q, k, queue, t)
    _check_alpha(alpha, t.shape[1])
    if isinstance(temperature, Real) and not temperature > 0:
        raise UsageError(
            f"temperature is {temperature!r}, but must be greater than 0, such as 0.2."
        )
    unit = (l2_normalize(x) for x in (q, k, queue, t))
    # by its axes, not its type: JAX's scalars and arrays will do too
    alphas = cast("tuple[float, ...]", alpha if np.ndim(alpha) else (alpha,) * t.shape[1])
    return InfoNCE(temperature, alphas)(similarities(*unit)).mean()


def patch_negatives(
    images: ArrayLike,
    key: jax.Array,
    num: int = 1,
    patch_size: tuple[int, int] = (16, 72),
    mode: negatives.Mode = "crops",
) -> jax.Array:
    """Makes non-semantic negatives: tiles a canvas per image with random patches of that image.

    The paper makes them from the augmented, normalised query view. Each negative draws one patch
    side, uniform between the smallest and the largest, and independent places, so it may use a
    patch twice.

    Args:
        images: [N, S, S, 3] (or any other number of channels), in a floating dtype or uint8.
        key: one key from `jax.random.key` or `jax.random.PRNGKey`; the draws of image i depend only
            on it and i.
        num: M, negatives per image; static under `jit`.
        patch_size: smallest and largest side in pixels for images of 224, scaled for others as in
            the configs: (16, 72) is (2, 10) for images of 32; static under `jit`.
        mode: 'crops', the published one; 'rotated', 'flipped' or 'rotated+flipped', crops each in a
            random orientation; or 'jigsaw', the patches of a grid, each once. Static under `jit`;
            see `nsneg_jax.methods.negatives`.

    Returns:
        [N, M, S, S, 3] in the dtype of the images; every value comes from the images.

    Raises:
        UsageError: the images are not square or have another dtype, the range does not fit, or
            there is no such mode.
    """
    images = _squares(images)
    check_whole("num", num, 1)
    low, high = _patch_range(patch_size, images.shape[1])
    draws = negatives.draw_patches(_keys(key, len(images)), num, images.shape[1], low, high, mode)
    # bfloat16 holds every whole number up to 256.
    floats = images.astype(jnp.bfloat16) if images.dtype == jnp.uint8 else images
    floats = negatives.oriented(floats, mode)
    return negatives.patch_negatives(floats, draws).astype(images.dtype)


def make_negatives(
    images: ArrayLike,
    key: jax.Array,
    kinds: str = "low_frequency",
    *,
    patch_size: tuple[int, int] = (16, 72),
    patch_mode: negatives.Mode = "crops",
    low_pass_sigma: float = 10.0,
    high_pass_sigma: float = 3.0,
) -> jax.Array:
    """Makes negatives of one kind or several; docs/negatives.md shows them.

    Args:
        images: [N, S, S, C] in a floating dtype, normalised as the encoder's input or not, or
            uint8, whose negatives are rounded to whole levels and cut to 0..255.
        key: one key from `jax.random.key` or `jax.random.PRNGKey`; the draws of image i depend only
            on it, i and the place of the negative.
        kinds: names with commas, each with a number per image if it is not 1:
            'low_frequency,colour_histogram:2'. Names are those of
            `nsneg_jax.methods.negatives.NEGATIVES` but 'texture'; static under `jit`.
        patch_size, patch_mode: of 'patch', see `patch_negatives`.
        low_pass_sigma, high_pass_sigma: standard deviations of the Gaussians of 'low_frequency' and
            'high_frequency', in pixels of images of 224, scaled for others.

    Returns:
        [N, M, S, S, C] in the dtype of the images, in the order of the names.

    Raises:
        UsageError: the images are not square or have another dtype, there is no such kind, or a
            number is out of range.
    """
    images = _squares(images)
    for name, sigma in (("low_pass_sigma", low_pass_sigma), ("high_pass_sigma", high_pass_sigma)):
        if not isinstance(sigma, Real) or not 0.1 <= sigma <= 100:
            raise UsageError(f"{name} is {sigma!r}, but must be a number from 0.1 to 100.")
    side = images.shape[1]
    scale = side / 224
    settings = negatives.Settings(
        image_size=side,
        patch_range=_patch_range(patch_size, side),
        patch_mode=patch_mode,
        low_pass_sigma=float(low_pass_sigma) * scale,
        high_pass_sigma=float(high_pass_sigma) * scale,
    )
    parts = negatives.parse(kinds)
    made = [negatives.NEGATIVES[part.name](settings) for part in parts for _ in range(part.count)]
    if not made or any(negative.reads != "query" for negative in made):
        raise UsageError(
            f"kinds is {kinds!r}, but must name one negative or more that are made from the image "
            "itself, such as 'low_frequency'."
        )
    is_bytes = images.dtype == jnp.uint8
    floats = images.astype(jnp.float32) if is_bytes else images
    keys = _keys(key, len(images))
    by_place = [jax.vmap(jax.random.fold_in, (0, None))(keys, m) for m in range(len(made))]
    found = jnp.stack(
        [negative(floats, own) for negative, own in zip(made, by_place, strict=True)], axis=1
    )
    found = jnp.clip(jnp.rint(found), 0, 255) if is_bytes else found
    return found.astype(images.dtype)


def augment(
    images: ArrayLike,
    key: jax.Array,
    recipe: str | views.ViewRecipe = "v2",
    dtype: str = "float32",
) -> jax.Array:
    """Applies MoCo's augmentation after the crop: jitter, grey, blur, flip, and normalisation.

    It does not include the random resized crop: images differ in size before it, so the package
    crops on the host while it loads them (`nsneg_jax.input.crops`).

    Args:
        images: crops, uint8 [N, H, W, 3], 0..255.
        key: one key from `jax.random.key` or `jax.random.PRNGKey`; the draws of image i depend only
            on it and i. Use a different key per view.
        recipe: 'v2' (MoCo v2 and the paper), 'v1' (MoCo v1), or a
            `nsneg_jax.methods.views.ViewRecipe`; static under `jit`.
        dtype: dtype of the result: 'float32', 'bfloat16' or 'float64'; static under `jit`.

    Returns:
        [N, H, W, 3] in `dtype`, with about zero mean and unit variance (ImageNet's normalisation):
        the input of the encoder.

    Raises:
        UsageError: the images are not uint8 or not RGB, or there is no such recipe.
    """
    images = jnp.asarray(images)
    if images.dtype != jnp.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise UsageError(
            f"The images are {images.dtype}{list(images.shape)}, but must be uint8 [N, H, W, 3], "
            "0..255, not normalised."
        )
    if not isinstance(recipe, views.ViewRecipe):
        _one_of("recipe", recipe, tuple(_RECIPES))
        recipe = _RECIPES[recipe]
    _one_of("dtype", dtype, DTYPES)
    return views.augment(images, _keys(key, len(images)), recipe, jnp.dtype(dtype))


def corrupt(images: ArrayLike, name: str, severity: int, key: jax.Array) -> jax.Array:
    """Applies a corruption of ImageNet-C (Hendrycks & Dietterich 2019) on the device.

    Args:
        images: uint8 [N, S, S, 3], 0..255, squares of at least 16 pixels. Lengths of a corruption
            scale with the side.
        name: one of `nsneg_jax.corruptions.CORRUPTIONS` or `EXTRA`, such as 'fog'.
        severity: 1 to 5.
        key: one key from `jax.random.key` or `jax.random.PRNGKey`; the draws of image i depend only
            on it and i. `jax.random.key(seed)` gives the draws of the evaluate job with that seed,
            for images in the same order.

    Returns:
        uint8 [N, S, S, 3].

    Raises:
        UsageError: there is no such corruption or severity, or the images are not as above.
    """
    images = jnp.asarray(images)
    if images.ndim == 0:
        raise UsageError(f"The images are {images!r}, but must be uint8 [N, S, S, 3].")
    return corruptions.corrupt(images, name, severity, _keys(key, len(images)))


def _keys(key: jax.Array, n: int) -> jax.Array:
    """Returns one typed key per image, for n images."""
    if isinstance(key, jax.Array | np.ndarray):
        if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
            typed = key
        elif key.dtype == jnp.uint32 and key.ndim == 1:
            typed = jax.random.wrap_key_data(key)
        else:
            typed = None
        if typed is not None and typed.shape == ():
            return sample_keys(typed, jnp.arange(n))
    raise UsageError(
        f"key is {key!r}, but must be a single key, such as jax.random.key(0). With several keys, "
        "call the function once per key."
    )


def _squares(images: ArrayLike) -> jax.Array:
    """Returns images [N, S, S, C] as an array.

    Raises:
        UsageError: they have another shape, or a dtype that is neither uint8 nor floating.
    """
    images = jnp.asarray(images)
    if images.ndim != 4 or images.shape[1] != images.shape[2]:
        raise UsageError(
            f"The images have the shape {images.shape}, but must be squares, [N, S, S, 3]. Crop or "
            "resize them first."
        )
    if images.dtype != jnp.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
        raise UsageError(
            f"The images have dtype {images.dtype}, but must have uint8 or a floating dtype."
        )
    return images


def _patch_range(patch_size: Any, side: int) -> tuple[int, int]:
    if not isinstance(patch_size, tuple | list) or len(patch_size) != 2:
        raise UsageError(
            f"patch_size is {patch_size!r}, but must be two whole numbers, the smallest and the "
            "largest side, such as (16, 72)."
        )
    return negatives.scaled_patch_range((patch_size[0], patch_size[1]), side)


def _one_of(name: str, value: Any, known: Sequence[str]) -> None:
    if value not in known:
        raise UsageError(f"{name} is {value!r}, but must be one of {', '.join(map(repr, known))}.")


def _check_shapes(q: jax.Array, k: jax.Array, queue: jax.Array, t: jax.Array) -> None:
    n, dim = q.shape if q.ndim == 2 else (None, None)
    fits = (
        ("q", q, q.ndim == 2 and len(q) > 0, "[N, D]"),
        ("k", k, k.shape == (n, dim), f"[{n}, {dim}], as q"),
        ("queue", queue, queue.shape[1:] == (dim,) and len(queue) > 0, f"[K, {dim}], K at least 1"),
        ("t", t, t.ndim == 3 and (t.shape[0], t.shape[2]) == (n, dim), f"[{n}, M, {dim}]"),
    )
    for name, array, holds, expected in fits:
        if not holds:
            raise UsageError(
                f"{name} has the shape {tuple(array.shape)}, but must be {expected}: one embedding "
                "per row. Reshape it."
            )
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise UsageError(f"{name} has dtype {array.dtype}, but must have a floating dtype.")


def _check_alpha(alpha: Any, m: int) -> None:
    """Raises UsageError unless alpha is a number or [m], none of it known to be negative."""
    if not isinstance(alpha, jax.Array) and not (np.asarray(alpha, float) >= 0).all():
        raise UsageError(f"alpha is {alpha!r}, but must be 0 or greater, such as 2.")
    if np.shape(alpha) not in ((), (m,)):
        raise UsageError(
            f"alpha has the shape {np.shape(alpha)}, but must be one number, or {m} numbers, one "
            "per non-semantic negative of an image."
        )
