"""Counts the FLOPs of a program before compilation."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from nsneg_jax.models.trilinear import Convolution


def flops_of(jaxpr: Any, wanted: Sequence[bool] | None = None) -> float:
    """Counts the FLOPs of the matrix products and convolutions in a jaxpr, open or closed.

    A multiplication and an addition are two FLOPs. Taps on the padding count; unused results do
    not. The compiled program cannot give the count: on GPUs both are calls to libraries, whose
    FLOPs XLA does not know. A loop of unknown length counts once. Of branches only the cheapest
    counts, because ours are forms of one operation for different platforms.

    Args:
        jaxpr: the program.
        wanted: whether each of its results is used; None = all.
    """
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    results = jaxpr.outvars
    if wanted is not None and len(wanted) == len(results):
        results = [result for result, used in zip(results, wanted, strict=True) if used]
    needed = set(map(id, results))
    total = 0.0
    for equation in reversed(jaxpr.eqns):
        used = [id(result) in needed for result in equation.outvars]
        if not any(used) and not equation.effects:
            continue
        needed.update(map(id, equation.invars))
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            taps = math.prod(shape[axis] for axis in contracted)
            total += 2 * equation.outvars[0].aval.size * taps
        elif name == "conv_general_dilated":
            outputs, *_ = params["dimension_numbers"].rhs_spec
            kernel = equation.invars[1].aval
            taps = kernel.size / kernel.shape[outputs]
            # A dilated input has zeros between its entries.
            taps /= math.prod(params["lhs_dilation"])
            total += 2 * equation.outvars[0].aval.size * taps
        elif isinstance(of := params.get("of"), Convolution):  # a gradient takes as many
            total += 2 * math.prod(of.y) * math.prod(of.kernel[:3])
        else:
            # The next iteration of a loop needs all its results.
            loops = name in ("scan", "while")
            inner = [flops_of(each, None if loops else used) for each in _inner_jaxprs(params)]
            within = min(inner) if name == "cond" else sum(inner)
            if name == "scan":
                within *= params["length"]
            if name == "shard_map":
                within *= params["mesh"].size  # each device does as much
            total += within
    return total


def _inner_jaxprs(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            if hasattr(getattr(each, "jaxpr", each), "eqns"):
                yield each
