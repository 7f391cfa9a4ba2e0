"""Exports checkpoints to PyTorch and safetensors files, hub folders and StableHLO programs."""

from pathlib import Path
from typing import Any

import numpy as np

from nsneg_jax import pretrained
from nsneg_jax.errors import UsageError
from nsneg_jax.files import check_writable, write_safetensors
from nsneg_jax.methods.moco import queue_pointer
from nsneg_jax.models.transformers import vit
from nsneg_jax.pytorch import files as torch_file
from nsneg_jax.pytorch import states as official
from nsneg_jax.pytorch.hub import folder as hub
from nsneg_jax.pytorch.hub import layout as hub_layout
from nsneg_jax.pytorch.layouts import KEY, MODULE, QUERY
from nsneg_jax.pytorch.momentum import write_momentum
from nsneg_jax.pytorch.names import counter_names, to_state_dict, to_torch_layout
from nsneg_jax.pytorch.states import RECORD
from nsneg_jax.pytorch.transformers.model import in_timm_form, is_transformer
from nsneg_jax.stablehlo import program as stablehlo
from nsneg_jax.training.checkpoints import checkpoint

_OFFICIAL_SETTINGS = {"lr": 0.03, "momentum": 0.9, "weight_decay": 1e-4}
_SGD = "sgd"
_UNKNOWN_TO_TORCHVISION = (
    "note       torchvision has no such network (arch, width and stem): its names are continued"
)
_NO_QUEUE = "note       the method has no queue, as the original's states have: the backbone alone"
_UNKNOWN_TRANSFORMER = (
    "note       timm has no such network (arch, width, blocks and tokens): its names are continued"
)
_UNKNOWN_TO_TIMM = (
    "note       timm has no such network (arch, width and stem): only load_pretrained reads it"
)


def export(path: Path, out: Path, image_size: int | None = None, resize: int | None = None) -> str:
    """Writes a checkpoint for other programs.

    Args:
        path: a workdir, for its latest checkpoint, or a checkpoint folder.
        out: where to write. A name without a suffix becomes a folder that timm and the Hugging Face
            hub read. Suffix .stablehlo writes a program of the encoder, .safetensors the query
            encoder's backbone (and a probe's classifier) under torchvision's or timm's names, .pth
            or .pth.tar the original's dict.
        image_size, resize: see `pretrained.load_pretrained`.

    Returns:
        A summary of several lines.

    Raises:
        UsageError: the checkpoint cannot be read, or the suffix or folder of `out` is wrong.
        RunError: a StableHLO program differs from the encoder.
    """
    as_folder = _check_out(out)
    folder = checkpoint.find_checkpoint(path)
    state, progress = checkpoint.read_checkpoint(folder)
    is_program = out.name.endswith(stablehlo.SUFFIX)
    double = progress.get("model", {}).get("dtype") == "float64" and not is_program
    source = pretrained.load_pretrained(
        folder, "float64" if double else "float32", image_size=image_size, resize=resize
    )
    origin = progress.get("official")
    notes: list[str] = []
    if is_program:
        written = stablehlo.write(source, out)
        notes += [
            f"program    uint8 [N, {written.image_size}, {written.image_size}, 3] to float32 "
            f"[N, {written.features}], for {', '.join(stablehlo.PLATFORMS)}",
            f"checked    read back, on the CPU: off by {written.difference:.1e} of the largest",
        ]
    elif as_folder or out.name.endswith(torch_file.SAFETENSORS_SUFFIX):
        state_dict = _backbone_dict(source)
        if as_folder:
            hub.write_folder(source, folder, state_dict, out)
        else:
            write_safetensors(out, state_dict, hub.metadata_of(source))
        notes.append(f"keys       {len(state_dict)}")
    else:
        if "queue" in state:
            content, notes = _pretraining_content(state, progress, origin)
        else:
            content = _probe_content(source, progress, origin)
            if pretrained.kind_of(state, folder) == pretrained.PRETRAINING:
                notes.append(_NO_QUEUE)
        content[RECORD] = hub_layout.record_of(source) | content[RECORD]
        torch_file.write_torch(out, content | {"arch": source.model["arch"]})
        notes.insert(0, f"keys       {len(content['state_dict'])}")
    if not is_program and not official.in_torchvision(source.model):
        is_vit = source.model["arch"] in vit.ARCHS
        unknown = _UNKNOWN_TRANSFORMER if is_vit else _UNKNOWN_TO_TORCHVISION
        notes += [_UNKNOWN_TO_TIMM if as_folder and not is_vit else unknown]
    if as_folder:
        notes.append(f"to do      choose a licence in the first lines of {out / hub_layout.CARD}")
    lines = [f"found      {source.origin}: {source.model['arch']}", *notes]
    return "\n".join([*lines, f"written    {out}"])


