"""The folder of a run: the names of its files, and the config that it belongs to."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nsneg_jax.errors import UsageError
from nsneg_jax.files import write_json

CONFIG = "config.json"
CHECKPOINTS = "checkpoints"  # a folder per step
METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"  # a folder of event files
RESULTS = "results.json"
PARTS = "parts"  # a folder of npz files, one per part of an evaluation
VIEWS = "pictures/views.png"
FEATURES = "features"  # the name's end says the format

# what may change when a run goes on: it alters how the work is done or when it ends, and nothing
# of what a step does (the schedule follows `epochs`)
_FREE_TO_CHANGE = (
    "total_steps",
    "data.tfds_dir",
    "data.threads",
    "data.workers",
    "log_every_steps",
    "pictures",
    "checkpoint.every_steps",
    "checkpoint.keep",
)
_FREE_IN_PRETRAINING = (
    "knn_every_epochs",
    "data.eval_split",
    "data.resize",
    "moco.shuffle",
    "moco.shard_queue",
)
# fields that config.json of an earlier version does not have, and what such a run did
_ADDED = {
    "method": "moco",
    "model.precision": "tensorfloat32",
    "optimizer.name": "sgd",
    "optimizer.warmup_epochs": 0,
    "precision": "float32",
}


def flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of nested dicts by dotted name, sorted within each section."""
    fields: dict[str, Any] = {}
    for name, value in sorted(config.items()):
        if isinstance(value, Mapping):
            fields |= {f"{name}.{inner}": leaf for inner, leaf in flatten(value).items()}
        else:
            fields[name] = value
    return fields


def check_workdir(config: Mapping[str, Any], workdir: Path) -> None:
    """Checks that the run in `workdir`, if it left a config.json, has the same config.

    Args:
        config: of this run, nested dicts of what JSON has.
        workdir: of the run.

    Raises:
        UsageError: it has other values, which the message lists.
    """
    path = workdir / CONFIG
    if not path.exists():
        return
    before = _ADDED | flatten(json.loads(path.read_text()))
    now = flatten(config)
    free = _FREE_TO_CHANGE + (_FREE_IN_PRETRAINING if config["job"] == "pretrain" else ())
    if "texture" not in now.get("negatives.kind", "texture"):
        free += ("negatives.texture_source",)  # not read; its default follows $NSNEG_DATA
    differences = [
        f"{name} was {_shown(before, name)} and is {_shown(now, name)}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name, _ADDED.get(name)) and name not in free
    ]
    if differences:
        raise UsageError(
            f"The run in {workdir} was started with another config: "
            + "; ".join(differences)
            + ". Give the same values to go on with it, or another --workdir for a new run."
        )


def claim_workdir(
    config: Mapping[str, Any], workdir: Path, resuming: bool, *, write: bool = True
) -> None:
    """Writes config.json into `workdir`, or checks that the run there has the same config.

    Args:
        config: of this run, nested dicts of what JSON has.
        workdir: made if missing.
        resuming: whether there is a checkpoint to go on from.
        write: False for a process that is not the first of its run, and only checks.

    Raises:
        UsageError: the run there has other values, which the message lists, or did another job.
    """
    if resuming:
        check_workdir(config, workdir)
    else:
        _check_same_job(config, workdir)
    if write:
        write_json(workdir / CONFIG, config)


def _check_same_job(config: Mapping[str, Any], workdir: Path) -> None:
    path = workdir / CONFIG
    if not path.exists():
        return
    before = json.loads(path.read_text())
    job, now = (
        "linear evaluation" if each.get("evaluate_only") else each.get("job")
        for each in (before, config)
    )
    if job != now:
        raise UsageError(
            f"{workdir} holds a {job} run, whose files this {now} run would write over. Give "
            "another --workdir."
        )


def _shown(fields: Mapping[str, Any], name: str) -> str:
    return repr(fields[name]) if name in fields else "absent"
