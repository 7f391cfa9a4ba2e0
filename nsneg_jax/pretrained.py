"""Reads trained encoders from checkpoints, for jobs that build on them and for users' own code."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nsneg_jax import models
from nsneg_jax.embedding import Pretrained, check_whole
from nsneg_jax.errors import UsageError
from nsneg_jax.models.encoder import HEAD, PRECISIONS, Encoder, Tree
from nsneg_jax.models.transformers import vit
from nsneg_jax.parallel.mesh import DTYPES
from nsneg_jax.training.checkpoints import checkpoint
from nsneg_jax.training.workdir import CHECKPOINTS, CONFIG

UNTRAINED = "untrained:"
PRETRAINING, PROBE = "pre-training", "linear probe"  # kinds of checkpoints

# Fields of the section `data` that checkpoints keep as `dataset`.
DATASET = ("source", "classes", "labels", "tfds_dir")

# Sizes of the published runs, for networks without a record.
_IMAGE_SIZE, _RESIZE = 224, 256
_LEAST_SIDE = 8


def load_pretrained(
    path: str | Path,
    dtype: str = "float32",
    precision: str = "float32",
    *,
    image_size: int | None = None,
    resize: int | None = None,
) -> Pretrained:
    """Reads the encoder from a checkpoint of a pre-training or a linear probe.

    Any number of devices may have written it. Only the image size may need the run's config. It
    comes from the checkpoint (linear probes record it), else from config.json in the workdir, else
    it is 224 and 256, as in the published runs, for networks with the stem 'imagenet'. For a small
    stem without any of these, such as a copied checkpoint folder, it is unknown; give it to use
    `embed` and `classify`.

    Args:
        path: a workdir, for its latest checkpoint, or a checkpoint folder such as
            runs/patch/checkpoints/400, or a copy of one. The prefix 'untrained:' gives the same
            network with the initial weights of seed 0, for comparison.
        dtype: dtype of the encoder's computation: 'float32', 'bfloat16' or 'float64'.
        precision: precision of float32 products, see `nsneg_jax.models.encoder.PRECISIONS`.
        image_size: side of the views in pixels; overrides the record.
        resize: shorter side before the central crop, in pixels for views of 224, scaled for others;
            0 crops without resizing; overrides the record.

    Raises:
        UsageError: there is no such folder or no checkpoint in it, or the checkpoint cannot be read
            or belongs to neither a pre-training nor a probe.
    """
    check_computation(dtype, precision)
    untrained = str(path).startswith(UNTRAINED)
    folder = checkpoint.find_checkpoint(str(path).removeprefix(UNTRAINED))
    state, progress = checkpoint.read_checkpoint(folder, "params_q", "stats_q", "backbone", "best")
    kind = kind_of(state, folder)
    if "model" not in progress:
        raise UsageError(
            f"The checkpoint {folder} does not record its model, because an older version wrote "
            "it. Continue that run for a step, which writes a checkpoint that does."
        )
    views = view_geometry(progress["model"], _recorded(folder, progress), image_size, resize)
    assembled = partial(assemble, progress["model"], dtype=dtype, precision=precision, views=views)
    if untrained:
        params, stats = _initial(progress["model"], dtype, precision)
        return assembled(params, stats, origin=f"untrained, as {_origin(folder)}", encoder_seed=0)
    if kind == PRETRAINING:
        params, stats = state["params_q"], state["stats_q"]
    else:
        params, stats = state["backbone"]["params"], state["backbone"]["stats"]
    return assembled(
        params,
        stats,
        classifier=chosen_classifier(state, progress),
        classes=tuple(progress["classes"]) if progress.get("classes") else None,
        origin=_origin(folder),
        encoder_origin=progress.get("encoder"),
        encoder_seed=progress.get("encoder_seed" if kind == PROBE else "seed"),
    )


def check_computation(dtype: str, precision: str) -> None:
    """Raises UsageError for an unknown dtype or precision."""
    for name, value, known in (("dtype", dtype, DTYPES), ("precision", precision, PRECISIONS)):
        if value not in known:
            raise UsageError(
                f"{name} is {value!r}, but must be one of {', '.join(map(repr, known))}."
            )


def view_geometry(
    model: Mapping[str, Any],
    recorded: Mapping[str, int],
    image_size: int | None,
    resize: int | None,
) -> dict[str, int | None]:
    """Returns `image_size` and `resize` of a `Pretrained`: given, else recorded, else by rule.

    Raises:
        UsageError: a given value is no number of pixels.
    """
    given = {"image_size": image_size, "resize": resize}
    given = {name: value for name, value in given.items() if value is not None}
    for name, least in (("image_size", _LEAST_SIDE), ("resize", 0)):
        if name in given:
            check_whole(name, given[name], least)
    side = _published_side(model)
    rule = {"image_size": side, "resize": _RESIZE} if side else {}
    return {"image_size": None, "resize": None} | rule | dict(recorded) | given


def _published_side(model: Mapping[str, Any]) -> int:
    """Returns the side of a network's images that its settings show, in pixels; 0 for none."""
    if model.get("arch") not in vit.ARCHS:
        return _IMAGE_SIZE if model.get("stem") == "imagenet" else 0
    side = model.get("token_size", 16) * model.get("position_grid", 14)
    learnt = model.get("positions") == "learnable"
    return side if learnt or side == _IMAGE_SIZE else 0


