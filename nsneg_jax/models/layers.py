"""Convolution and linear layers with PyTorch's geometry and initial values.

Initial values are drawn on the host: JAX's generator would compile one program per shape, which
takes ten seconds, and would draw other values in float64. Parameters stay in their own dtype until
a layer uses them, and their gradients are summed in it, over devices too.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from nsneg_jax.models.convolution import convolution, linear


class Conv(nnx.Module):
    """Convolution without bias, padded by (size - 1) / 2.

    Initial values are He's with fan-out (He et al. 2015), as in torchvision's ResNets.

    Args:
        inputs: input channels.
        outputs: output channels.
        size: side of the kernel, odd.
        stride: stride in both directions.
        rng: generator of the initial values; None leaves them zero.
        dtype: dtype of the computation and the result.
        param_dtype: dtype of the kernel.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        stride: int = 1,
        *,
        rng: np.random.Generator | None,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
    ):
        std = (2 / (outputs * size * size)) ** 0.5
        shape = (size, size, inputs, outputs)
        values = np.zeros(shape) if rng is None else rng.normal(0, std, shape)
        self.kernel = nnx.Param(jnp.asarray(values, param_dtype))
        self.stride = stride
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N, H, W, inputs] to [N, ceil(H / stride), ceil(W / stride), outputs]."""
        return convolution(x.astype(self.dtype), self.kernel[...], self.stride)


class Linear(nnx.Module):
    """Affine map with PyTorch's initial values, uniform within 1 / sqrt(inputs).

    Takes the arguments of `Conv` except `size` and `stride`, and `bias`: whether it has one.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        bias: bool = True,
        rng: np.random.Generator | None,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
    ):
        def draw(*shape: int) -> jax.Array:
            values = np.zeros(shape) if rng is None else rng.uniform(-bound, bound, shape)
            return jnp.asarray(values, param_dtype)

        bound = inputs**-0.5
        self.kernel = nnx.Param(draw(inputs, outputs))
        self.bias = nnx.Param(draw(outputs)) if bias else None
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N, inputs] to [N, outputs]."""
        y = linear(x.astype(self.dtype), self.kernel[...])
        if self.bias is not None:
            y = y + self.bias[...]
        return y.astype(self.dtype)
