"""Exports checkpoints to PyTorch and safetensors files."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from nsneg_jax import pretrained
from nsneg_jax.errors import UsageError
from nsneg_jax.methods.moco import queue_pointer
from nsneg_jax.pytorch import files as torch_file
from nsneg_jax.pytorch import states as official
from nsneg_jax.pytorch.layouts import KEY, MODULE, QUERY
from nsneg_jax.pytorch.momentum import write_momentum
from nsneg_jax.pytorch.names import counter_names, to_state_dict, to_torch_layout
from nsneg_jax.pytorch.states import RECORD
from nsneg_jax.training.checkpoints import checkpoint

_OFFICIAL_SETTINGS = {"lr": 0.03, "momentum": 0.9, "weight_decay": 1e-4}
_UNKNOWN_TO_TORCHVISION = (
    "note       torchvision has no such network (arch, width and stem): its names are continued"
)


def export(path: Path, out: Path) -> str:
    """Writes a checkpoint as a file of PyTorch or safetensors.

    Args:
        path: a workdir, for its latest checkpoint, or a checkpoint folder.
        out: file to write. Suffix .pth or .pth.tar writes the original's dict; .safetensors writes
            the query encoder's backbone (and a probe's fc) under torchvision's names.

    Returns:
        A summary of several lines.

    Raises:
        UsageError: the checkpoint cannot be read, or the suffix or folder of `out` is wrong.
    """
    if not out.name.endswith((*torch_file.TORCH_SUFFIXES, torch_file.SAFETENSORS_SUFFIX)):
        raise UsageError(f"{out} must end in .safetensors, .pth or .pth.tar.")
    if not out.parent.is_dir():
        raise UsageError(f"There is no folder {out.parent} to write {out.name} into.")
    folder = checkpoint.find_checkpoint(path)
    state, progress = checkpoint.read_checkpoint(folder)
    double = progress.get("model", {}).get("dtype") == "float64"
    source = pretrained.load_pretrained(folder, "float64" if double else "float32")
    origin = progress.get("official")
    notes: list[str] = []
    if out.name.endswith(torch_file.SAFETENSORS_SUFFIX):
        keys = _write_backbone(source, out)
    else:
        if pretrained.kind_of(state, folder) == pretrained.PRETRAINING:
            content, notes = _pretraining_content(state, progress, origin)
        else:
            content = _probe_content(source, progress, origin)
        torch_file.write_torch(out, content | {"arch": source.model["arch"]})
        keys = len(content["state_dict"])
    if not official.in_torchvision(source.model):
        notes += [_UNKNOWN_TO_TORCHVISION]
    lines = [f"found      {source.origin}: {source.model['arch']}", f"keys       {keys}", *notes]
    return "\n".join([*lines, f"written    {out}"])


def _pretraining_content(
    state: dict[str, Any], progress: dict[str, Any], origin: dict[str, Any] | None
) -> tuple[dict[str, Any], list[str]]:
    """Returns what the original's script would save, and notes.

    `origin` is the import's record if the state was not trained since.
    """
    step, batch_size = int(state["step"]), progress["batch_size"]
    queue = state["queue"]
    encoders = {
        QUERY: to_state_dict(state["params_q"], state["stats_q"]),
        KEY: to_state_dict(state["params_k"], state["stats_k"]),
    }
    parameters = official.parameter_names(encoders[QUERY])
    if origin:
        prefix, epoch, counters = origin["prefix"], origin["epoch"], origin["counters"]
        pointer, images = origin["pointer"], origin["images"]
        queue = np.roll(queue, -origin["roll"], axis=0)
        settings = origin["settings"] or _OFFICIAL_SETTINGS
    else:
        prefix, images = MODULE, progress["images"]
        epoch = step // (images // batch_size)
        pointer = int(queue_pointer(step, batch_size, len(queue)))
        passes = {QUERY: step, KEY: step * (1 + progress["negatives"])}
        counters = {
            f"{prefix}{part}{name}": passes[part]
            for part, arrays in encoders.items()
            for name in counter_names(arrays)
        }
        optimizer = progress["optimizer"]
        settings = {
            "lr": optimizer["learning_rate"],  # the original sets it in every epoch
            "momentum": optimizer["momentum"],
            "weight_decay": optimizer["weight_decay"],
        }
    # The structure of optax.chain(add_decayed_weights, sgd), see methods/optimizer.py.
    trace = state["opt_state"][1][0]["trace"]
    content = {
        "epoch": epoch,
        "state_dict": official.assemble(encoders, prefix, counters, queue.T, pointer),
        "optimizer": write_momentum(to_state_dict(trace), settings, 2 * len(parameters)),
        RECORD: {
            "model": progress["model"],
            "step": step,
            "batch_size": batch_size,
            "images": images,
        },
    }
    notes = []
    if not origin and step % (images // batch_size):
        notes.append(f"note       step {step} is in the middle of epoch {epoch + 1}, which the")
        notes.append("           original, counting in epochs, would begin again")
    if len(queue) % batch_size:
        notes.append(
            f"note       the original refuses a queue of {len(queue)}, which its batches of"
        )
        notes.append(f"           {batch_size} do not divide")
    return content, notes


def _probe_content(
    source: pretrained.Pretrained, progress: dict[str, Any], origin: dict[str, Any] | None
) -> dict[str, Any]:
    prefix = origin["prefix"] if origin else MODULE
    arrays = _backbone(source)
    zeros = {f"{prefix}{name}": 0 for name in counter_names(arrays)}
    return {
        "epoch": origin["epoch"] if origin else progress.get("epoch", 0),
        "state_dict": official.assemble(
            {"": arrays}, prefix, origin["counters"] if origin else zeros
        ),
        RECORD: {"model": source.model},
    }


def _write_backbone(source: pretrained.Pretrained, out: Path) -> int:
    arrays = _backbone(source)
    state_dict = official.assemble({"": arrays}, "", dict.fromkeys(counter_names(arrays), 0))
    metadata = {"arch": source.model["arch"], RECORD: json.dumps({"model": source.model})}
    torch_file.write_safetensors(out, state_dict, metadata)
    return len(state_dict)


def _backbone(source: pretrained.Pretrained) -> official.Arrays:
    """Returns the backbone, and a probe's fc, under torchvision's names."""
    arrays = to_state_dict(source.params, source.stats)
    if source.classifier is not None:
        arrays["fc.weight"] = to_torch_layout(source.classifier["kernel"])
        arrays["fc.bias"] = source.classifier["bias"]
    return arrays
