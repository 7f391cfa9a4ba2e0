"""What a run's files say of an encoder: settings, data, hardware, figures."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nsneg_jax.errors import UsageError
from nsneg_jax.files import json_lines, json_object
from nsneg_jax.input.sources.source import data_set_name
from nsneg_jax.training.checkpoints import checkpoint
from nsneg_jax.training.workdir import CHECKPOINTS, CONFIG, METRICS, RESULTS, STARTS, step_folders

_PROBED = "best_accuracy_top1"  # of the classifier that an export has
# Accuracies along a pre-training, in metrics.jsonl.
_MEASURED = {
    "knn_20": "20 nearest neighbours, top-1",
    "knn_200": "200 nearest neighbours, top-1",
    "probe_top1": "linear probe along the training, top-1",
    "probe_top5": "linear probe along the training, top-5",
}


@dataclass(frozen=True)
class History:
    """What is known of an encoder; what is not known is empty.

    Attributes:
        step: steps of the pre-training; None if unknown.
        config: config of the pre-training, nested dicts.
        images: number of its training images; None if unknown.
        start: last entry of its starts.jsonl.
        imported: file that the pre-training was imported from, or ''.
        started_from: weights that the pre-training began with, or '' for initial ones.
        probe: config of the linear probe, nested dicts.
        figures: (what, value in %, note) of the checkpoint.
    """

    step: int | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    images: int | None = None
    start: Mapping[str, Any] = field(default_factory=dict)
    imported: str = ""
    started_from: str = ""
    probe: Mapping[str, Any] = field(default_factory=dict)
    figures: tuple[tuple[str, float, str], ...] = ()


def read(folder: Path) -> History:
    """Reads what is known of a checkpoint.

    Args:
        folder: a checkpoint folder of a pre-training or a linear probe, in its workdir or copied.
    """
    progress = checkpoint.read_progress(folder)
    own = _config(folder, progress)
    if "chosen" not in progress:
        return _of_pretraining(folder, progress, own)
    before = History(imported=_imported(progress))
    with contextlib.suppress(KeyError, UsageError):  # the run is gone, or was moved
        before = _of_encoder(str(own["pretrained"]), str(progress["encoder"]))
    return replace(before, probe=own, figures=before.figures + _of_probe(folder, own))


def _of_encoder(path: str, origin: str) -> History:
    """Reads what is known of a probe's encoder.

    Args:
        path: workdir or checkpoint of its pre-training.
        origin: workdir and step of the encoder, as the probe records it.
    """
    folders = checkpoint.all_checkpoints(path)
    step = origin.rpartition(", step ")[2]
    folder = next((each for each in folders if each.name == step), folders[-1])
    progress = checkpoint.read_progress(folder)
    if "chosen" in progress:  # a probe of a probe's encoder
        return History(imported=_imported(progress))
    found = _of_pretraining(folder, progress, _config(folder, progress))
    return found if folder.name == step else replace(found, step=None, figures=())


def _of_pretraining(
    folder: Path, progress: Mapping[str, Any], config: Mapping[str, Any]
) -> History:
    step = int(folder.name) if folder.name.isdecimal() else None
    return History(
        step=step,
        config=config,
        images=progress.get("images"),
        start=(_lines(folder, STARTS) or [{}])[-1],
        imported=_imported(progress),
        started_from=str(progress.get("starts_from", "")).rpartition("/")[2],
        figures=_measured(folder, step),
    )


def _config(folder: Path, progress: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the config in a checkpoint, else that in the workdir."""
    kept = progress.get("config")
    if isinstance(kept, Mapping):
        return kept
    workdir = _workdir(folder)
    return {} if workdir is None else json_object(workdir / CONFIG)


def _imported(progress: Mapping[str, Any]) -> str:
    return str((progress.get("official") or {}).get("file", ""))


def _of_probe(folder: Path, config: Mapping[str, Any]) -> tuple[tuple[str, float, str], ...]:
    """Returns the figures in results.json, which are of the newest checkpoint."""
    workdir = _workdir(folder)
    if workdir is None or step_folders(folder.parent)[-1] != folder:
        return ()
    results = json_object(workdir / RESULTS)
    value = results.get(_PROBED)
    if not isinstance(value, int | float):
        return ()
    data = config.get("data", {})
    note = f"{named(data.get('source', ''))}, split {data.get('eval_split', '')}"
    return (("linear probe, top-1", float(value), note),)


def named(source: str) -> str:
    """Names a data set without the folders above it, which are of one machine."""
    return data_set_name(source) if source else "unknown"


def _measured(folder: Path, step: int | None) -> tuple[tuple[str, float, str], ...]:
    """Returns the last accuracies along the training up to a step."""
    if step is None:
        return ()
    measured = [
        line
        for line in _lines(folder, METRICS)
        if isinstance(line.get("step"), int)
        and line["step"] <= step
        and _MEASURED.keys() & line.keys()
    ]
    if not measured:
        return ()
    note = f"measured at step {measured[-1]['step']:,}"
    return tuple(
        (title, float(measured[-1][name]), note)
        for name, title in _MEASURED.items()
        if isinstance(measured[-1].get(name), int | float)
    )


def _lines(folder: Path, name: str) -> list[dict[str, Any]]:
    """Returns the objects in a file of JSON lines of a checkpoint's run; [] if there is none."""
    workdir = _workdir(folder)
    return [] if workdir is None else json_lines(workdir / name)


def _workdir(folder: Path) -> Path | None:
    return folder.parent.parent if folder.parent.name == CHECKPOINTS else None
