"""Names and shapes in PyTorch state dicts of the original, its linear probe and torchvision.

Keys identify three kinds: a pre-training state (`encoder_q.*`, `encoder_k.*`, `queue` [dim, K],
`queue_ptr` [1]), a linear probe (torchvision's names with an `fc`), and a plain torchvision ResNet.
Every key may carry DistributedDataParallel's prefix `module.`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nsneg_jax import models
from nsneg_jax.errors import UsageError
from nsneg_jax.models.encoder import Tree
from nsneg_jax.models.resnet import ARCHS, STEMS
from nsneg_jax.pytorch.names import (
    COUNTER,
    counter_names,
    in_torch_order,
    is_parameter,
    to_state_dict,
)

Arrays = dict[str, np.ndarray]

PRETRAINING = "official pre-training state"
PROBE = "linear-probe state"
TORCHVISION = "torchvision ResNet"
QUERY, KEY = "encoder_q.", "encoder_k."
MODULE = "module."
RECORD = "nsneg_jax"  # entry beside the state dict, in the files that this package writes
_LISTED = 5  # keys to name in a message


@dataclass(frozen=True)
class Found:
    """A state dict with every key accounted for.

    Attributes:
        kind: PRETRAINING, PROBE or TORCHVISION.
        prefix: prefix of every key, 'module.' or ''.
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
    probe: bool = False,
) -> Found:
    """Recognises a state dict and checks each of its keys.

    Args:
        state_dict: arrays by key.
        origin: name of the file, for messages.
        arch: arch stated in the file; None derives it from the keys.
        stem: stem of a network with a 3x3 first convolution: 'small' or 'small_stride2', which have
            the same shapes.
        probe: whether the surrounding dict belongs to a probe, if the keys leave it open.

    Raises:
        UsageError: it is none of the three kinds; keys are missing, surplus or have another shape
            or dtype; `arch` contradicts the keys, or is unknown.
    """
    _check_values(state_dict, origin)
    prefix = MODULE if any(name.startswith(MODULE) for name in state_dict) else ""
    body = {n.removeprefix(prefix): a for n, a in state_dict.items() if n.startswith(prefix)}
    pretraining = any(name.startswith(QUERY) for name in body)
    parts = (QUERY, KEY) if pretraining else ("",)
    first = {n.removeprefix(parts[0]): a for n, a in body.items() if n.startswith(parts[0])}
    if not any(name.startswith(("conv1.", "layer1.")) for name in first):
        raise UsageError(
            f"{origin} is neither a pre-training state of the original (with encoder_q.conv1.weight"
            " and so on), nor a linear probe's, nor a torchvision ResNet (with conv1.weight). Its "
            f"keys are {_listed(map(repr, state_dict))}."
        )
    model = _model(first, origin, arch, stem, head=pretraining)
    dtypes = Counter(str(array.dtype) for array in state_dict.values())
    model["dtype"] = "float64" if dtypes["float64"] > dtypes["float32"] else "float32"

    has_fc = any(name.startswith("fc.") for name in first)
    outputs = _vote(_first_axis(first, "fc.weight", "fc.bias"))
    if pretraining:
        model["dim"] = _vote(
            _first_axis(first, "fc.2.weight", "fc.2.bias", "fc.weight", "fc.bias")
            + _first_axis(body, "queue")
        )
    _, params, stats = models.structure(**model)
    layout = {name: leaf.shape for name, leaf in _shapes(params, stats).items()}
    if not pretraining and has_fc:
        features = layout[_last_statistic(layout)][0]
        layout |= {"fc.weight": (outputs, features), "fc.bias": (outputs,)}
    counted = any(name.endswith(COUNTER) for name in body)
    counters = dict.fromkeys(counter_names(layout), ()) if counted else {}
    expected = {f"{prefix}{part}{n}": s for part in parts for n, s in (layout | counters).items()}
    if pretraining:
        queue = body.get("queue")
        keys = (queue.shape[1] if queue is not None and queue.ndim == 2 else 0) or "K"
        expected |= {f"{prefix}queue": (model["dim"], keys), f"{prefix}queue_ptr": (1,)}

    if pretraining:
        kind = PRETRAINING
    elif has_fc and (prefix or probe or outputs != 1000):
        kind = PROBE
    else:
        kind = TORCHVISION
    _check_keys(state_dict, expected, f"{origin}, taken for a {kind} of {model['arch']},")
    _check_dtypes(state_dict, model["dtype"], origin)
    return Found(
        kind=kind,
        prefix=prefix,
        model=model,
        encoders={part: {name: body[part + name] for name in layout} for part in parts},
        counters={n: int(a) for n, a in state_dict.items() if n.endswith(COUNTER)} or None,
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


def read_momentum(optimizer: Any, params: Arrays, origin: str) -> Arrays | None:
    """Reads the query encoder's momentum buffers, by name, from the state dict of a torch SGD.

    Args:
        optimizer: state dict of the optimiser. It numbers the parameters of encoder_q, then those
            of encoder_k, which has no gradients and so no buffers.
        params: parameters of the query encoder by torchvision name.
        origin: name of the file, for messages.

    Returns:
        The buffers by torchvision name; None if there are none, as before the first step.

    Raises:
        UsageError: buffers are missing, have another shape, or exceed the parameters.
    """
    names = in_torch_order(params)
    try:
        order = [number for group in optimizer["param_groups"] for number in group["params"]]
        buffers = {
            order.index(number): entry["momentum_buffer"]
            for number, entry in optimizer["state"].items()
            if entry.get("momentum_buffer") is not None
        }
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise UsageError(
            f"The optimizer in {origin} is no state dict of torch.optim.SGD: {error!r}. Remove "
            "'optimizer' from the file to start from zero momentum."
        ) from error
    if not buffers:
        return None
    found = {names[n] if n < len(names) else f"parameter {n}": b for n, b in buffers.items()}
    _check_values(found, f"The optimizer in {origin}")
    _check_keys(
        found,
        {name: params[name].shape for name in names},
        f"The optimizer in {origin}, by the names of the query encoder's parameters,",
    )
    _check_dtypes(found, str(params[names[0]].dtype), f"the optimizer in {origin}")
    return found


def write_momentum(buffers: Arrays, settings: Mapping[str, Any], parameters: int) -> dict[str, Any]:
    """Inverts `read_momentum`: makes a state dict for torch's SGD over `parameters` parameters.

    Args:
        buffers: buffers of the query encoder by torchvision name.
        settings: lr, momentum, weight_decay and other entries of a parameter group.
        parameters: number of parameters of both encoders.
    """
    defaults = {
        "dampening": 0, "nesterov": False, "maximize": False, "foreach": None,
        "differentiable": False, "fused": None,
    }  # fmt: skip
    return {
        "state": {
            number: {"momentum_buffer": buffers[name]}
            for number, name in enumerate(in_torch_order(buffers))
        },
        "param_groups": [defaults | dict(settings) | {"params": list(range(parameters))}],
    }


def in_torchvision(model: Mapping[str, Any]) -> bool:
    """Returns whether torchvision has this backbone."""
    return model["arch"] != "resnet8" and model["width"] == 64 and model["stem"] == "imagenet"


def parameter_names(arrays: Iterable[str]) -> list[str]:
    """Returns an encoder's parameter names, in the optimiser's order."""
    return in_torch_order(filter(is_parameter, arrays))


def _model(
    arrays: Arrays, origin: str, arch: str | None, stem: str | None, head: bool
) -> dict[str, Any]:
    """Derives the model section, without dim and dtype, from keys and shapes of one encoder."""
    mlp = head and any(name.startswith(("fc.0.", "fc.2.")) for name in arrays)
    width = _vote(_first_axis(arrays, "conv1.weight", "bn1.weight", "bn1.bias", "bn1.running_mean"))
    return {
        "arch": _arch(arrays, origin, arch),
        "dim": 0,
        "mlp": mlp,
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


def _check_dtypes(state_dict: Mapping[str, np.ndarray], common: str, origin: str) -> None:
    for name, array in state_dict.items():
        expected = "int64" if name.endswith((COUNTER, "queue_ptr")) else common
        if str(array.dtype) != expected:
            raise UsageError(
                f"{name} in {origin} has dtype {array.dtype}, expected {expected}. Convert it "
                "with PyTorch first."
            )


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


def _check_values(arrays: Mapping[Any, Any], origin: str) -> None:
    for name, array in arrays.items():
        if not isinstance(name, str) or not isinstance(array, np.ndarray):
            raise UsageError(
                f"The entry {name!r} in {origin} is a {type(array).__name__}, not a plain tensor "
                "under a name. Give a file with a state dict of only tensors."
            )


def _check_keys(
    found: Mapping[str, np.ndarray], expected: Mapping[str, tuple], origin: str
) -> None:
    """Raises UsageError, naming missing, surplus and wrongly shaped entries."""
    missing = [name for name in expected if name not in found]
    surplus = [name for name in found if name not in expected]
    wrong = [
        f"{name} of shape {tuple(array.shape)}, expected {expected[name]}"
        for name, array in found.items()
        if name in expected and tuple(array.shape) != expected[name]
    ]
    problems = [
        f"{label} {_listed(names)}"
        for label, names in (
            ("misses", missing), ("has, beyond what belongs to it,", surplus), ("has", wrong)
        )
        if names
    ]  # fmt: skip
    if problems:
        raise UsageError(
            f"{origin} {'; '.join(problems)}. Nothing was written; the file is incomplete or holds "
            "another network."
        )


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
