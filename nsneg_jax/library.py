"""The package's functions for code of your own: arguments checked, then the real ones called.

`nsneg_jax.contrastive_loss` and so on are these. All but `load_pretrained` and `build_encoder` may
be called within `jit` and `vmap`.
"""

from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from nsneg_jax import corruptions, models, pretrained
from nsneg_jax.embedding import Pretrained, check_whole
from nsneg_jax.errors import UsageError
from nsneg_jax.files import user_path
from nsneg_jax.methods import negatives, views
from nsneg_jax.methods.contrast import InfoNCE, l2_normalize, similarities
from nsneg_jax.methods.shuffling import sample_keys
from nsneg_jax.models.encoder import Encoder, Tree
from nsneg_jax.models.resnet import ARCHS, STEMS
from nsneg_jax.parallel.mesh import DTYPES
from nsneg_jax.pytorch.files import SAFETENSORS_SUFFIX, TORCH_SUFFIXES
from nsneg_jax.pytorch.loading import load_file

_RECIPES = {"v1": views.V1, "v2": views.V2}


def load_pretrained(
    path: str | Path,
    dtype: str = "float32",
    precision: str = "float32",
    *,
    image_size: int | None = None,
    resize: int | None = None,
) -> Pretrained:
    """Reads a trained encoder, whose `embed` and `classify` take images as they are.

    Of a run of this package `nsneg_jax.pretrained.load_pretrained` reads it and says where the
    size of the images comes from; of a PyTorch file it is 224 and 256 if not given.

    Args:
        path: a workdir of pre-training or of a linear probe, a checkpoint folder in it or a copy
            of one, or a file of PyTorch (.pth, .pth.tar, .pt) or safetensors: the original's
            pre-training, its linear probe or a torchvision ResNet. Nothing in a file is executed
            and nothing is written. '~' is your home.
        dtype: of the computation: 'float32', 'bfloat16' or 'float64'.
        precision: of products of float32 numbers: 'float32' is true float32 on every device,
            'tensorfloat32' rounds them to 11 bits on GPUs, 'default' also to 8 bits on TPUs.
        image_size: side of the images that the encoder is given, in pixels.
        resize: length that the shorter side is brought to before the central crop, in pixels of a
            view of 224 and scaled to others; 0 crops without resizing.

    Raises:
        UsageError: there is no checkpoint, it cannot be read, or it is of another kind.
    """
    given: dict[str, Any] = {"image_size": image_size, "resize": resize}
    file = user_path(str(path))
    named_so = file.name.endswith((*TORCH_SUFFIXES, SAFETENSORS_SUFFIX))
    if file.is_file() or (named_so and not file.is_dir()):
        return load_file(file, dtype, precision, **given)
    return pretrained.load_pretrained(path, dtype, precision, **given)


