"""The workdir of a run: the names of its files, and the check of its config."""

import os
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from nsneg_jax.errors import UsageError, printable
from nsneg_jax.files import read_json, write_json
from nsneg_jax.input.sources.source import is_files

CONFIG = "config.json"
STARTS = "starts.jsonl"  # when, where and with which versions the run was started
CHECKPOINTS = "checkpoints"  # a folder per step
DAMAGED = "damaged-checkpoints"  # checkpoints that could not be read
METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"  # a folder of event files
LOGGERS = "loggers"  # a folder: ids, files and output of W&B, MLflow and Trackio
RESULTS = "results.json"
REPLACED = "results-of-another-config.json"  # what RESULTS was before the config changed
PARTS = "parts"  # a folder of npz files, one per part of an evaluation
PER_CLASS = "per_class.tsv"  # accuracies of an evaluation by set and class
VIEWS = "pictures/views.png"
TEXTURES = "textures.npy"  # made of built-in images
UNREADABLE = "unreadable.tsv"  # images that could not be read
STACKS = "stacks-*.txt"  # where a run stood that did not get on, per host and process
SIMILARITIES = "similarities"  # a folder of JSON files, one per step
GALLERY = "gallery"  # a folder of npz files, one per step: features and pictures of some images
FEATURES = "features"  # the ending depends on the format

# Fields that may change on resume: they alter how the work is done or when it ends, but not what a
# step computes (the schedule follows `epochs`).
_FREE_TO_CHANGE = (
    "total_steps",
    "data.tfds_dir",
    "data.max_bad_fraction",
    "data.threads",
    "data.workers",
    "log_every_steps",
    "on_collapse",
    "collapse_steps",
    "watchdog_minutes",
    "deterministic",
    "pictures",
    "log.to",
    "log.project",
    "checkpoint.every_steps",
    "checkpoint.keep",
    "checkpoint.keep_every_epochs",
)
_FREE_IN_PRETRAINING = (
    "knn_every_epochs",
    "data.eval_split",
    "data.resize",
    "model.remat",
    "moco.shuffle",
    "moco.shard_queue",
    "optimizer.accumulate",
    "optimizer.shard",
)
# Fields missing in config.json of earlier versions, with the values that such runs used.
_ADDED = {
    "method": "moco",
    "data.labels": "",
    "model.head": "moco",
    "model.head_hidden": 0,
    "model.precision": "tensorfloat32",
    "moco.symmetric": False,
    "model.token_size": 16,
    "model.blocks": 0,
    "model.attention_heads": 0,
    "model.positions": "sincos",
    "model.position_grid": 14,
    "model.token_pooling": "class",
    "model.freeze_tokens": True,
    "negatives.patch_mode": "crops",
    "negatives.patch_align": 0,
    "negatives.more": "",
    "negatives.low_pass_sigma": 10.0,
    "negatives.high_pass_sigma": 3.0,
    "loss.name": "infonce",
    "loss.epsilon": 0.0,
    "mochi.hardest": 1024,
    "mochi.pairs": 0,
    "mochi.with_query": 0,
    "mochi.warmup_epochs": 10,
    "features_splits": "",
    "optimizer.anchor": 0.0,
    "optimizer.accumulate": 1,
    "optimizer.name": "sgd",
    "optimizer.warmup_epochs": 0,
    "precision": "float32",
    "pretrained": "",
    "siamese.merge_passes": True,
    "siamese.momentum": 0.996,
    "siamese.momentum_schedule": "cosine",
    "siamese.negative_gradient": False,
    "siamese.temperature": 0.2,
    "views.round_down": False,
}


# Patterns of the names at the top of a workdir that are written.
WRITTEN = (
    CONFIG, STARTS, CHECKPOINTS, DAMAGED, METRICS, TENSORBOARD, LOGGERS, RESULTS, REPLACED, PARTS,
    PER_CLASS,
    VIEWS.partition("/")[0], TEXTURES, UNREADABLE.replace(".", "*."), STACKS, SIMILARITIES, GALLERY,
    f"{FEATURES}.*", "*.lock",
)  # fmt: skip


def refuse_links(workdir: Path) -> None:
    """Checks that nothing which a run writes into its workdir is a link to another place.

    The workdir itself may be one.

    Raises:
        UsageError: something is.
    """
    for path in sorted(workdir.glob("*")):
        if path.is_symlink() and any(fnmatchcase(path.name, each) for each in WRITTEN):
            raise UsageError(
                f"{path} is a link to {printable(os.readlink(path))}, but a run writes nothing "
                "through links in its workdir. Remove the link, or give the folder it leads to "
                "with --workdir."
            )


def step_folders(checkpoints: Path) -> list[Path]:
    """Returns the folders of the checkpoints in a folder, oldest first; [] if it is missing."""
    found = [path for path in checkpoints.glob("[0-9]*") if path.name.isdecimal()]
    return sorted(found, key=lambda path: int(path.name))


def flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    """Flattens nested dicts to fields by dotted name, sorted within each section."""
    fields: dict[str, Any] = {}
    for name, value in sorted(config.items()):
        if isinstance(value, Mapping):
            fields |= {f"{name}.{inner}": leaf for inner, leaf in flatten(value).items()}
        else:
            fields[name] = value
    return fields


def moved_fields(progress: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the fields that say where data are, if a checkpoint's progress knows the data.

    Such a run compares the images themselves, so that they may move.
    """
    images = ("data.source", "data.labels") if progress.get("data") else ()
    return images + (("negatives.texture_source",) if progress.get("textures") else ())


def check_workdir(
    config: Mapping[str, Any],
    workdir: Path,
    moved: Collection[str] = (),
    kept: Mapping[str, Any] | None = None,
) -> None:
    """Checks that the run in `workdir`, if there is one, has the config `config`.

    Args:
        config: config of this run, nested dicts of JSON values.
        workdir: workdir of the run.
        moved: see `moved_fields`; these may differ between data sets of files.
        kept: config in the run's checkpoint. Without it, as in those of earlier versions,
            config.json counts.

    Raises:
        UsageError: some values differ; the message lists them.
    """
    differences = _differences(config, workdir, moved, kept)
    if differences:
        raise UsageError(
            f"The run in {workdir} was started with another config: "
            + "; ".join(differences)
            + ". Give the same values to resume it, or another --workdir for a new run."
        )


def _differences(
    config: Mapping[str, Any],
    workdir: Path,
    moved: Collection[str] = (),
    kept: Mapping[str, Any] | None = None,
) -> list[str]:
    """Describes the fields that differ from `kept`, or else from config.json in `workdir`."""
    if kept is None:
        kept = _config_in(workdir)
    if kept is None:
        return []
    before = _ADDED | flatten(kept)
    now = flatten(config)
    free = _FREE_TO_CHANGE + (_FREE_IN_PRETRAINING if config["job"] == "pretrain" else ())
    # A negative of the user's, in negatives.more, may read textures, too.
    if "texture" not in now.get("negatives.kind", "texture") and not now.get("negatives.more"):
        free += ("negatives.texture_source",)  # unused here, and its default follows $NSNEG_DATA
    return [
        f"{name} was {_shown(before, name)} and is {_shown(now, name)}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name, _ADDED.get(name))
        and name not in free
        and not (name in moved and _are_of_files(before, now))
    ]


def claim_workdir(
    config: Mapping[str, Any],
    workdir: Path,
    resuming: bool,
    moved: Collection[str] = (),
    kept: Mapping[str, Any] | None = None,
    *,
    write: bool = True,
) -> str:
    """Checks the run in `workdir` against `config`, then writes config.json.

    The results.json of another config gets another name, so that no report takes it for this run's.

    Args:
        config: config of this run, nested dicts of JSON values.
        workdir: folder, made if missing.
        resuming: whether there is a checkpoint to resume from.
        moved, kept: see `check_workdir`.
        write: False in all processes but the first, which only check.

    Returns:
        What became of the results of another config; '' if there were none.

    Raises:
        UsageError: the run there has other values, which the message lists, or another job.
    """
    note = ""
    if resuming:
        check_workdir(config, workdir, moved, kept)
    else:
        _check_same_job(config, workdir)
        differences = _differences(config, workdir)
        if write and differences:
            for path in (workdir / LOGGERS).glob("*.id"):  # this will be another run there, too
                path.unlink(missing_ok=True)
            if (workdir / RESULTS).exists():
                os.replace(workdir / RESULTS, workdir / REPLACED)
                found = ", ".join(differences)
                note = f"{RESULTS} of another config is now {REPLACED}, because {found}"
    if write:
        write_json(workdir / CONFIG, config)
    return note


def _check_same_job(config: Mapping[str, Any], workdir: Path) -> None:
    before = _config_in(workdir)
    if before is None:
        return
    job, now = (
        "linear evaluation" if each.get("evaluate_only") else each.get("job")
        for each in (before, config)
    )
    if job != now:
        raise UsageError(
            f"{workdir} holds a {job} run, whose files this {now} run would overwrite. Give "
            "another --workdir."
        )


def _config_in(workdir: Path) -> dict[str, Any] | None:
    path = workdir / CONFIG
    if not path.exists():
        return None
    return read_json(path, "Remove it if the config is still the same, and start the run again.")


def _are_of_files(*configs: Mapping[str, Any]) -> bool:
    return all(is_files(str(fields.get("data.source", ""))) for fields in configs)


def _shown(fields: Mapping[str, Any], name: str) -> str:
    return repr(fields[name]) if name in fields else "absent"
