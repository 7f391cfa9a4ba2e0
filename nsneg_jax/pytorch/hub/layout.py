"""The folder that timm and the Hugging Face hub read: names of its files, and config.json."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nsneg_jax.embedding import Pretrained
from nsneg_jax.errors import UsageError, printable
from nsneg_jax.files import read_json
from nsneg_jax.input.labelled import scaled_resize
from nsneg_jax.methods.views import IMAGENET_MEAN, IMAGENET_STD
from nsneg_jax.models.transformers import vit
from nsneg_jax.pytorch.states import RECORD
from nsneg_jax.pytorch.transformers.model import timm_settings
from nsneg_jax.pytorch.transformers.names import HEAD
from nsneg_jax.training.workdir import CHECKPOINTS

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
_STRIDE = 32  # of timm's networks, from an image to the last stage
_WHOLE = 224  # `resize` that shows square pictures whole
_RECORDED = ("image_size", "resize", "classes")


def is_hub_folder(path: Path) -> bool:
    """Returns whether a folder has weights in this layout, and no checkpoints of a run."""
    return (path / WEIGHTS).is_file() and not (path / CHECKPOINTS).exists()


def record_of(source: Pretrained) -> dict[str, Any]:
    """Returns what a file keeps of an encoder besides its weights: model, views and classes."""
    record: dict[str, Any] = {"model": source.model}
    for name in _RECORDED:
        value = getattr(source, name)
        if value is not None:
            record[name] = list(value) if isinstance(value, tuple) else value
    return record


def config_of(source: Pretrained, features: int) -> dict[str, Any]:
    """Returns config.json of an encoder.

    Args:
        source: the encoder.
        features: length of its features.
    """
    outputs = 0 if source.classifier is None else len(source.classifier["bias"])
    is_vit = source.model["arch"] in vit.ARCHS
    views: dict[str, Any] = {}
    if source.image_size is not None and source.resize is not None:
        size = source.image_size
        short = scaled_resize(source.resize, size) or size
        pooled = -(-size // _STRIDE)
        views = {
            "input_size": [3, size, size],
            "pool_size": None if is_vit else [pooled, pooled],
            "crop_pct": _part(size, short),
            "crop_mode": "center",
        }
    return {
        "architecture": source.model["arch"],
        "num_classes": outputs,
        "num_features": features,
        "global_pool": "avg",
        **(timm_settings(source.model, source.image_size) if is_vit else {}),
        **({"label_names": list(source.classes)} if source.classes else {}),
        "pretrained_cfg": {
            "custom_load": False,
            **views,
            "fixed_input_size": is_vit,
            "interpolation": "bilinear",
            "mean": list(IMAGENET_MEAN),
            "std": list(IMAGENET_STD),
            "num_classes": outputs,
            "first_conv": "patch_embed.proj" if is_vit else "conv1",
            "classifier": HEAD if is_vit else "fc",
        },
        RECORD: record_of(source),
    }


def read_config(folder: Path) -> tuple[dict[str, Any], str | None]:
    """Reads what config.json says of an encoder, whichever program wrote it.

    Args:
        folder: see `is_hub_folder`.

    Returns:
        A record like that of `record_of`, and the name of the network; {} and None without the
        file.

    Raises:
        UsageError: the file is damaged, or names a network or a normalisation of another kind.
    """
    path = folder / CONFIG
    if not path.exists():
        return {}, None
    config = read_json(path, "Get the folder again.")
    if isinstance(config.get(RECORD), dict):
        return config[RECORD], None
    settings = config.get("pretrained_cfg", config)
    arch = config.get("architecture")
    if not isinstance(settings, dict) or not isinstance(arch, str):
        # of another library; the keys of the weights decide
        return {}, None
    if config.get("model_args"):
        raise UsageError(
            f"{path} changes the network {arch!r} by model_args="
            f"{printable(json.dumps(config['model_args']))}. Only plain networks can be loaded."
        )
    for name, ours in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
        if settings.get(name) not in (None, list(ours)):
            raise UsageError(
                f"{path} has {name}={settings[name]!r}, but images are normalised with {ours} "
                "here, so that features would differ. Give an encoder with ImageNet's values."
            )
    return _views(settings) | _classes(config, settings), arch


def _part(size: int, short: int) -> float:
    """Returns crop_pct, of which timm makes the shorter side by rounding size / crop_pct down."""
    part = size / short
    return part if math.floor(size / part) == short else math.nextafter(part, 0)


def _views(settings: Mapping[str, Any]) -> dict[str, int]:
    try:
        size = int(settings["input_size"][-1])
        return {"image_size": size, "resize": round(_WHOLE / float(settings["crop_pct"]))}
    except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError):
        return {}


def _classes(config: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, list[str]]:
    names = config.get("label_names", settings.get("label_names"))
    return {"classes": [str(name) for name in names]} if isinstance(names, list) else {}
