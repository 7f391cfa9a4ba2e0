"""Translates a `ResNet` to torchvision's names and layouts and a `ViT` to timm's, and back.

A PyTorch state dict holds convolutions as (out, in, height, width) and linear weights as
(out, in); here they are (height, width, in, out) and (in, out).
"""

import re
from collections.abc import Iterable

import jax
import numpy as np

from nsneg_jax.models.encoder import Tree

_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
_FIXED = {"downsample.conv": "downsample.0", "downsample.norm": "downsample.1"}
_HEAD = {"fc.hidden": "fc.0", "fc.output": "fc.2"}
_PLACES = {"layer": 0, "norm": 1}  # in a sequence of linear layer, batch norm and ReLU
# Modules and entries in PyTorch's order.
_ORDER = (
    *("conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "downsample"),
    *("layer1", "layer2", "layer3", "layer4"),
    *("cls_token", "pos_embed", "patch_embed", "blocks", "norm1", "attn", "norm2", "mlp", "norm"),
    *("qkv", "proj", "fc1", "fc2", "fc", "head"),
    *("weight", "bias", "running_mean", "running_var", "num_batches_tracked"),
)
COUNTER = "num_batches_tracked"


def torch_name(path: tuple[str, ...]) -> str:
    """Returns PyTorch's name of the entry at `path`, e.g. 'layer1.0.conv1.weight'."""
    *module, leaf = path
    name = re.sub(r"\bblock(\d+)\b", r"\1", ".".join(module))
    for ours, theirs in (_FIXED | _HEAD).items():
        name = name.replace(ours, theirs)
    name = re.sub(r"^fc\.(layer|norm)(\d)$", lambda m: f"fc.{3 * int(m[2]) + _PLACES[m[1]]}", name)
    return f"{name}.{_LEAVES.get(leaf, leaf)}".removeprefix(".")


def in_torch_order(names: Iterable[str]) -> list[str]:
    """Sorts torchvision names like a state dict.

    Without statistics and counters this is also the order of `parameters()`, by which optimisers
    number their state.
    """

    def place(name: str) -> list[int]:
        return [int(part) if part.isdecimal() else _ORDER.index(part) for part in name.split(".")]

    return sorted(names, key=place)


def counter_names(names: Iterable[str]) -> list[str]:
    """Returns the `num_batches_tracked` name of every batch norm among torchvision names."""
    return [
        name.replace("running_mean", COUNTER) for name in names if name.endswith("running_mean")
    ]


def to_torch_layout(array: np.ndarray) -> np.ndarray:
    """Converts (H, W, in, out) or (in, out) to PyTorch's layout; keeps vectors."""
    return array.transpose({4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim, range(array.ndim)))


def from_torch_layout(array: np.ndarray) -> np.ndarray:
    """Inverts `to_torch_layout`."""
    return array.transpose({4: (2, 3, 1, 0), 2: (1, 0)}.get(array.ndim, range(array.ndim)))


def to_state_dict(*trees: Tree) -> dict[str, np.ndarray]:
    """Returns parameters and statistics under torchvision names, in PyTorch's layout."""
    state_dict = {}
    for tree in trees:
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            state_dict[torch_name(tuple(key.key for key in path))] = to_torch_layout(
                np.asarray(leaf)
            )
    return state_dict


def from_state_dict(state_dict: dict[str, np.ndarray], like: Tree) -> Tree:
    """Returns the entries of `state_dict` for `like`, in its structure, layout and dtype.

    Raises:
        KeyError: an entry of `like` is missing.
        ValueError: an entry has another shape.
    """

    def entry(path, leaf):
        name = torch_name(tuple(key.key for key in path))
        array = from_torch_layout(np.asarray(state_dict[name]))
        if array.shape != leaf.shape:
            raise ValueError(f"{name} has shape {array.shape}, expected {leaf.shape}")
        return array.astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(entry, like)
