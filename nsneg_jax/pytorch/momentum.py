"""Reads and writes the momentum buffers in the state dict of PyTorch's SGD."""

from collections.abc import Mapping
from typing import Any

from nsneg_jax.pytorch.checks import check_dtypes, check_finite, check_keys, check_values, widened
from nsneg_jax.pytorch.names import in_torch_order
from nsneg_jax.pytorch.states import Arrays

_NUMBERED = "by the names of the query encoder's parameters,"


def read_momentum(optimizer: Any, params: Arrays, origin: str) -> tuple[Arrays | None, str]:
    """Reads the query encoder's momentum buffers from the state dict of the original's SGD.

    Args:
        optimizer: state dict of the optimiser. The original's numbers the parameters of encoder_q,
            then those of encoder_k, which have no gradients and so no buffers.
        params: parameters of the query encoder by torchvision name.
        origin: name of the file, for messages.

    Returns:
        The buffers by torchvision name, and ''; or None and why there are none: they are empty, as
        before the first step, or belong to another program's optimiser.

    Raises:
        UsageError: it is the original's, but buffers are missing, have another shape, or are not
            finite.
    """
    names = in_torch_order(params)
    try:
        numbers = [number for group in optimizer["param_groups"] for number in group["params"]]
        state = dict(optimizer["state"].items())
        kept = {name for entry in state.values() for name in entry}
        order = {number: place for place, number in enumerate(numbers)}
        buffers = {
            order[number]: entry["momentum_buffer"]
            for number, entry in state.items()
            if entry.get("momentum_buffer") is not None
        }
    except (TypeError, KeyError, AttributeError, ValueError):
        return None, "the file's 'optimizer' is no state dict of torch.optim.SGD"
    if not numbers:
        return None, "the file's 'optimizer' is empty"
    if len(numbers) not in (len(names), 2 * len(names)):
        return None, (
            f"the file's 'optimizer' is of another program: it has {len(numbers)} parameters, "
            f"where the query encoder has {len(names)}"
        )
    if not buffers:
        others = kept - {"momentum_buffer"}
        return None, (
            f"the file's 'optimizer' keeps {', '.join(sorted(map(str, others)))} instead, so it is "
            "no SGD"
            if others
            else "the file's 'optimizer' has no buffers yet"
        )
    found = {names[n] if n < len(names) else f"parameter {n}": b for n, b in buffers.items()}
    of = f"the optimizer in {origin}"
    check_values(found, of)
    shapes = {name: params[name].shape for name in names}
    check_keys(found, shapes, f"The optimizer in {origin}, {_NUMBERED}")
    dtype = str(params[names[0]].dtype)
    found, _ = widened(found, dtype)
    check_dtypes(found, dtype, of)
    check_finite({f"the momentum of {name}": buffer for name, buffer in found.items()}, origin)
    return found, ""


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
