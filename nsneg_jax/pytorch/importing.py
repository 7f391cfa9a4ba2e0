"""Imports PyTorch files as checkpoints that jobs of this package can use."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nsneg_jax import models
from nsneg_jax.errors import UsageError
from nsneg_jax.methods.moco import TrainState, queue_pointer
from nsneg_jax.methods.optimizer import sgd
from nsneg_jax.models.encoder import PRECISIONS
from nsneg_jax.pytorch import files as torch_file
from nsneg_jax.pytorch import states as official
from nsneg_jax.pytorch.hub import layout
from nsneg_jax.pytorch.layouts import KEY, QUERY, find_state_dict
from nsneg_jax.pytorch.momentum import read_momentum
from nsneg_jax.pytorch.names import from_state_dict, from_torch_layout
from nsneg_jax.pytorch.states import RECORD, Found
from nsneg_jax.training.checkpoints import checkpoint
from nsneg_jax.training.metrics import Window
from nsneg_jax.training.workdir import CHECKPOINTS

# Fields that no state dict shows.
_UNSEEN = ("bn_groups", "bn_running", "dtype", "precision")

IMAGES, BATCH_SIZE = 126_689, 128  # ImageNet-100's training set; the paper's Table 1


def import_file(
    path: Path,
    workdir: Path,
    images: int | None = None,
    batch_size: int | None = None,
    stem: str | None = None,
    heads: int | None = None,
) -> str:
    """Writes the checkpoint of a PyTorch or safetensors file into `workdir`.

    Args:
        path: the file, or a folder for timm and the Hugging Face hub.
        workdir: folder, made if missing; must not hold checkpoints.
        images, batch_size: number of images and batch size of the run, to convert epochs to steps;
            by default as recorded in a file of ours, else IMAGES and BATCH_SIZE.
        stem, heads: see `states.recognise`; by default as recorded in a file of ours.

    Returns:
        A summary of several lines.

    Raises:
        UsageError: the file is refused, or `workdir` holds checkpoints. Nothing is written.
    """
    _check_free(workdir)
    found, around, record = recognise_file(path, stem, heads)
    epoch = _epoch(around.get("epoch", 0), found, path)
    origin: dict[str, Any] = {
        "file": path.name,
        "kind": found.kind,
        "prefix": found.prefix,
        "epoch": epoch,
        "counters": found.counters,
    }
    lines = [
        f"found      {_described(found)}",
        f"layout     {found.layout}",
        f"keys       {_key_count(found)}, all accounted for",
        *_notes(found),
    ]
    state: TrainState | dict[str, Any]
    progress: dict[str, Any]
    if found.kind == official.PRETRAINING:
        step, batch_size, images, said = _step(record, epoch, images, batch_size)
        momentum, without = _momentum(around, found, path)
        state, roll = _train_state(found, momentum, step, batch_size)
        origin |= {"pointer": found.pointer, "roll": roll, "images": images}
        origin["settings"] = None if momentum is None else _settings(around)
        progress = {"window": Window().totals(), "images": None, "batch_size": batch_size}
        progress |= recorded_views(record)
        said_of_momentum = f"{without}; starts from zero" if without else "the file's"
        lines += [
            f"momentum   {said_of_momentum}",
            f"step       {step:,} = {said}",
            # The learning rate of each recipe belongs to its own batch size.
            f"go on      nsneg pretrain --config=patch{':paper' * (batch_size == 128)} "
            + " ".join(_flags(found, workdir, batch_size)),
        ]
    else:
        step, state = 0, _probe_state(found)
        names = recorded_classes(record, classifier_of(found.encoders[""]))
        progress = {"chosen": 0, **recorded_views(record)}
        progress["classes"] = list(names) if names else None
        if "best" in state and names is None:
            lines.append(
                "classes    the file names none; jobs that classify find them in their test data,\n"
                "           or take them from --config.classes=FILE"
            )
        lines.append(f"train on   nsneg pretrain --config=patch {_backbone_flags(found, workdir)}")
    with checkpoint.Checkpoints(workdir, keep=1) as checkpoints:
        checkpoints.save(step, state, progress | {"model": found.model, "official": origin})
        folder = checkpoints.folder / str(step)
    lines.append(f"written    {folder}")
    return "\n".join(lines)


def recognise_file(
    path: Path, stem: str | None = None, heads: int | None = None
) -> tuple[Found, dict[str, Any], dict[str, Any]]:
    """Recognises the contents of a PyTorch or safetensors file, see `states.recognise`.

    Args:
        path: the file, or a folder of `hub.layout` with one.
        stem, heads: see `states.recognise`; by default as recorded in a file of ours.

    Returns:
        The state dict; the dict around it, empty without one; and our record in that, empty if the
        file is not ours.

    Raises:
        UsageError: the file is refused.
    """
    beside: dict[str, Any] = {}
    arch: str | None = None
    if layout.is_hub_folder(path):
        beside, arch = layout.read_config(path)
        path = path / layout.WEIGHTS
    content = torch_file.read(path)
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds a {type(content).__name__}, not a dict with a state dict.")
    state_dict, entry = find_state_dict(content)
    around = content if entry else {}
    record = _own_record(around) or beside
    found = official.recognise(
        state_dict,
        str(path),
        arch=around.get("arch", arch),
        stem=stem or _fields(record.get("model")).get("stem"),
        around=around,
        entry=entry,
        recorded=_fields(record.get("model")),
        heads=heads,
    )
    for name in ("bn_groups", "bn_running"):
        before = _fields(record.get("model")).get(name)
        if type(before) is type(found.model[name]):
            found.model[name] = before
    precision = _fields(record.get("model")).get("precision")
    if precision in PRECISIONS:
        found.model["precision"] = precision
    return found, around, record


def _check_free(workdir: Path) -> None:
    folder = workdir / CHECKPOINTS
    if workdir.exists() and not workdir.is_dir():
        raise UsageError(f"{workdir} is a file. Give a folder for the checkpoint.")
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(
            f"{folder} already holds checkpoints. Give another folder, or move that one away."
        )


def _train_state(
    found: Found, momentum: official.Arrays | None, step: int, batch_size: int
) -> tuple[TrainState, int]:
    """Returns the pre-training state, and the rows by which its queue was rolled to fit ours."""
    trees = {
        part: [from_state_dict(arrays, like) for like in (found.params, found.stats)]
        for part, arrays in found.encoders.items()
    }
    queue, before = found.filled_queue()
    pointer = int(queue_pointer(step, batch_size, queue.shape[1]))
    roll = (pointer - before) % queue.shape[1]
    if momentum is None:
        trace = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), found.params)
    else:
        trace = from_state_dict(momentum, found.params)
    optimizer = sgd(lambda count: 0.0, momentum=0.9, weight_decay=0.0)
    with jax.enable_x64(True):
        decay, (sgd_trace, schedule) = jax.eval_shape(optimizer.init, found.params)
    schedule = schedule._replace(count=np.array(step, np.int32))
    return (
        TrainState(
            # on the host, in the file's dtypes whatever JAX is set to
            step=np.array(step, np.int32),  # type: ignore[arg-type]
            params_q=trees[QUERY][0],
            stats_q=trees[QUERY][1],
            params_k=trees[KEY][0],
            stats_k=trees[KEY][1],
            queue=np.roll(queue.T, roll, axis=0),  # type: ignore[arg-type]
            opt_state=(decay, (sgd_trace._replace(trace=trace), schedule)),
        ),
        roll,
    )


def _probe_state(found: Found) -> dict[str, Any]:
    arrays = found.encoders[""]
    state: dict[str, dict[str, Any]] = {
        "backbone": {
            "params": from_state_dict(arrays, found.params),
            "stats": from_state_dict(arrays, found.stats),
        }
    }
    classifier = classifier_of(arrays)
    if classifier is not None:
        state["best"] = {name: array[None] for name, array in classifier.items()}
    return state


def classifier_of(arrays: official.Arrays) -> dict[str, np.ndarray] | None:
    """Returns 'kernel' [F, C] and 'bias' [C] of a state dict's `fc`; None without one."""
    if "fc.weight" not in arrays:
        return None
    kernel = np.ascontiguousarray(from_torch_layout(arrays["fc.weight"]))
    return {"kernel": kernel, "bias": arrays["fc.bias"]}


