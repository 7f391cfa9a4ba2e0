"""The weights that a new pre-training begins with, where they are another run's."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from nsneg_jax import models
from nsneg_jax.errors import UsageError
from nsneg_jax.models.encoder import HEAD, Tree
from nsneg_jax.pretrained import Pretrained, load_pretrained
from nsneg_jax.training.checkpoints.checkpoint import (
    find_checkpoint,
    first_difference,
    read_progress,
)
from nsneg_jax.training.checkpoints.digests import names_of_leaves

_HEAD_FIELDS = {"head": "moco", "mlp": True}  # with the values of records that lack them


def weights_of(config: ConfigDict, params: Tree, stats: Tree) -> tuple[Tree, Tree, str]:
    """Reads the encoder that `config.pretrained` names.

    Args:
        config: validated config of a pre-training with `pretrained`.
        params, stats: initial parameters and statistics of its encoder.

    Returns:
        Parameters and statistics with the checkpoint's backbone, and with its projection head if
        that is of the same kind and shapes; and what was taken from where, as a text.

    Raises:
        UsageError: there is no such checkpoint, it is damaged or of another network.
    """
    folder = find_checkpoint(config.pretrained)
    found = load_pretrained(folder, config.model.dtype, config.model.precision)
    _check_same_network(config, found)
    own, own_stats = (
        {name: tree for name, tree in each.items() if name != HEAD} for each in (params, stats)
    )
    taken, taken_stats = _arranged((found.params, found.stats), (own, own_stats), found.origin)
    has_head = _has_head(config.model, found, params, stats)
    if has_head:
        taken[HEAD] = found.head
        if HEAD in stats:
            taken_stats[HEAD] = found.head_stats
    params, stats = jax.tree.map(jnp.asarray, (params | taken, stats | taken_stats))
    file = (read_progress(folder).get("official") or {}).get("file")
    origin = f"{found.origin} ({file})" if file else found.origin
    return params, stats, f"{origin}, with {'its' if has_head else 'a new'} projection head"


def _check_same_network(config: ConfigDict, found: Pretrained) -> None:
    """Checks that the config's backbone is that of the checkpoint.

    Raises:
        UsageError: it is another; the message lists what differs, with the fields to set.
    """
    before, now = dict(found.model), config.model.to_dict()
    needed = {"arch": before["arch"]} | models.backbone_settings(**before)
    # Of the checkpoint's network, whose settings another arch may not have.
    here = models.backbone_settings(**now | {"arch": before["arch"]}) | {"arch": now["arch"]}
    different = {
        name: value for name, value in needed.items() if name in here and here[name] != value
    }
    if different:
        listed = "; ".join(
            f"model.{name} is {value!r} there and {here[name]!r} here"
            for name, value in different.items()
        )
        flags = " ".join(f"--config.model.{name}={value}" for name, value in different.items())
        raise UsageError(
            f"pretrained is {config.pretrained!r}, but {found.origin} has another network than "
            f"this run: {listed}. Give {flags} to go on with that network, or another checkpoint."
        )


def _has_head(model: Mapping[str, Any], found: Pretrained, params: Tree, stats: Tree) -> bool:
    """Returns whether the checkpoint has a projection head of this run's kind and shapes."""
    if found.head is None or HEAD not in params:
        return False
    kinds = ((found.model.get(name, value), model[name]) for name, value in _HEAD_FIELDS.items())
    ours = {"params": params[HEAD], "stats": stats.get(HEAD, {})}
    theirs = {"params": found.head, "stats": found.head_stats}
    same = first_difference(theirs, ours, qualities=("shape",)) is None
    return same and all(before == now for before, now in kinds)


def _arranged(trees: tuple[Tree, Tree], like: tuple[Tree, Tree], origin: str) -> tuple[Tree, Tree]:
    """Arranges parameters and statistics as in `like`.

    A ViT's projection of pixels is a parameter in one run and, frozen, a statistic in another.

    Raises:
        UsageError: names or shapes differ, as of a network whose code has changed.
    """
    leaves = names_of_leaves(trees[0]) | names_of_leaves(trees[1])
    wanted = [names_of_leaves(tree) for tree in like]
    difference = first_difference(leaves, wanted[0] | wanted[1], qualities=("shape",))
    if difference is not None:
        raise UsageError(
            f"The encoder of {origin} does not fit this run: {difference}. Give a checkpoint of "
            "the same network."
        )
    params, stats = (
        jax.tree.unflatten(jax.tree.structure(tree), [leaves[name] for name in names])
        for tree, names in zip(like, wanted, strict=True)
    )
    return params, stats
