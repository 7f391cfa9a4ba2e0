"""Writes an encoder as a folder that timm and the Hugging Face hub read."""

import json
import os
import tempfile
from pathlib import Path

from nsneg_jax.embedding import Pretrained
from nsneg_jax.errors import UsageError
from nsneg_jax.files import sync, write_json, write_safetensors, write_text
from nsneg_jax.pytorch import states
from nsneg_jax.pytorch.hub import history, layout
from nsneg_jax.pytorch.hub.card import card
from nsneg_jax.pytorch.states import RECORD, Arrays
from nsneg_jax.pytorch.transformers.model import is_transformer


def check_free(out: Path) -> None:
    """Raises UsageError unless a folder can be made at `out`, or is there and empty."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        what = "is not empty" if out.is_dir() else "is a file"
        raise UsageError(
            f"{out} {what}, and nothing there is replaced: its model card may have been edited. "
            "Give another folder, or remove that one."
        )


def write_folder(source: Pretrained, checkpoint: Path, state_dict: Arrays, out: Path) -> None:
    """Writes weights, config.json and the model card, all or nothing.

    Args:
        source: the encoder.
        checkpoint: the checkpoint folder that it was read from.
        state_dict: its backbone, and a probe's fc, under torchvision's names.
        out: folder, missing or empty.

    Raises:
        UsageError: there is something at `out`.
    """
    check_free(out)
    features = _features(state_dict)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        partial = Path(scratch, out.name)
        partial.mkdir()
        write_safetensors(partial / layout.WEIGHTS, state_dict, metadata_of(source))
        write_json(partial / layout.CONFIG, layout.config_of(source, features))
        text = card(source, history.read(checkpoint), out.name, features)
        write_text(partial / layout.CARD, text)
        if out.exists():
            out.rmdir()
        os.replace(partial, out)
        sync(out.parent)


def metadata_of(source: Pretrained) -> dict[str, str]:
    """Returns the metadata of an encoder's safetensors file."""
    return {
        "arch": source.model["arch"],
        "format": "pt",  # asked for by some readers; the layouts are PyTorch's
        RECORD: json.dumps(layout.record_of(source)),
    }


def _features(state_dict: Arrays) -> int:
    """Returns the length of the features, from the last norm."""
    if is_transformer(state_dict):
        return len(state_dict["norm.weight"])
    names = [n for n in state_dict if n.endswith("running_mean") and "downsample" not in n]
    return len(state_dict[states.in_torch_order(names)[-1]])