def _check_out(out: Path) -> bool:
    """Checks where to write; returns whether it is a folder.

    Raises:
        UsageError: the suffix is unknown, or nothing can be written there.
    """
    suffixes = (*torch_file.TORCH_SUFFIXES, torch_file.SAFETENSORS_SUFFIX, stablehlo.SUFFIX)
    as_folder = not out.name.endswith(suffixes)
    if as_folder and out.suffix:
        raise UsageError(
            f"{out} must end in {', '.join(suffixes)}, or have no '.' in its name: then it "
            "becomes a folder for timm and the Hugging Face hub."
            + (
                " ONNX is not written: .stablehlo is the form for other runtimes."
                if out.suffix == ".onnx"
                else ""
            )
        )
    if not out.parent.is_dir():
        raise UsageError(f"There is no folder {out.parent} to write {out.name} into.")
    if as_folder:
        hub.check_free(out)
    else:
        check_writable(out, "OUT")
    return as_folder


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
    parameters = to_state_dict(state["params_q"])
    if origin:
        prefix, epoch, counters = origin["prefix"], origin["epoch"], origin["counters"]
        pointer, images = origin["pointer"], origin["images"]
        queue = np.roll(queue, -origin["roll"], axis=0)
        settings = origin["settings"] or _OFFICIAL_SETTINGS
    else:
        prefix, images = MODULE, progress["images"]
        epoch = step // (images // batch_size)
        moco = progress.get("config", {}).get("moco", {})
        views = 2 if moco.get("symmetric") else 1  # that are queries
        pointer = int(queue_pointer(step, views * batch_size, len(queue)))
        passes = {QUERY: views * step, KEY: views * step * (1 + progress["negatives"])}
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
    content = {
        "epoch": epoch,
        "state_dict": official.assemble(encoders, prefix, counters, queue.T, pointer),
        RECORD: {
            "model": progress["model"],
            "step": step,
            "batch_size": batch_size,
            "images": images,
        },
    }
    notes = []
    name = progress.get("optimizer", {}).get("name", _SGD)
    if name == _SGD:
        # The structure of optax.chain(add_decayed_weights, sgd), see methods/optimizer.py.
        kept = state["opt_state"]
        anchored = isinstance(kept, dict)
        trace = to_state_dict((kept["inner"] if anchored else kept)[1][0]["trace"])
        if anchored:
            notes.append("note       the anchor is left out: the original has none")
        content["optimizer"] = write_momentum(trace, settings, 2 * len(parameters))
    else:
        notes.append(
            f"note       the state of the optimiser {name!r} is left out: the original has"
        )
        notes.append("           SGD, whose momentum would start from zero")
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


def _backbone_dict(source: pretrained.Pretrained) -> official.Arrays:
    """Returns the backbone, and a probe's fc, in PyTorch's order, with its counters."""
    arrays = _backbone(source)
    return official.assemble({"": arrays}, "", dict.fromkeys(counter_names(arrays), 0))


def _backbone(source: pretrained.Pretrained) -> official.Arrays:
    """Returns the backbone, and a probe's classifier, under torchvision's or timm's names."""
    arrays = to_state_dict(source.params, source.stats)
    if source.classifier is not None:
        arrays["fc.weight"] = to_torch_layout(source.classifier["kernel"])
        arrays["fc.bias"] = source.classifier["bias"]
    return in_timm_form(arrays, source) if is_transformer(arrays) else arrays