def assemble(
    model: dict[str, Any],
    params: Tree,
    stats: Tree,
    *,
    dtype: str,
    precision: str,
    views: Mapping[str, int | None],
    origin: str,
    classifier: dict[str, np.ndarray] | None = None,
    classes: tuple[str, ...] | None = None,
    encoder_origin: str | None = None,
    encoder_seed: int | None = None,
) -> Pretrained:
    """Assembles the encoder from parameters, which may include a projection head.

    Args:
        model: `model` section of the config it was trained with.
        params, stats: arrays of the query encoder.
        dtype, precision: dtype and precision of its computation; may differ from its training.
        views: from `view_geometry`.
        origin, classifier, classes, encoder_origin, encoder_seed: see `Pretrained`.

    Raises:
        UsageError: the arrays do not have the structure and shapes of the model, or have values
            that are not finite.
    """
    computed = {"dtype": dtype, "precision": precision}
    whole = model | computed if HEAD in params else model | computed | {"dim": 0}
    _, *like = models.structure(**whole)
    params, stats = _fitted(params, like[0], origin), _fitted(stats, like[1], origin)
    _check_finite({"params": params, "stats": stats}, origin)
    encoder, _, _ = backbone_structure(model, dtype, precision)
    return Pretrained(
        encoder=encoder,
        params={name: leaf for name, leaf in params.items() if name != HEAD},
        stats={name: leaf for name, leaf in stats.items() if name != HEAD},
        head=params.get(HEAD),
        head_stats=stats.get(HEAD, {}),
        model=model,
        dtype=dtype,
        classifier=classifier,
        classes=classes,
        **views,
        origin=origin,
        encoder_origin=encoder_origin or origin,
        encoder_seed=encoder_seed,
    )


def backbone_structure(
    model: Mapping[str, Any], dtype: str, precision: str
) -> tuple[Encoder, Tree, Tree]:
    """Returns an encoder without its head: structure, and shapes of params and stats.

    Args:
        model: `model` section of the config it is trained with.
        dtype, precision: dtype and precision of its computation; may differ from its training.
    """
    computed = {"dim": 0, "dtype": dtype, "precision": precision}
    return models.structure(**{**model, **computed})


def kind_of(state: Tree, folder: Path) -> str:
    """Returns PRETRAINING or PROBE, by the entries of a checkpoint's state.

    Raises:
        UsageError: it is neither.
    """
    if {"params_q", "stats_q"} <= state.keys():
        return PRETRAINING
    if "backbone" in state:
        return PROBE
    raise UsageError(
        f"The checkpoint {folder} is neither a pre-training's (with params_q and stats_q) nor a "
        "linear probe's (with backbone). Give one of these."
    )


def chosen_classifier(state: Tree, progress: dict[str, Any]) -> dict[str, np.ndarray] | None:
    """Returns the probe that a checkpoint's progress chose among its learning rates."""
    if "best" not in state:
        return None
    return {name: array[progress["chosen"]] for name, array in state["best"].items()}


def trained_on(path: str | Path) -> dict[str, Any]:
    """Reads what a run records of the images that it was trained on.

    Args:
        path: workdir or checkpoint folder of a pre-training or a probe, as for `load_pretrained`.

    Returns:
        Those that are known of 'image_size', 'resize', 'source', 'classes', 'labels' and
        'tfds_dir', with the meaning and values of the fields in the section `data` of a config. An
        imported checkpoint knows none.

    Raises:
        UsageError: there is no checkpoint, or the run's config.json cannot be read.
    """
    folder = checkpoint.find_checkpoint(str(path).removeprefix(UNTRAINED))
    progress = checkpoint.read_progress(folder)
    kept = progress.get("dataset", {})
    # Data may have moved since the checkpoint was written; the config knows where they are now.
    try:
        of_config = _data_section(folder)
    except UsageError:
        if not kept:
            raise
        of_config = {}
    dataset = {name: of_config[name] for name in DATASET if name in of_config}
    return _recorded(folder, progress) | (dataset or kept)


def _recorded(folder: Path, progress: dict[str, Any]) -> dict[str, int]:
    """Returns the image size in a checkpoint, or in the config.json of its run."""
    found = progress if "image_size" in progress else _data_section(folder)
    return {name: found[name] for name in ("image_size", "resize") if name in found}


def _data_section(folder: Path) -> dict[str, Any]:
    """Returns the section `data` in the config.json of a checkpoint's run; {} without one."""
    path = _config_of(folder)
    if folder.parent.name != CHECKPOINTS or not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text())["data"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} cannot be read as the config of a run: {error}. Get the file again, or "
            "copy the checkpoint's folder elsewhere to use it alone."
        ) from error


def _config_of(folder: Path) -> Path:
    return folder.parent.parent / CONFIG


def _initial(model: dict[str, Any], dtype: str, precision: str) -> tuple[Tree, Tree]:
    with jax.enable_x64(dtype == "float64"):
        computed = {"dtype": dtype, "precision": precision}
        _, params, stats = models.build(**(model | computed), seed=0)
    return jax.tree.map(np.asarray, (params, stats))


def _fitted(tree: Tree, like: Tree, origin: str) -> Tree:
    """Casts `tree` to the dtypes of `like`, which must have its structure and shapes."""
    difference = checkpoint.first_difference(tree, like, qualities=("shape",))
    if difference is not None:
        raise UsageError(
            f"The checkpoint {origin} does not hold the model that it names: {difference}. Its "
            "files come from different runs: copy it again."
        )
    return jax.tree.map(lambda array, leaf: array.astype(leaf.dtype, copy=False), tree, like)


def _check_finite(tree: Tree, origin: str) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not np.isfinite(leaf).all():
            raise UsageError(
                f"{jax.tree_util.keystr(path, simple=True, separator='.')} of the encoder "
                f"{origin} has values that are NaN or infinite, so its features would be too. Give "
                "an earlier checkpoint, from before the training diverged."
            )


def _origin(folder: Path) -> str:
    if folder.parent.name == CHECKPOINTS:
        return f"{folder.parent.parent}, step {folder.name}"
    return str(folder)
