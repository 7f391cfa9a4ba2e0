"""Finds the encoder among the entries of a PyTorch file, whichever program wrote it.

Programs differ in the entry that holds the state dict, in the prefixes of its keys, and in what
lies beside the encoder: projection heads, predictors, slower copies, classifiers.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nsneg_jax.errors import UsageError
from nsneg_jax.pytorch.transformers.names import (
    HEAD,
    PATCHES,
    UNUSED,
    from_hugging_face,
    without_layer_scale,
)

QUERY, KEY = "encoder_q.", "encoder_k."
MODULE = "module."

# In order of preference. DINO's teacher is the network that its authors evaluate.
_ENTRIES = ("state_dict", "model_state_dict", "model", "teacher", "student", "net", "network")
_DEEPEST = 3  # dicts in dicts
# torch.compile, and DistributedDataParallel anywhere but at the front
_COMPILED, _PARALLEL = "_orig_mod", "module"
_STAGE = re.compile(r"((?:[^.]+\.)*?)layer\d\.\d+\.")
_FIRST = re.compile(r"((?:[^.]+\.)*?)conv1\.weight")
_PATCHES = re.compile(rf"((?:[^.]+\.)*?){re.escape(PATCHES)}")
# Places in torch.nn.Sequential(*resnet.children()); 2, 3 and 8 have no entries.
_CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
_NUMBERED = re.compile(r"((?:[^.]+\.)*)4\.0\.conv1\.weight")
_SLOW = re.compile(r"(?:^|_)(?:k|key|m|momentum|target|ema)(?:_|$)")
# What may lie beside an encoder without a prefix of its own.
_BESIDE = re.compile(
    r"project|predict|prototype|head|classif|momentum|queue|criterion|loss|^n_averaged$"
)
_HEADS = re.compile(r"project|predict")
_TORCHVISION, _TIMM, _HUGGING_FACE = "torchvision", "timm", "Hugging Face"
_SELF_SUPERVISED = ("encoder_q", "encoder_k", "base_encoder", "momentum_encoder", "online_encoder")


@dataclass(frozen=True)
class Layout:
    """Where the encoder is in a state dict.

    Attributes:
        name: the program or method whose files look so, such as 'SimSiam'.
        root: what stands before each of the encoder's names; before 'encoder_q.' if
            `is_pretraining`.
        arrays: the entries that belong to the encoder, or to the pre-training's state, by name,
            without `torch.compile`'s prefixes and in torchvision's or timm's names of modules.
        passed: numbers of the other entries, by what their names begin with.
        is_pretraining: whether it is a whole state of MoCo v1 or v2: two encoders and a queue.
    """

    name: str
    root: str
    arrays: dict[str, np.ndarray]
    passed: dict[str, int]
    is_pretraining: bool


def find_state_dict(content: Mapping[Any, Any]) -> tuple[Mapping[Any, Any], str]:
    """Returns the state dict in a file's dict, and the name of its entry, '' for the dict itself.

    Args:
        content: what the file holds.
    """
    found, entry = content, ""
    for _ in range(_DEEPEST):
        inner = [name for name in _ENTRIES if _has_entries(found.get(name))]
        if not inner:
            break
        found, entry = found[inner[0]], inner[0]
    return found, entry


def find_encoder(
    state_dict: Mapping[str, np.ndarray], origin: str, around: Mapping[str, Any], entry: str
) -> Layout | None:
    """Finds the encoder in a state dict.

    Args:
        state_dict: arrays by key.
        origin: name of the file, for messages.
        around, entry: the dict around the state dict, and its entry there, see `find_state_dict`.

    Returns:
        The layout; None if no key is a ResNet's or a vision transformer's.

    Raises:
        UsageError: two keys differ only in prefixes, or there are several encoders and none of
            them is the one to take.
    """
    named, numbered = _numbered_children(_plain_names(state_dict, origin))
    named, of_hugging_face = from_hugging_face(named)
    roots = _roots(named)
    if not roots:
        return None
    root = _chosen(roots, origin)
    is_transformer = root + PATCHES in named
    if is_transformer:
        named = _classifier_as_fc(without_layer_scale(named, root), root)
    *_, last = root.removesuffix(".").rpartition(".")
    outer = root.removesuffix(f"{last}.") if last else root
    beside = {name for name in named if name.startswith(outer)}
    whole = any(name.startswith((outer + KEY, f"{outer}queue")) for name in beside)
    if last in ("encoder_q", "encoder_k") and whole:
        mlp = any(name.startswith(f"{root}fc.0.") for name in named)
        return Layout("MoCo v2" if mlp else "MoCo v1", outer, named, {}, True)
    own, others = _own(named, root, last)
    name = _program(root, last, own, others, around, entry, numbered)
    if is_transformer and name == _TORCHVISION:
        name = _HUGGING_FACE if of_hugging_face else _TIMM
    passed = Counter(_group(n, root) for n in others)
    return Layout(name, root, own, dict(passed), False)


def _has_entries(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    nested = any(isinstance(value.get(name), dict) for name in _ENTRIES)
    return nested or any(isinstance(entry, np.ndarray) for entry in value.values())


def _plain_names(state_dict: Mapping[str, np.ndarray], origin: str) -> dict[str, np.ndarray]:
    """Drops prefixes without meaning, except DistributedDataParallel's at the front."""
    plain: dict[str, np.ndarray] = {}
    for key, array in state_dict.items():
        parts = [part for part in key.split(".") if part != _COMPILED]
        name = ".".join(part for place, part in enumerate(parts) if part != _PARALLEL or place == 0)
        if name in plain:
            raise UsageError(
                f"{origin} has two entries for {name}, one of them {key}, with other prefixes. "
                "Save one state dict to a file of its own."
            )
        plain[name] = array
    return plain