def build_encoder(
    arch: str = "resnet50",
    *,
    dtype: str = "float32",
    precision: str = "float32",
    seed: int = 0,
    **settings: Any,
) -> tuple[Encoder, Tree, Tree]:
    """A network with initial weights: a ResNet in torchvision's geometry, with MoCo's head.

    Args:
        arch: 'resnet8' (three stages of one block), 'resnet18', 'resnet34', 'resnet50',
            'resnet101', or a name given to `nsneg_jax.models.register`.
        dtype: of the computation: 'float32', 'bfloat16' or 'float64'.
        precision: of products of float32 numbers, as in `load_pretrained`.
        seed: of the initial weights.
        settings: the network's own. Of a ResNet: `dim` (128), width of the embedding, 0 leaves
            the head away; `mlp` (True), a head of two layers instead of one; `width` (64),
            channels of the first stage; `stem` ('imagenet'), or 'small' or 'small_stride2' for
            images of 64 pixels and less; `bn_running` ('first'), whose statistics batch norm
            keeps: those of the first group, or the 'mean' over the groups.

    Returns:
        The encoder, its parameters and its running statistics, nested dicts of arrays in float32,
        or float64 for that dtype. With normalised images [N, H, W, 3],
        `encoder.features(params, stats, images)` gives features [N, F] in inference mode, and
        `encoder(params, stats, images, groups=1)` embeddings [N, dim] in training mode and the
        next running statistics. `groups` splits the batch for batch norm.

    Raises:
        UsageError: there is no such network or setting.
    """
    pretrained.check_computation(dtype, precision)
    if "stem" in settings and arch in ARCHS:
        _one_of("stem", settings["stem"], STEMS)
    for name, least in (("dim", 0), ("width", 1)):
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
    """The paper's loss (Ge et al., NeurIPS 2021), averaged over the batch.

        -log  exp(q.k/T) / ( exp(q.k/T) + sum_i exp(q.n_i/T) + sum_m exp(alpha_m q.t_m/T) )

    Products are those of unit vectors: all embeddings are L2-normalised here, so give them as the
    network gives them or normalised. Gradients flow to whatever you differentiate by; MoCo's go to
    `q` alone, so stop those of the others (`jax.lax.stop_gradient`) unless they do not depend on
    your parameters anyway. Computed in float32 at least, with exact float32 products.

    Args:
        q: embeddings [N, D] of the query views.
        k: embeddings [N, D] of the key views.
        queue: [K, D], K at least 1. Keys of other images, the negatives n_i.
        t: embeddings [N, M, D] of each image's M non-semantic negatives; None is MoCo's loss.
        temperature: T, greater than 0.
        alpha: the weight of the non-semantic negatives' similarity, a number or one for each of
            the M.

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
    alphas = alpha if np.ndim(alpha) else (alpha,) * t.shape[1]
    return InfoNCE(temperature, alphas)(similarities(*unit)).mean()


def patch_negatives(
    images: ArrayLike, key: jax.Array, num: int = 1, patch_size: tuple[int, int] = (16, 72)
) -> jax.Array:
    """Non-semantic negatives: each image's canvas tiled with random patches of the image itself.

    The paper makes them of the augmented, normalised query view. A patch's side is drawn for each
    negative, evenly between the smallest and the largest; its places are drawn independently, so a
    patch may be used twice.

    Args:
        images: [N, S, S, 3] (or any other number of channels), of a floating dtype, or uint8.
        key: one key of `jax.random.key` or `jax.random.PRNGKey`; image i's draws depend on it and
            on i alone.
        num: M, negatives per image; static under `jit`.
        patch_size: smallest and largest side, in pixels of an image of 224 and scaled to others,
            as in the configs: (16, 72) is (2, 10) for images of 32; static under `jit`.

    Returns:
        [N, M, S, S, 3] of the images' dtype, with values of the images alone.

    Raises:
        UsageError: the images are not square, of another dtype, or the range does not fit.
    """
    images = jnp.asarray(images)
    if images.ndim != 4 or images.shape[1] != images.shape[2]:
        raise UsageError(
            f"The images have the shape {images.shape}, but must be squares, [N, S, S, 3]. Crop or "
            "resize them first."
        )
    is_bytes = images.dtype == jnp.uint8
    if not is_bytes and not jnp.issubdtype(images.dtype, jnp.floating):
        raise UsageError(
            f"The images are of dtype {images.dtype}, but must be uint8 or of a floating dtype."
        )
    check_whole("num", num, 1)
    if not isinstance(patch_size, tuple | list) or len(patch_size) != 2:
        raise UsageError(
            f"patch_size is {patch_size!r}, but must be two whole numbers, the smallest and the "
            "largest side, such as (16, 72)."
        )
    side = images.shape[1]
    low, high = negatives.scaled_patch_range(tuple(patch_size), side)
    draws = negatives.draw_patches(_keys(key, len(images)), num, side, low, high)
    # bfloat16 holds every whole number up to 256
    floats = images.astype(jnp.bfloat16) if is_bytes else images
    return negatives.patch_negatives(floats, draws).astype(images.dtype)


def augment(
    images: ArrayLike,
    key: jax.Array,
    recipe: str | views.ViewRecipe = "v2",
    dtype: str = "float32",
) -> jax.Array:
    """MoCo's augmentation after the crop: jitter, grey, blur, flip, and ImageNet's normalisation.

    The random resized crop is not part of it: images differ in size before it, so that the package
    does it on the host while it loads them (`nsneg_jax.input.crops`).

    Args:
        images: crops, uint8 [N, H, W, 3], 0..255.
        key: one key of `jax.random.key` or `jax.random.PRNGKey`; image i's draws depend on it and
            on i alone. Give another for each view.
        recipe: 'v2' (MoCo v2 and the paper), 'v1' (MoCo v1), or a
            `nsneg_jax.methods.views.ViewRecipe`; static under `jit`.
        dtype: of the result, 'float32', 'bfloat16' or 'float64'; static under `jit`.

    Returns:
        [N, H, W, 3] of `dtype`, of about zero mean and unit variance: what the encoder takes.

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
    """A corruption of ImageNet-C (Hendrycks & Dietterich 2019), made on the device.

    Args:
        images: uint8 [N, S, S, 3], 0..255, squares of at least 16 pixels. Where the corruption has
            lengths, they scale with the side.
        name: one of `nsneg_jax.corruptions.CORRUPTIONS` or `EXTRA`, such as 'fog'.
        severity: 1 to 5.
        key: one key of `jax.random.key` or `jax.random.PRNGKey`; image i's draws depend on it and
            on i alone. With `jax.random.key(seed)` they are the evaluate job's for that seed, of
            the images in their order.

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
    """A typed key for each of n images."""
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
        f"key is {key!r}, but must be a single key, as jax.random.key(0) makes it. Of several, "
        "call the function with each."
    )


def _one_of(name: str, value: Any, known: Sequence[str]) -> None:
    if value not in known:
        raise UsageError(f"{name} is {value!r}, but must be one of {', '.join(map(repr, known))}.")


def _check_shapes(q: jax.Array, k: jax.Array, queue: jax.Array, t: jax.Array) -> None:
    n, dim = q.shape if q.ndim == 2 else (None, None)
    fits = (
        ("q", q, q.ndim == 2 and n > 0, "[N, D]"),
        ("k", k, k.shape == (n, dim), f"[{n}, {dim}], as q"),
        ("queue", queue, queue.shape[1:] == (dim,) and len(queue) > 0, f"[K, {dim}], K at least 1"),
        ("t", t, t.ndim == 3 and (t.shape[0], t.shape[2]) == (n, dim), f"[{n}, M, {dim}]"),
    )
    for name, array, holds, expected in fits:
        if not holds:
            raise UsageError(
                f"{name} has the shape {tuple(array.shape)}, but must be {expected}: one embedding "
                "per row."
            )
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise UsageError(f"{name} is of dtype {array.dtype}, but must be of a floating dtype.")


def _check_alpha(alpha: Any, m: int) -> None:
    """Raises UsageError unless alpha is a number or [m], and, as far as is known, none negative."""
    if not isinstance(alpha, jax.Array) and not (np.asarray(alpha, float) >= 0).all():
        raise UsageError(f"alpha is {alpha!r}, but must be 0 or greater, such as 2.")
    if np.shape(alpha) not in ((), (m,)):
        raise UsageError(
            f"alpha has the shape {np.shape(alpha)}, but must be a number or one for each of the "
            f"{m} non-semantic negatives of an image."
        )
