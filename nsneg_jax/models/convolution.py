"""Convolutions of residual networks, in forms that XLA is quick at.

A 1x1 convolution is a matrix product everywhere. The others are XLA's convolutions, except where
XLA on CPU takes several times as long for them as for matrix products of the same size
(docs/benchmarks.md): on maps smaller than the kernel, and the gradients of those of large maps.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp

# Sides of the results from which the gradients as products are worth it on CPU; at 14 they are not.
_LARGE = 28


def convolution(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **options,
) -> jax.Array:
    """What `jax.lax.conv_general_dilated` returns, for flax's `Conv`.

    Args:
        x: [N, H, W, C].
        kernel: [k, k, C, D], k odd.
        strides: the same two.
        padding: (k - 1) / 2 on all sides.
        options: of `conv_general_dilated`; no dilation and no groups.

    Returns:
        [N, ceil(H / stride), ceil(W / stride), D].
    """
    size, stride = kernel.shape[0], strides[0]
    sides = x.shape[1:3]
    if size == 1:
        return _pointwise(x, kernel, stride, options.get("precision"))
    if min(sides) < size:
        return _small_map(x, kernel, stride, options.get("precision"))
    convolve = partial(
        jax.lax.conv_general_dilated, window_strides=strides, padding=padding, **options
    )
    if min(sides) < _LARGE * stride:
        return convolve(x, kernel)
    return _large_map(convolve, x, kernel, stride, options.get("precision"))


def _pointwise(
    x: jax.Array, kernel: jax.Array, stride: int, precision: jax.lax.PrecisionLike
) -> jax.Array:
    """A 1x1 convolution as the matrix product it is."""
    x = x[:, ::stride, ::stride]
    # of two axes: the gradient of one with four would be transposed in memory
    y = jnp.dot(x.reshape(-1, x.shape[3]), kernel[0, 0], precision=precision)
    return y.reshape(*x.shape[:3], -1)


def _small_map(
    x: jax.Array, kernel: jax.Array, stride: int, precision: jax.lax.PrecisionLike
) -> jax.Array:
    """A convolution as one matrix product of all taps.

    XLA on CPU swaps the operands where the kernel is larger than the map.
    """
    size = kernel.shape[0]
    _, height, width, inputs = x.shape
    pad = (size - 1) // 2
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    taps = [
        x[:, i : i + height : stride, j : j + width : stride]
        for i in range(size)
        for j in range(size)
    ]
    kernel = kernel.reshape(1, 1, size * size * inputs, -1)
    return _pointwise(jnp.concatenate(taps, axis=-1), kernel, 1, precision)


def _large_map(
    convolve: Callable[[jax.Array, jax.Array], jax.Array],
    x: jax.Array,
    kernel: jax.Array,
    stride: int,
    precision: jax.lax.PrecisionLike,
) -> jax.Array:
    """A convolution whose gradients on CPU are made otherwise than XLA's."""

    def of_convolution(x: jax.Array, kernel: jax.Array, cotangent: jax.Array):
        return jax.vjp(convolve, x, kernel)[1](cotangent)

    def on_cpu(x: jax.Array, kernel: jax.Array, cotangent: jax.Array):
        return (
            _input_gradient(convolve, x, kernel, cotangent, stride, precision),
            _kernel_gradient(x, cotangent, kernel.shape[0], stride, precision),
        )

    def gradients(kept: tuple[jax.Array, jax.Array], cotangent: jax.Array):
        return jax.lax.platform_dependent(*kept, cotangent, cpu=on_cpu, default=of_convolution)

    with_gradients = jax.custom_vjp(convolve)
    with_gradients.defvjp(lambda x, kernel: (convolve(x, kernel), (x, kernel)), gradients)
    return with_gradients(x, kernel)


def _kernel_gradient(
    x: jax.Array, cotangent: jax.Array, size: int, stride: int, precision: jax.lax.PrecisionLike
) -> jax.Array:
    """Gradient of the kernel, [size, size, C, D], as a matrix product for each row of taps.

    A product has all columns of taps at once, from shifted copies of one of its factors: of the
    narrower one, if there is a choice.

    Args:
        x: [N, H, W, C], what was convolved.
        cotangent: [N, H', W', D], of the result.
    """
    rows, columns, outputs = cotangent.shape[1:]
    inputs, pad = x.shape[3], (size - 1) // 2
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))

    def product(a: jax.Array, b: jax.Array) -> jax.Array:
        """Over all axes but the last."""
        return jax.lax.dot_general(
            a.reshape(-1, a.shape[3]),
            b.reshape(-1, b.shape[3]),
            (((0,), (0,)), ((), ())),
            precision=precision,
            preferred_element_type=jnp.promote_types(x.dtype, jnp.float32),
        )

    def strided(x: jax.Array, axis: int, first: int, count: int) -> jax.Array:
        last = first + stride * (count - 1)
        return jax.lax.slice_in_dim(x, first, last + 1, stride, axis)

    if stride == 1 and outputs <= inputs:
        wide, around = columns + size - 1, size - 1
        cotangent = jnp.pad(cotangent, ((0, 0), (0, 0), (around, around), (0, 0)))
        shifted = [cotangent[:, :, around - j : around - j + wide] for j in range(size)]
        shifted = jnp.concatenate(shifted, axis=-1)
        gradient = jnp.stack([product(strided(x, 1, i, rows), shifted) for i in range(size)])
        gradient = gradient.reshape(size, inputs, size, outputs).swapaxes(1, 2)
    else:
        shifted = jnp.concatenate([strided(x, 2, j, columns) for j in range(size)], axis=-1)
        gradient = [product(strided(shifted, 1, i, rows), cotangent) for i in range(size)]
        gradient = jnp.stack(gradient).reshape(size, size, inputs, outputs)
    return gradient.astype(x.dtype)


def _input_gradient(
    convolve: Callable[[jax.Array, jax.Array], jax.Array],
    x: jax.Array,
    kernel: jax.Array,
    cotangent: jax.Array,
    stride: int,
    precision: jax.lax.PrecisionLike,
) -> jax.Array:
    """Gradient of the input, [N, H, W, C], of a strided convolution without zeros between."""
    if stride == 1:
        return jax.vjp(lambda x: convolve(x, kernel), x)[1](cotangent)[0]
    size, _, inputs, outputs = kernel.shape
    taps = -(-size // stride)
    missing = taps * stride - size
    kernel = jnp.pad(kernel, ((0, missing), (0, missing), (0, 0), (0, 0)))
    kernel = kernel.reshape(taps, stride, taps, stride, inputs, outputs)
    kernel = kernel.transpose(0, 2, 1, 3, 4, 5).reshape(taps, taps, -1, outputs)
    around = (taps - 1, taps - 1)
    gradient = jax.lax.conv_general_dilated(
        cotangent,
        kernel[::-1, ::-1].swapaxes(2, 3),
        (1, 1),
        (around, around),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )
    n, rows, columns, _ = gradient.shape
    gradient = gradient.reshape(n, rows, columns, stride, stride, inputs)
    gradient = gradient.transpose(0, 1, 3, 2, 4, 5)
    gradient = gradient.reshape(n, rows * stride, columns * stride, inputs)
    pad = (size - 1) // 2
    return gradient[:, pad : pad + x.shape[1], pad : pad + x.shape[2]]