def recorded_views(record: Mapping[str, Any]) -> dict[str, int]:
    """Returns image size and resize of a record, if they are numbers of pixels."""
    views = {name: record.get(name) for name in ("image_size", "resize")}
    return {name: v for name, v in views.items() if type(v) is int and v >= (name != "resize")}


def recorded_classes(
    record: Mapping[str, Any], classifier: Mapping[str, Any] | None
) -> tuple[str, ...] | None:
    """Returns the names of a classifier's classes in a record, if there is one per output."""
    names = record.get("classes")
    if classifier is None or not isinstance(names, list):
        return None
    fits = len(names) == len(classifier["bias"]) and all(isinstance(n, str) for n in names)
    return tuple(names) if fits else None


def _momentum(
    around: dict[str, Any], found: Found, path: Path
) -> tuple[official.Arrays | None, str]:
    """Returns the momentum buffers; or None, and why there are none."""
    if "optimizer" not in around:
        return None, "none in the file"
    query = found.encoders[QUERY]
    parameters = {name: query[name] for name in official.parameter_names(found.params)}
    return read_momentum(around["optimizer"], parameters, str(path))


def _settings(around: dict[str, Any]) -> dict[str, Any]:
    """Returns the plain settings of the optimiser."""
    group = around["optimizer"]["param_groups"][0]
    return {k: v for k, v in group.items() if isinstance(v, bool | int | float | str | None)}


