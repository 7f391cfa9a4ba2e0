"""Names and shapes in PyTorch state dicts of the original, its linear probe, torchvision and timm.

Keys identify the kinds: a pre-training state (`encoder_q.*`, `encoder_k.*`, `queue` [dim, K],
`queue_ptr` [1]), a linear probe (torchvision's names with an `fc`), a plain torchvision ResNet and
a plain vision transformer. All but the first may be a part of another program's file; `layouts`
finds them there.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nsneg_jax import models
from nsneg_jax.errors import UsageError
from nsneg_jax.models.encoder import Tree
from nsneg_jax.models.heads import MOCO
from nsneg_jax.models.resnet import ARCHS, STEMS
from nsneg_jax.models.transformers import vit
from nsneg_jax.pytorch.checks import (
    check_dtypes,
    check_finite,
    check_keys,
    check_values,
    listed,
    widened,
)
from nsneg_jax.pytorch.layouts import KEY, QUERY, find_encoder
from nsneg_jax.pytorch.names import (
    COUNTER,
    counter_names,
    in_torch_order,
    to_state_dict,
)
from nsneg_jax.pytorch.transformers.model import (
    POSITIONS_ENTRY,
    in_timm,
    is_transformer,
    model_of,
)

Arrays = dict[str, np.ndarray]

PRETRAINING = "official pre-training state"
PROBE = "linear-probe state"
TORCHVISION = "torchvision ResNet"
TRANSFORMER = "vision transformer"
RECORD = "nsneg_jax"  # entry beside the state dict, in the files that this package writes


@dataclass(frozen=True)
class Found:
    """A state dict with every key accounted for.

    Attributes:
        kind: PRETRAINING, PROBE, TORCHVISION or TRANSFORMER.
        layout: the program or method whose files look so, see `layouts.Layout`.
        passed: numbers of entries that are not the network's, by what their names begin with.
        converted: the half dtypes that became `model`'s, such as 'float16'; '' if none did.
        prefix: prefix of every key, such as 'module.', or ''.
        model: the matching `model` section of a config; dim 0 without projection head.
        encoders: parameters and statistics under torchvision's names (with a probe's `fc`), by
            the part of the key after `prefix`: QUERY and KEY, or ''.
        counters: `num_batches_tracked` by the whole key; None if the file has none, as before
            PyTorch 0.4.1.
        queue: [dim, K], queue of a pre-training state.
        pointer: column of the queue's next write.
        params, stats: trees with the shapes of the encoder.
    """

    kind: str
    layout: str
    passed: dict[str, int]
    converted: str
    prefix: str
    model: dict[str, Any]
    encoders: dict[str, Arrays]
    counters: dict[str, int] | None
    queue: np.ndarray | None
    pointer: int | None
    params: Tree
    stats: Tree

    def filled_queue(self) -> tuple[np.ndarray, int]:
        """`queue` and `pointer` of a pre-training; raises ValueError for a probe."""
        if self.queue is None or self.pointer is None:
            raise ValueError("a probe has no queue")
        return self.queue, self.pointer


def recognise(
    state_dict: Mapping[Any, Any],
    origin: str,
    *,
    arch: str | None = None,
    stem: str | None = None,
    around: Mapping[str, Any] | None = None,
    entry: str = "",
    recorded: Mapping[str, Any] | None = None,
    heads: int | None = None,
) -> Found:
    """Recognises a state dict and checks each key of its encoder.

    Args:
        state_dict: arrays by key.
        origin: name of the file, for messages.
        arch: arch stated in the file; None derives it from the keys.
        stem: stem of a network with a 3x3 first convolution: 'small' or 'small_stride2', which have
            the same shapes.
        around, entry: the dict around the state dict, and its entry there.
        recorded: `model` section in a file of ours; values may be of any type.
        heads: attention heads of a vision transformer, see `transformers.model.model_of`.

    Raises:
        UsageError: there is no ResNet or vision transformer in it, or several; keys of the network
            are missing, surplus or have another shape or dtype, or values that are not finite;
            `arch` contradicts the keys, or is unknown.
    """
    around = around or {}
    check_values(state_dict, origin)
    layout = find_encoder(state_dict, origin, around, entry)
    if layout is None:
        raise UsageError(
            f"{origin} is neither a pre-training state of the original (with encoder_q.conv1.weight"
            " and so on), nor a linear probe's, nor a torchvision ResNet (with conv1.weight), nor "
            "a vision transformer (with patch_embed.proj.weight), nor another program's with such "
            "an encoder. "
            f"Its keys are {listed(map(repr, state_dict))}."
        )
    pretraining, prefix = layout.is_pretraining, layout.root
    body = {n.removeprefix(prefix): a for n, a in layout.arrays.items() if n.startswith(prefix)}
    parts = (QUERY, KEY) if pretraining else ("",)
    first = {n.removeprefix(parts[0]): a for n, a in body.items() if n.startswith(parts[0])}
    if not pretraining and isinstance(arch, str):
        arch = arch.partition(".")[0]  # timm's names end with how the weights were trained
    mlp = pretraining and any(name.startswith(("fc.0.", "fc.2.")) for name in first)
    transformer = is_transformer(first)
    if transformer:
        model = model_of(first, origin, arch, recorded or {}, heads, mlp)
    else:
        model = _model(first, origin, arch, stem, mlp)
    dtypes = Counter(str(array.dtype) for array in layout.arrays.values())
    model["dtype"] = "float64" if dtypes["float64"] > dtypes["float32"] else "float32"

    has_fc = any(name.startswith("fc.") for name in first)
    outputs = _vote(_first_axis(first, "fc.weight", "fc.bias"))
    if pretraining:
        model["dim"] = _vote(
            _first_axis(first, "fc.2.weight", "fc.2.bias", "fc.weight", "fc.bias")
            + _first_axis(body, "queue")
        )
    _, params, stats = models.structure(**model)
    shapes = {name: leaf.shape for name, leaf in _shapes(params, stats).items()}
    if not pretraining and has_fc:
        features = shapes["norm.weight" if transformer else _last_statistic(shapes)][0]
        shapes |= {"fc.weight": (outputs, features), "fc.bias": (outputs,)}
    counted = any(name.endswith(COUNTER) for name in body)
    counters = dict.fromkeys(counter_names(shapes), ()) if counted else {}
    fixed = {n: first[n].shape for n in (POSITIONS_ENTRY,) if n in first and n not in shapes}
    every = shapes | counters | (fixed if transformer else {})
    expected = {f"{prefix}{part}{n}": s for part in parts for n, s in every.items()}
    if pretraining:
        queue = body.get("queue")
        keys = (queue.shape[1] if queue is not None and queue.ndim == 2 else 0) or "K"
        expected |= {f"{prefix}queue": (model["dim"], keys), f"{prefix}queue_ptr": (1,)}

    of_probe = bool(prefix) or "best_acc1" in around or "optimizer" in around
    if pretraining:
        kind = PRETRAINING
    elif has_fc and (of_probe or outputs != 1000):
        kind = PROBE
    else:
        kind = TRANSFORMER if transformer else TORCHVISION
    check_keys(layout.arrays, expected, f"{origin}, taken for a {kind} of {model['arch']},")
    arrays, converted = widened(layout.arrays, model["dtype"])
    check_dtypes(arrays, model["dtype"], origin)
    check_finite(arrays, origin)
    body = {name.removeprefix(prefix): array for name, array in arrays.items()}
    return Found(
        kind=kind,
        layout=layout.name,
        passed=layout.passed,
        converted=converted,
        prefix=prefix,
        model=model,
        encoders={part: {name: body[part + name] for name in shapes} for part in parts},
        counters={n: int(a) for n, a in arrays.items() if n.endswith(COUNTER)} or None,
        queue=body.get("queue"),
        pointer=int(body["queue_ptr"][0]) if pretraining else None,
        params=params,
        stats=stats,
    )


def assemble(
    encoders: Mapping[str, Arrays],
    prefix: str,
    counters: Mapping[str, int] | None,
    queue: np.ndarray | None = None,
    pointer: int | None = None,
) -> Arrays:
    """Inverts `recognise`: makes a state dict with official names and order.

    Args:
        encoders: parameters and statistics by QUERY and KEY, or ''.
        prefix: prefix of every key.
        counters: `num_batches_tracked` by the whole key; None for none.
        queue: [dim, K]; None for a probe.
        pointer: column of the queue's next write; None for a probe.
    """
    state_dict = {}
    if queue is not None:
        state_dict[f"{prefix}queue"] = queue
        state_dict[f"{prefix}queue_ptr"] = np.array([pointer], np.int64)
    for part, arrays in encoders.items():
        names = [*arrays, *(counter_names(arrays) if counters is not None else ())]
        for name in in_torch_order(names):
            key = f"{prefix}{part}{name}"
            state_dict[key] = (
                np.array(counters[key], np.int64)
                if counters is not None and name.endswith(COUNTER)
                else arrays[name]
            )
    return state_dict


def in_torchvision(model: Mapping[str, Any]) -> bool:
    """Returns whether torchvision, or timm for vision transformers, has this backbone."""
    if model["arch"] in vit.ARCHS:
        return in_timm(model)
    return model["arch"] != "resnet8" and model["width"] == 64 and model["stem"] == "imagenet"


def parameter_names(params: Tree) -> list[str]:
    """Returns the names of an encoder's parameters, arrays or shapes, in the optimiser's order."""
    return list(_shapes(params, {}))


def _model(
    arrays: Arrays, origin: str, arch: str | None, stem: str | None, mlp: bool
) -> dict[str, Any]:
    """Derives the model section, without dim and dtype, from keys and shapes of a ResNet."""
    width = _vote(_first_axis(arrays, "conv1.weight", "bn1.weight", "bn1.bias", "bn1.running_mean"))
    if width < 1:
        raise UsageError(
            f"{origin} has no first convolution as ResNets have it (conv1.weight, bn1.weight). "
            "Networks with another stem, such as timm's resnet50d, cannot be converted."
        )
    return {
        "arch": _arch(arrays, origin, arch),
        "dim": 0,
        "mlp": mlp,
        "head": MOCO,
        "head_hidden": 0,
        "width": width,
        "stem": _stem(arrays, origin, stem),
        # A state dict does not show these; use the values of jobs/defaults.py.
        "bn_groups": 8,
        "bn_running": "first",
    }


def _arch(arrays: Arrays, origin: str, stated: str | None) -> str:
    """Returns the stated arch if it fits the keys, else the arch with the nearest blocks."""
    if stated is not None and stated not in tuple(ARCHS):  # may be of any type
        raise UsageError(
            f"{origin} states arch {stated!r}, but must state one of {', '.join(ARCHS)}. Other "
            "networks cannot be converted."
        )
    blocks = {tuple(name.split(".")[:2]) for name in arrays if name.startswith("layer")}
    kind = "bottleneck" if any(".conv3." in name for name in arrays) else "basic"

    def distance(arch: str) -> int:
        ours = {
            (f"layer{stage}", str(index))
            for stage, count in enumerate(ARCHS[arch][1], 1)
            for index in range(count)
        }
        return len(ours ^ blocks) + 1000 * (ARCHS[arch][0] != kind)

    nearest = min(ARCHS, key=distance)
    if stated is None:
        return nearest
    if distance(nearest) == 0 and nearest != stated:
        raise UsageError(
            f"{origin} states arch {stated!r}, but its keys are those of {nearest!r}. Correct "
            "'arch' in the file."
        )
    return stated


def _stem(arrays: Arrays, origin: str, given: str | None) -> str:
    kernel = arrays.get("conv1.weight")
    if kernel is None or kernel.shape[2:] != (3, 3):
        return "imagenet"
    if given not in STEMS[1:]:
        raise UsageError(
            f"The first convolution in {origin} is 3x3, and its shape does not show whether its "
            "stride is 1 or 2. Give --stem small or --stem small_stride2."
        )
    return given


def _shapes(params: Tree, stats: Tree) -> dict[str, np.ndarray]:
    """Returns arrays of the encoder's shapes, without memory, by torchvision name in order."""
    empty = [_like(tree) for tree in (params, stats)]
    shapes = to_state_dict(*empty)
    return {name: shapes[name] for name in in_torch_order(shapes)}


def _like(tree: Tree) -> Tree:
    if isinstance(tree, dict):
        return {name: _like(entry) for name, entry in tree.items()}
    return np.broadcast_to(np.zeros((), tree.dtype), tree.shape)


def _last_statistic(layout: Mapping[str, Any]) -> str:
    """Returns the batch norm that ends the last block; its channels are the features."""
    blocks = [n for n in layout if n.endswith("running_mean") and "downsample" not in n]
    return blocks[-1]


def _first_axis(arrays: Mapping[str, np.ndarray], *names: str) -> list[int]:
    return [arrays[n].shape[0] for n in names if n in arrays and arrays[n].ndim]


def _vote(values: list) -> Any:
    """Returns the most frequent value, so that one wrong shape does not make all others wrong."""
    return Counter(values).most_common(1)[0][0] if values else 0
