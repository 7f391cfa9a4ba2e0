"""Trained encoders out of checkpoints, for the jobs that build on them and for users' own code."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from nsneg_jax.errors import UsageError
from nsneg_jax.models.encoder import PRECISIONS, Encoder, Tree, build_encoder, encoder_structure
from nsneg_jax.parallel.mesh import DTYPES
from nsneg_jax.training import checkpoint
from nsneg_jax.training.workdir import CHECKPOINTS

UNTRAINED = "untrained:"
PRETRAINING, PROBE = "pre-training", "linear probe"  # kinds of checkpoints


@dataclass(frozen=True)
class Pretrained:
    """A trained encoder without its projection head.

    Attributes:
        encoder: its structure; `encoder.features(params, stats, images)` gives [N, F] features.
        params: of the query encoder, nested dicts of NumPy arrays; float64 for the dtype
            'float64', else float32.
        stats: its running statistics, likewise.
        model: the `model` section of the config it was trained with.
        classifier: {'kernel': [F, C], 'bias': [C]} of a linear probe's checkpoint, else None.
        classes: names of the classifier's C classes where they are known.
        origin: workdir and step, for messages.
        encoder_origin: of a probe's checkpoint, those of the pre-training it was made from.
        encoder_seed: of that pre-training; None where it is not known.
    """

    encoder: Encoder
    params: Tree
    stats: Tree
    model: dict[str, Any]
    classifier: dict[str, np.ndarray] | None
    classes: tuple[str, ...] | None
    origin: str
    encoder_origin: str
    encoder_seed: int | None


def load_pretrained(
    path: str | Path, dtype: str = "float32", precision: str = "float32"
) -> Pretrained:
    """Reads the encoder of a pre-training's or a linear probe's checkpoint.

    It may have been written with any number of devices; the run's config is not needed.

    Args:
        path: a workdir, for its latest checkpoint, or a checkpoint folder such as
            runs/patch/checkpoints/400, wherever it was copied to. With 'untrained:' before it,
            the same network with the initial weights of seed 0, to compare with.
        dtype: of the encoder's computation: 'float32', 'bfloat16' or 'float64'.
        precision: of products in float32, see `nsneg_jax.models.encoder.PRECISIONS`.

    Raises:
        UsageError: no such folder, no checkpoint in it, one that cannot be read, or one that is
            neither a pre-training's nor a probe's.
    """
    if dtype not in DTYPES:
        raise UsageError(f"dtype is {dtype!r}, but must be one of {', '.join(map(repr, DTYPES))}.")
    if precision not in PRECISIONS:
        raise UsageError(
            f"precision is {precision!r}, but must be one of {', '.join(map(repr, PRECISIONS))}."
        )
    computed = {"dim": 0, "dtype": dtype, "precision": precision}
    untrained = str(path).startswith(UNTRAINED)
    folder = checkpoint.find_checkpoint(str(path).removeprefix(UNTRAINED))
    state, progress = checkpoint.read_checkpoint(folder, "params_q", "stats_q", "backbone", "best")
    kind = kind_of(state, folder)
    if "model" not in progress:
        raise UsageError(
            f"The checkpoint {folder} does not say what its model is: it was written by an older "
            "version. Continue that run for a step, which writes a checkpoint that does."
        )
    model = progress["model"]
    if untrained:
        return _untrained(model, computed, f"untrained, as {_origin(folder)}")
    if kind == PRETRAINING:
        params, stats = dict(state["params_q"]), state["stats_q"]
        params.pop("fc", None)
    else:
        params, stats = state["backbone"]["params"], state["backbone"]["stats"]
    classifier = chosen_classifier(state, progress)
    encoder, *like = backbone_structure(model, dtype, precision)
    return Pretrained(
        encoder=encoder,
        params=_fitted(params, like[0], folder),
        stats=_fitted(stats, like[1], folder),
        model=model,
        classifier=classifier,
        classes=tuple(progress["classes"]) if progress.get("classes") else None,
        origin=_origin(folder),
        encoder_origin=progress.get("encoder", _origin(folder)),
        encoder_seed=progress.get("encoder_seed" if kind == PROBE else "seed"),
    )


def backbone_structure(
    model: Mapping[str, Any], dtype: str, precision: str
) -> tuple[Encoder, Tree, Tree]:
    """An encoder without its head: its structure, and shapes of its params and stats.

    Args:
        model: the `model` section of the config it is trained with.
        dtype, precision: of its computation, whatever those of its training.
    """
    computed = {"dim": 0, "dtype": dtype, "precision": precision}
    return encoder_structure(ConfigDict({**model, **computed}))


def kind_of(state: Tree, folder: Path) -> str:
    """PRETRAINING or PROBE, by the entries of a checkpoint's state.

    Raises:
        UsageError: neither.
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
    """The probe that a checkpoint's progress chose among its learning rates."""
    if "best" not in state:
        return None
    return {name: array[progress["chosen"]] for name, array in state["best"].items()}


def _untrained(model: dict[str, Any], computed: dict[str, Any], origin: str) -> Pretrained:
    with jax.enable_x64(computed["dtype"] == "float64"):
        trees = build_encoder(ConfigDict(model | computed), seed=0)
    encoder, params, stats = trees[0], *jax.tree.map(np.asarray, trees[1:])
    return Pretrained(encoder, params, stats, model, None, None, origin, origin, 0)


def _fitted(tree: Tree, like: Tree, folder: Path) -> Tree:
    """`tree` in the dtypes of `like`, which must be of its structure and shapes."""
    difference = checkpoint.first_difference(tree, like, qualities=("shape",))
    if difference is not None:
        raise UsageError(
            f"The checkpoint {folder} does not hold the model that it names: {difference}. Its "
            "files are not of one run."
        )
    return jax.tree.map(lambda array, leaf: array.astype(leaf.dtype, copy=False), tree, like)


def _origin(folder: Path) -> str:
    if folder.parent.name == CHECKPOINTS:
        return f"{folder.parent.parent}, step {folder.name}"
    return str(folder)