def _step(
    record: dict[str, Any], epoch: int, images: int | None, batch_size: int | None
) -> tuple[int, int, int, str]:
    """Returns steps done, batch size, images, and how the steps were found."""
    step: int | None
    size: int
    count: int
    own: list[Any] = [record.get(name) for name in ("step", "batch_size", "images")]
    if images is None and batch_size is None and all(type(value) is int for value in own):
        step, size, count = own
        said = "as the file says"
    else:
        count = IMAGES if images is None else images
        size = BATCH_SIZE if batch_size is None else batch_size
        step = None
    _whole(size, "--batch_size", 1)
    _whole(count, "--images", size)
    if step is None:
        step = epoch * (count // size)
        said = (
            f"epoch {epoch} x {count // size:,} steps ({count:,} images in batches of "
            f"{size});\n           --images and --batch_size change it"
        )
    return _whole(step, "The step", 0), size, count, said


def _whole(value: Any, name: str, smallest: int) -> int:
    if type(value) is not int or not smallest <= value < 2**31:
        raise UsageError(f"{name} is {value!r}, but must be a whole number, at least {smallest}.")
    return value


def _epoch(value: Any, found: Found, path: Path) -> int:
    """Returns the epochs done; for files of other programs 0 where they say nothing of use."""
    if found.kind == official.PRETRAINING:
        return _whole(value, f"'epoch' in {path}", 0)
    return value if type(value) is int and 0 <= value < 2**31 else 0


def _own_record(around: dict[str, Any]) -> dict[str, Any]:
    record = around.get(RECORD)
    if isinstance(record, str):  # metadata of safetensors are strings
        try:
            record = json.loads(record)
        except ValueError:
            return {}
    return _fields(record)


def _fields(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _described(found: Found) -> str:
    model = found.model
    text = f"{found.kind}: {model['arch']}"
    text += "" if model["width"] == 64 else f", width {model['width']}"
    if found.kind == official.PRETRAINING:
        head = "mlp head" if model["mlp"] else "linear head"
        return f"{text}, {head}, dim {model['dim']}, queue of {found.filled_queue()[0].shape[1]:,}"
    fc = found.encoders[""].get("fc.bias")
    return f"{text}, " + ("without fc" if fc is None else f"fc of {len(fc):,} classes")


def _notes(found: Found) -> list[str]:
    lines = []
    if found.passed:
        listed = ", ".join(f"{group}.* ({count})" for group, count in found.passed.items())
        lines.append(f"passed     {sum(found.passed.values())} entries beside it: {listed}")
    if found.converted:
        lines.append(f"converted  from {found.converted} to {found.model['dtype']}, exactly")
    return lines


def _key_count(found: Found) -> int:
    own = sum(map(len, found.encoders.values())) + len(found.counters or ())
    return own + (2 if found.kind == official.PRETRAINING else 0)


def _flags(found: Found, workdir: Path, batch_size: int) -> list[str]:
    """Returns the flags with which pre-training fits the checkpoint."""
    model = found.model
    own = [name for name in model if name not in _UNSEEN]
    fields = [f"model.{name}={model[name]}" for name in own]
    fields += [f"moco.queue_size={found.filled_queue()[0].shape[1]}", f"batch_size={batch_size}"]
    return [f"--workdir={workdir}", *(f"--config.{field}" for field in fields)]


def _backbone_flags(found: Found, workdir: Path) -> str:
    """Returns the flags of a new pre-training that begins with the checkpoint."""
    settings = {"arch": found.model["arch"]} | models.backbone_settings(**found.model)
    fields = [f"--config.model.{name}={value}" for name, value in settings.items()]
    return " ".join([f"--workdir={workdir}-on", f"--config.pretrained={workdir}", *fields])
