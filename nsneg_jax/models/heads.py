"""Projection and prediction heads of the methods with two views, as published.

Each is a perceptron of linear layers with batch norm and ReLU between them. They differ in the
number of layers, in their biases and in what follows the last layer:

* 'simclr' (Chen et al. 2020, projection): as many hidden units as features; a last batch norm
  without bias.
* 'byol' (Grill et al. 2020, projection and prediction): 4096 hidden units with bias; no last batch
  norm.
* 'mocov3' (Chen et al. 2021, ResNets): 4096 hidden units; the projection ends in a batch norm
  without scale and bias, the prediction in none.
* 'mocov3_vit' (the same, ViTs): a projection of three layers, a prediction of two; both end in a
  batch norm without scale and bias.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from nsneg_jax.errors import UsageError
from nsneg_jax.models.layers import Linear
from nsneg_jax.models.norm import GroupedBatchNorm


@dataclass(frozen=True)
class Form:
    """What tells one head from another.

    Attributes:
        layers: number of linear layers.
        hidden: number of hidden units; 0 for the number of inputs.
        hidden_bias: whether linear layers before a batch norm have a bias.
        last_norm: scale and bias of the batch norm after the last layer: 'scale' or 'plain'
            (neither); 'none' for no batch norm.
    """

    layers: int
    hidden: int
    hidden_bias: bool
    last_norm: Literal["none", "scale", "plain"]


MOCO = "moco"  # the head that the network itself has: a linear layer or, with `mlp`, two
PROJECTIONS = {
    "simclr": Form(layers=2, hidden=0, hidden_bias=False, last_norm="scale"),
    "byol": Form(layers=2, hidden=4096, hidden_bias=True, last_norm="none"),
    "mocov3": Form(layers=2, hidden=4096, hidden_bias=False, last_norm="plain"),
    "mocov3_vit": Form(layers=3, hidden=4096, hidden_bias=False, last_norm="plain"),
}
PREDICTIONS = {
    "byol": PROJECTIONS["byol"],
    "mocov3": Form(layers=2, hidden=4096, hidden_bias=False, last_norm="none"),
    "mocov3_vit": Form(layers=2, hidden=4096, hidden_bias=False, last_norm="plain"),
}
HEADS = (MOCO, *PROJECTIONS)


class Head(nnx.Module):
    """A perceptron with batch norm; initial values are PyTorch's, as in MoCo-v3.

    Args:
        form: its form.
        inputs: length of the input.
        outputs: length of the output; greater than 0.
        hidden: number of hidden units; 0 for the form's.
        running: `running` of `GroupedBatchNorm`.
        rng: generator of the initial values; None leaves weights zero.
        dtype: dtype of the computation.
        param_dtype: dtype of parameters and statistics.
    """

    def __init__(
        self,
        form: Form,
        inputs: int,
        outputs: int,
        *,
        hidden: int = 0,
        running: str = "first",
        rng: np.random.Generator | None,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
    ):
        linear = partial(Linear, rng=rng, dtype=dtype, param_dtype=param_dtype)
        norm = partial(GroupedBatchNorm, running=running, dtype=dtype, param_dtype=param_dtype)
        self.layers = form.layers
        between = hidden or form.hidden or inputs
        for index in range(form.layers - 1):
            setattr(self, f"layer{index}", linear(inputs, between, bias=form.hidden_bias))
            setattr(self, f"norm{index}", norm(between))
            inputs = between
        last = form.layers - 1
        setattr(self, f"layer{last}", linear(inputs, outputs, bias=False))
        self.has_last_norm = form.last_norm != "none"
        if self.has_last_norm:
            scale = form.last_norm == "scale"
            setattr(self, f"norm{last}", norm(outputs, scale=scale, offset=False))

    def __call__(self, x: jax.Array, groups: int | None = None, passes: int = 1) -> jax.Array:
        """Maps [N * passes, inputs] to [N * passes, outputs]; see `GroupedBatchNorm`."""
        for index in range(self.layers):
            x = getattr(self, f"layer{index}")(x)
            is_last = index == self.layers - 1
            if not is_last or self.has_last_norm:
                norm = getattr(self, f"norm{index}")
                x = norm(x[:, None, None, :], groups, passes)[:, 0, 0, :]
            if not is_last:
                x = nnx.relu(x)
        return x


Projection = Head | nnx.Dict[Linear] | Linear


def projection(
    kind: str,
    inputs: int,
    dim: int,
    *,
    mlp: bool,
    hidden: int,
    running: str,
    rng: np.random.Generator | None,
    dtype: DTypeLike,
    param_dtype: DTypeLike,
) -> Projection:
    """Makes the projection head of a network, its `fc`.

    Args:
        kind: 'moco', or a key of `PROJECTIONS`.
        inputs: length of the features.
        dim: length of the embedding.
        mlp: whether the head 'moco' is Linear - ReLU - Linear (MoCo-v2) instead of one Linear.
        hidden, running, rng, dtype, param_dtype: see `Head`.

    Raises:
        UsageError: there is no such head.
    """
    linear = partial(Linear, rng=rng, dtype=dtype, param_dtype=param_dtype)
    if kind == MOCO:
        if not mlp:
            return linear(inputs, dim)
        return nnx.Dict(hidden=linear(inputs, inputs), output=linear(inputs, dim))
    form = form_of(kind, PROJECTIONS)
    made = partial(Head, form, inputs, dim, hidden=hidden, running=running, rng=rng)
    return made(dtype=dtype, param_dtype=param_dtype)


def project(head: Projection, x: jax.Array, groups: int | None, passes: int) -> jax.Array:
    """Maps features [N * passes, inputs] to embeddings; see `GroupedBatchNorm`."""
    if isinstance(head, Head):
        return head(x, groups, passes)
    if isinstance(head, nnx.Dict):
        return head["output"](nnx.relu(head["hidden"](x)))
    return head(x)


def form_of(kind: str, forms: dict[str, Form]) -> Form:
    """Returns the form of a head by its name.

    Raises:
        UsageError: there is no such head.
    """
    if kind not in forms:
        names = ", ".join(map(repr, forms))
        raise UsageError(f"The head is {kind!r}, but must be one of {names}.")
    return forms[kind]
