"""Names of vision transformers in the files of timm, DINO, MoCo-v3, DINOv2 and Hugging Face.

timm's names are ours, and MoCo-v3's and DINO's behind their prefixes. DINOv2's have the factors of
LayerScale besides, and Hugging Face's are others.
"""

import re
from collections.abc import Mapping

import numpy as np

PATCHES = "patch_embed.proj.weight"  # an entry that every vision transformer has
HEAD = "head"  # timm's classifier
# Entries that no image without a mask needs.
UNUSED = ("mask_token", "pooler.dense.weight", "pooler.dense.bias")

_FIRST = "embeddings.patch_embeddings.projection.weight"
_ROOT = re.compile(rf"((?:[^.]+\.)*?){re.escape(_FIRST)}")
_OUTSIDE = {"classifier.weight": "head.weight", "classifier.bias": "head.bias"}
_NAMES = {
    "embeddings.cls_token": "cls_token",
    "embeddings.mask_token": "mask_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "layernorm": "norm",
}
_IN_BLOCKS = {
    "attention.output.dense": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "norm1": "norm1",
    "norm2": "norm2",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
}
_BLOCK = re.compile(r"encoder\.layer\.(\d+)\.(.+)")
_PART = re.compile(r"attention\.attention\.(query|key|value)\.(weight|bias)")
_SCALE = re.compile(r"blocks\.(\d+)\.ls([12])\.gamma")
_SCALED = {"1": "attn.proj", "2": "mlp.fc2"}  # what a factor of LayerScale multiplies


def from_hugging_face(named: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], bool]:
    """Gives the entries of Hugging Face's ViTs timm's names, with queries, keys and values as one.

    Args:
        named: entries of a state dict.

    Returns:
        The entries, and whether there is such a ViT among them.
    """
    roots = [found[1] for name in named if (found := _ROOT.fullmatch(name))]
    if not roots:
        return named, False
    root = roots[0]
    renamed: dict[str, np.ndarray] = {}
    parts: dict[str, dict[str, np.ndarray]] = {}
    for name, array in named.items():
        if not name.startswith(root):
            renamed[_OUTSIDE.get(name, name)] = array
            continue
        inner = name.removeprefix(root)
        block = _BLOCK.fullmatch(inner)
        if block and (part := _PART.fullmatch(block[2])):
            whole = f"blocks.{block[1]}.attn.qkv.{part[2]}"
            parts.setdefault(whole, {})[part[1]] = array
            continue
        renamed[_timm_name(inner, block)] = array
    for name, three in parts.items():
        if len(three) == 3:  # else the missing entry will be named
            renamed[name] = np.concatenate([three[each] for each in ("query", "key", "value")])
    return renamed, True


def _timm_name(inner: str, block: re.Match[str] | None) -> str:
    """Returns timm's name of an entry, or the name itself if it is unknown."""
    names, rest = (_NAMES, inner) if block is None else (_IN_BLOCKS, block[2])
    for theirs, ours in names.items():
        if rest == theirs or rest.startswith(f"{theirs}."):
            rest = ours + rest.removeprefix(theirs)
            return rest if block is None else f"blocks.{block[1]}.{rest}"
    return inner


def without_layer_scale(arrays: Mapping[str, np.ndarray], root: str) -> dict[str, np.ndarray]:
    """Multiplies the factors of LayerScale into the layers before them, which gives the same.

    Args:
        arrays: entries under timm's names behind `root`.
        root: prefix of the encoder's entries.
    """
    factors = {name: found for name in arrays if (found := _SCALE.fullmatch(name[len(root) :]))}
    scaled = {name: array for name, array in arrays.items() if name not in factors}
    for name, found in factors.items():
        factor = arrays[name]
        for leaf in ("weight", "bias"):
            place = f"{root}blocks.{found[1]}.{_SCALED[found[2]]}.{leaf}"
            if place in scaled and scaled[place].shape[:1] == factor.shape:
                array = scaled[place]
                by_row = factor.astype(np.float64).reshape(-1, *[1] * (array.ndim - 1))
                scaled[place] = (array * by_row).astype(array.dtype)
    return scaled