def _numbered_children(
    named: dict[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], bool]:
    """Gives a ResNet's modules their names where a `Sequential` numbered them."""
    roots = {found[1] for name in named if (found := _NUMBERED.fullmatch(name))}
    roots = {root for root in roots if f"{root}0.weight" in named}
    if not roots:
        return named, False
    renamed = {}
    for name, array in named.items():
        root = next((root for root in roots if name.startswith(root)), None)
        if root is not None:
            number, _, rest = name[len(root) :].partition(".")
            if number in _CHILDREN:
                name = f"{root}{_CHILDREN[number]}.{rest}"
        renamed[name] = array
    return renamed, True


def _classifier_as_fc(named: dict[str, np.ndarray], root: str) -> dict[str, np.ndarray]:
    """Gives a classifier the name that it has in ResNets."""
    return {
        f"{root}fc.{name.rpartition('.')[2]}"
        if name in (f"{root}{HEAD}.weight", f"{root}{HEAD}.bias")
        else name: array
        for name, array in named.items()
    }


def _roots(names: Mapping[str, Any]) -> list[str]:
    for pattern in (_STAGE, _FIRST, _PATCHES):
        found = {match[1] for name in names if (match := pattern.match(name))}
        if found:
            return sorted(found)
    return []


def _chosen(roots: list[str], origin: str) -> str:
    """Chooses the encoder that a gradient trained, or DINO's teacher."""
    if len(roots) == 1:
        return roots[0]
    parts = {root: root.removesuffix(".").split(".") for root in roots}

    def has(root: str, word: str) -> bool:
        return any(word in part for part in parts[root])

    left = [root for root in roots if not any(map(_SLOW.search, parts[root]))]
    if any(has(root, "teacher") for root in left):
        left = [root for root in left if not has(root, "student")]
        left = [root for root in left if has(root, "teacher")] or left
    if len(left) == 1:
        return left[0]
    raise UsageError(
        f"{origin} holds several encoders: {', '.join(root + '*' for root in left or roots)}. "
        "With PyTorch, save the entries of one of them to a new file, and convert that."
    )


def _own(
    named: dict[str, np.ndarray], root: str, last: str
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Divides the entries into the encoder's, with a classifier `fc`, and the others."""
    plain = root in ("", MODULE)
    head_beside = any(_HEADS.search(name.partition(".")[0]) for name in named)
    fc = [name for name in named if name.startswith(f"{root}fc.")]
    numbered = bool(fc) and all(name[len(root) + 3 :].partition(".")[0].isdecimal() for name in fc)
    is_head = numbered or (last in _SELF_SUPERVISED) or (not plain and head_beside)
    own, others = {}, []
    for name, array in named.items():
        if name.startswith(root):
            module = name[len(root) :].partition(".")[0]
            beside = bool(_BESIDE.search(module)) or (module == "fc" and is_head)
            beside = beside or name[len(root) :] in UNUSED
        else:
            beside = not plain or bool(_BESIDE.search(name.partition(".")[0]))
        if beside:
            others.append(name)
        else:
            own[name] = array
    return own, others


def _group(name: str, root: str) -> str:
    """Returns what an entry belongs to: 'projector', or 'backbone.fc'."""
    inside = root if name.startswith(root) else MODULE if name.startswith(MODULE) else ""
    return inside + name[len(inside) :].partition(".")[0]


def _program(
    root: str,
    last: str,
    own: Mapping[str, np.ndarray],
    others: list[str],
    around: Mapping[str, Any],
    entry: str,
    numbered: bool,
) -> str:
    """Names the program or method whose files look so."""
    beside = {_group(name, root).removeprefix(MODULE) for name in others}

    def any_beside(pattern: str) -> bool:
        return any(re.search(pattern, name) for name in beside)

    if last in ("encoder_q", "encoder_k"):
        version = "v2" if any(name.startswith(f"{root}fc.0.") for name in others) else "v1"
        return f"the {'query' if last == 'encoder_q' else 'key'} encoder of MoCo {version} alone"
    if last in ("base_encoder", "momentum_encoder"):
        return "MoCo v3"
    if entry in ("teacher", "student") or re.search(r"teacher|student", root):
        return "DINO"
    if any_beside("^prototypes") and root in ("", MODULE):
        return "SwAV"
    if numbered or any_beside(r"projection_head|prediction_head|online_classifier|_momentum$"):
        return "lightly"
    if any_beside(r"^projector|^momentum_|^classifier$") and last in ("backbone", "encoder"):
        return "solo-learn"
    if last == "encoder" and any_beside("^predictor$"):
        return "SimSiam"
    if "best_acc1" in around and any(name.startswith(f"{root}fc.") for name in own):
        return "MoCo's linear evaluation"
    if "state_dict_ema" in around or {"version", "arch"} <= around.keys():
        return _TIMM
    if any("lightning" in str(name) for name in around):
        return "PyTorch Lightning"
    return _TORCHVISION
