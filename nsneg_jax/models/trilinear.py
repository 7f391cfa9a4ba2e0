"""A convolution and its gradients as one trilinear form <y, conv(x, kernel)> of three factors."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
from jax.typing import DTypeLike

X, KERNEL, Y = range(3)  # the factors
LAYOUT = ("NHWC", "HWIO", "NHWC")


@dataclass(frozen=True)
class Convolution:
    """A convolution with a kernel of k x k taps.

    It is computed in the dtype of the input. The kernel may have a wider dtype, in which its
    gradient is summed, over devices too; a plain transpose would sum in the input's dtype.

    Attributes:
        x: shape [N, H, W, C] of the input.
        kernel: shape [k, k, C, D] of the kernel.
        stride: stride in both directions.
        padding: zeros before and after the input, in both directions.
        precision: precision of the products, see `jax.lax.Precision`.
        dtype: dtype of input and output.
        kernel_dtype: dtype of the kernel and its gradient.
    """

    x: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: int
    padding: tuple[int, int]
    precision: jax.lax.PrecisionLike
    dtype: DTypeLike
    kernel_dtype: DTypeLike

    @property
    def size(self) -> int:
        """k, the side of the kernel."""
        return self.kernel[0]

    @property
    def y(self) -> tuple[int, ...]:
        """Shape [N, H', W', D] of the output."""
        reach = sum(self.padding) - self.size
        rows, columns = ((side + reach) // self.stride + 1 for side in self.x[1:3])
        return self.x[0], rows, columns, self.kernel[3]

    def like(self, factor: int) -> jax.ShapeDtypeStruct:
        """Returns shape and dtype of a factor, `X`, `KERNEL` or `Y`."""
        dtype = self.kernel_dtype if factor == KERNEL else self.dtype
        return jax.ShapeDtypeStruct((self.x, self.kernel, self.y)[factor], dtype)

    def output(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Computes the output by XLA's convolution; the kernel has the input's dtype."""
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (self.stride, self.stride),
            (self.padding, self.padding),
            dimension_numbers=LAYOUT,
            precision=self.precision,
        )

    def kernel_gradient(self, x: jax.Array, cotangent: jax.Array) -> jax.Array:
        """Computes the gradient of the kernel by XLA's convolution."""
        before = self.padding[0]
        # How far the taps of the last row and column of the output reach beyond the input.
        behind = [
            self.stride * (steps - 1) + self.size - before - side
            for side, steps in zip(self.x[1:3], self.y[1:3], strict=True)
        ]
        return jax.lax.conv_general_dilated(
            x,
            cotangent,
            (1, 1),
            [(before, after) for after in behind],
            rhs_dilation=(self.stride, self.stride),
            dimension_numbers=("CHWN", "IHWO", "HWNC"),
            precision=self.precision,
            preferred_element_type=self.kernel_dtype,
        )


def factor(
    of: Convolution,
    wanted: int,
    *given: jax.Array,
    output: Callable[[jax.Array, jax.Array], jax.Array],
    kernel_gradient: Callable[[jax.Array, jax.Array], jax.Array],
) -> jax.Array:
    """Computes the output or a gradient of a convolution.

    Args:
        of: the convolution.
        wanted: `Y` for the output, `X` or `KERNEL` for the gradient of the input or the kernel.
        given: the two other factors, in the order x, kernel, y; y is the output's cotangent.
        output: computes the output from input and kernel, both in the convolution's dtype.
        kernel_gradient: computes the kernel's gradient from the input and the output's cotangent.
    """
    if wanted == KERNEL:
        return kernel_gradient(*given)
    if wanted == Y:
        x, kernel = given
        return output(x, kernel.astype(of.dtype))
    kernel, cotangent = given[0].astype(of.dtype), given[1]
    (gradient,) = jax.linear_transpose(lambda x: output(x, kernel), of.like(X))(cotangent)
    return gradient
