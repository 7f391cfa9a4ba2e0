"""The network of a vision transformer's state dict, and its entries in timm's form."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from nsneg_jax.embedding import Pretrained
from nsneg_jax.errors import UsageError
from nsneg_jax.models.transformers.tokens import sincos_positions
from nsneg_jax.models.transformers.vit import ARCHS, POOLINGS, POSITIONS
from nsneg_jax.pytorch.transformers.names import HEAD, PATCHES

POSITIONS_ENTRY = "pos_embed"

_PUBLISHED_WIDTH, _HEAD_FEATURES = 64, 64
_GRID = 14
_BLOCK = re.compile(r"blocks\.(\d+)\.")
_CLOSE = 1e-5  # to sines and cosines, of a file in half precision 1e-3
_TIMM = {"vit_tiny": "vit_tiny_patch16_224", "vit_small": "vit_small_patch16_224",
         "vit_base": "vit_base_patch16_224"}  # fmt: skip


def is_transformer(arrays: Mapping[str, Any]) -> bool:
    """Returns whether entries without prefix are a vision transformer's."""
    return PATCHES in arrays


def model_of(
    arrays: Mapping[str, np.ndarray],
    origin: str,
    arch: Any,
    recorded: Mapping[str, Any],
    heads: int | None,
    mlp: bool,
) -> dict[str, Any]:
    """Derives the model section, without dtype, from the entries of one encoder.

    The entries do not show the number of heads: it is `heads`, or what a file of ours records;
    else 12 for networks of 384 features with MoCo-v3's fixed positions, and else features / 64.

    Args:
        arrays: entries under timm's names.
        origin: name of the file, for messages.
        arch: arch stated in the file, of any program and type.
        recorded: model section in a file of ours, else empty; values may be of any type.
        heads: number of heads, if it is known.
        mlp: whether the head has a hidden layer.

    Raises:
        UsageError: it is no network of this package, or `arch` and `heads` contradict it.
    """
    kernel = arrays[PATCHES]
    if kernel.ndim != 4 or kernel.shape[1] != 3 or kernel.shape[2] != kernel.shape[3]:
        raise UsageError(
            f"{PATCHES} in {origin} has shape {tuple(kernel.shape)}, but must be (features, 3, "
            "side, side): tokens are made of RGB squares here. Give another network."
        )
    features, size = kernel.shape[0], kernel.shape[2]
    name, width = _arch_and_width(features, origin, recorded)
    stated = arch.lower() if isinstance(arch, str) else ""
    contradicting = [each for each in ARCHS if stated.startswith(each) and each != name]
    if contradicting:
        raise UsageError(
            f"{origin} states arch {arch!r}, but its {features} features are those of {name!r}. "
            "Correct 'arch' in the file."
        )
    places = arrays.get(POSITIONS_ENTRY)
    grid, fixed = _GRID, True
    if places is not None:
        grid = _grid_of(places, features, origin)
        fixed = has_sincos(places, grid)
    own = _known(recorded, "attention_heads", int) or (ARCHS[name][1] if recorded else None)
    guessed = ARCHS[name][1] if fixed else max(1, features // _HEAD_FEATURES)
    found = heads or own or guessed
    if features % found:
        raise UsageError(
            f"{origin} has {features} features, which {found} heads do not divide. Give the number "
            "of heads of its training, with --heads."
        )
    numbers = [int(block[1]) for each in arrays if (block := _BLOCK.match(each))]
    blocks = max(numbers, default=-1) + 1
    positions = "sincos" if fixed else "learnable"
    if places is None:
        positions = _known(recorded, "positions", str, POSITIONS) or positions
    if positions == "sincos":  # the grid means nothing then
        grid = _known(recorded, "position_grid", int) or grid
    freeze = recorded.get("freeze_tokens")
    return {
        "arch": name,
        "dim": 0,
        "mlp": mlp,
        "width": width,
        "token_size": size,
        "blocks": 0 if blocks == ARCHS[name][2] else max(blocks, 1),
        "attention_heads": 0 if found == ARCHS[name][1] else found,
        "positions": positions,
        "position_grid": grid,
        "token_pooling": _known(recorded, "token_pooling", str, POOLINGS) or "class",
        # MoCo-v3 is known by its positions.
        "freeze_tokens": freeze if isinstance(freeze, bool) else fixed,
        "bn_groups": 8,
        "bn_running": "first",
    }


def has_sincos(places: np.ndarray, grid: int) -> bool:
    """Returns whether positions [1, 1 + grid^2, W] are the fixed sines and cosines."""
    features = places.shape[2]
    if features % 4:
        return False
    close = _CLOSE if places.dtype.itemsize > 2 else 1e-3
    difference = places.astype(np.float64) - sincos_positions(grid, grid, features)
    return bool(np.abs(difference).max() < close)


def in_timm(model: Mapping[str, Any]) -> bool:
    """Returns whether timm has this backbone."""
    return (
        model["arch"] in _TIMM
        and model.get("width") == _PUBLISHED_WIDTH
        and model.get("blocks", 0) in (0, ARCHS[model["arch"]][2])
        and model.get("token_size", 16) == 16
        # timm's mean takes its norm after it
        and model.get("token_pooling", "class") == "class"
    )


def timm_settings(model: Mapping[str, Any], image_size: int | None) -> dict[str, Any]:
    """Returns what config.json says of a ViT: architecture, arguments and names of layers.

    Args:
        model: `model` section, see `in_timm`.
        image_size: side of its images in pixels; None for 224.
    """
    arguments = {"num_heads": model.get("attention_heads") or ARCHS[model["arch"]][1]}
    if image_size is not None:
        arguments["img_size"] = image_size
    return {
        "architecture": _TIMM[model["arch"]] if in_timm(model) else model["arch"],
        "model_args": arguments,
        "global_pool": "token",
    }


def in_timm_form(arrays: dict[str, np.ndarray], source: Pretrained) -> dict[str, np.ndarray]:
    """Adds fixed positions to an encoder's entries, and gives a classifier timm's name.

    Args:
        arrays: entries of a backbone, and of a probe's `fc`, under our names.
        source: the encoder.
    """
    form = {
        f"{HEAD}.{name.removeprefix('fc.')}" if name.startswith("fc.") else name: array
        for name, array in arrays.items()
    }
    if POSITIONS_ENTRY not in form:
        size = source.model.get("token_size", 16)
        grid = source.image_size // size if source.image_size else _GRID
        features = form["cls_token"].shape[2]
        places = sincos_positions(grid, grid, features)
        form[POSITIONS_ENTRY] = places.astype(form["cls_token"].dtype)
    return form


def _arch_and_width(features: int, origin: str, recorded: Mapping[str, Any]) -> tuple[str, int]:
    arch = _known(recorded, "arch", str, tuple(ARCHS))
    if arch is not None and features % ARCHS[arch][0] == 0:
        return arch, features // ARCHS[arch][0]
    for name, (factor, _, _) in ARCHS.items():
        if features == factor * _PUBLISHED_WIDTH:
            return name, _PUBLISHED_WIDTH
    sizes = ", ".join(f"{each[0] * _PUBLISHED_WIDTH} ({name})" for name, each in ARCHS.items())
    raise UsageError(
        f"{origin} is a vision transformer of {features} features, but here they have {sizes}. "
        "Give one of these."
    )


def _grid_of(places: np.ndarray, features: int, origin: str) -> int:
    count = places.shape[1] - 1 if places.ndim == 3 else 0
    grid = round(max(count, 0) ** 0.5)
    if grid < 1 or places.shape != (1, 1 + grid * grid, features):
        raise UsageError(
            f"{POSITIONS_ENTRY} in {origin} has shape {tuple(places.shape)}, but must be (1, 1 + "
            f"side * side, {features}): a class token and a square of tokens. Networks with other "
            "tokens, such as registers or a distillation token, cannot be converted."
        )
    return grid


def _known(
    recorded: Mapping[str, Any], name: str, kind: type, choices: tuple[str, ...] = ()
) -> Any:
    """Returns a recorded value of that type, and one of the choices if there are any; else None."""
    value = recorded.get(name)
    return value if type(value) is kind and (not choices or value in choices) else None
