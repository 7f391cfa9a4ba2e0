"""Convolutions, their gradients and max-pooling in forms that XLA runs fast on CPUs.

Only programs for CPUs use these forms, see `convolution` and `pooling`; docs/benchmarks.md reports
their gain. XLA's own convolutions remain where they are as fast: forward, except for 1x1 kernels
and maps smaller than the kernel, and for all gradients of small maps.
"""

from functools import partial

import jax
import jax.numpy as jnp

from nsneg_jax.models.trilinear import LAYOUT, Convolution, X, factor

# Smallest side of an output for which gradients by matrix products are faster; at 14 they are not.
_LARGE = 28


def convolution(*given: jax.Array, of: Convolution, wanted: int) -> jax.Array:
    """Computes the wanted factor of a convolution from the two others; see `trilinear.factor`."""
    sides = of.x[1:3]
    output, kernel_gradient = of.output, of.kernel_gradient
    if of.size == 1 or min(sides) < of.size:
        output, kernel_gradient = partial(_one_product, of), partial(_one_product_gradient, of)
    elif min(sides) >= _LARGE * of.stride:
        kernel_gradient = partial(_product_per_row, of)
        if wanted == X and of.stride > 1:
            kernel, cotangent = given
            return _input_gradient(of, kernel.astype(of.dtype), cotangent)
    return factor(of, wanted, *given, output=output, kernel_gradient=kernel_gradient)


def _one_product(of: Convolution, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes the output as one matrix product of all taps.

    A 1x1 convolution is such a product anyway; if the kernel is larger than the map, XLA's
    convolution would swap the operands.
    """
    taps = _all_taps(of, x)
    # Two axes, because the gradient of a product with four would be transposed in memory.
    matrix = kernel.reshape(-1, kernel.shape[3])
    y = jnp.dot(taps.reshape(-1, taps.shape[3]), matrix, precision=of.precision)
    return y.reshape(of.y)


def _one_product_gradient(of: Convolution, x: jax.Array, cotangent: jax.Array) -> jax.Array:
    return _over_images(of, _all_taps(of, x), cotangent).reshape(of.kernel)


def _all_taps(of: Convolution, x: jax.Array) -> jax.Array:
    """Gathers the inputs under the kernel at each place of the output, [N, H', W', k k C]."""
    size, stride = of.size, of.stride
    _, height, width, _ = x.shape
    x = jnp.pad(x, ((0, 0), of.padding, of.padding, (0, 0)))
    taps = [
        x[:, i : i + height : stride, j : j + width : stride]
        for i in range(size)
        for j in range(size)
    ]
    return jnp.concatenate(taps, axis=-1)


def _over_images(of: Convolution, a: jax.Array, b: jax.Array) -> jax.Array:
    """Sums the products of a [N, H, W, C] and b [N, H, W, D] over all pixels, [C, D]."""
    return jax.lax.dot_general(
        a.reshape(-1, a.shape[3]),
        b.reshape(-1, b.shape[3]),
        (((0,), (0,)), ((), ())),
        precision=of.precision,
        preferred_element_type=of.kernel_dtype,
    )


def _product_per_row(of: Convolution, x: jax.Array, cotangent: jax.Array) -> jax.Array:
    """Computes the kernel's gradient as one matrix product per row of taps.

    Each product covers all columns of taps, from shifted copies of one of its factors: the
    narrower one, if there is a choice.
    """
    size, stride = of.size, of.stride
    rows, columns, outputs = cotangent.shape[1:]
    inputs = x.shape[3]
    x = jnp.pad(x, ((0, 0), of.padding, of.padding, (0, 0)))

    def strided(x: jax.Array, axis: int, first: int, count: int) -> jax.Array:
        last = first + stride * (count - 1)
        return jax.lax.slice_in_dim(x, first, last + 1, stride, axis)

    if stride == 1 and outputs <= inputs:
        wide, around = columns + size - 1, size - 1
        cotangent = jnp.pad(cotangent, ((0, 0), (0, 0), (around, around), (0, 0)))
        copies = [cotangent[:, :, around - j : around - j + wide] for j in range(size)]
        shifted = jnp.concatenate(copies, axis=-1)
        products = [_over_images(of, strided(x, 1, i, rows), shifted) for i in range(size)]
        return jnp.stack(products).reshape(size, inputs, size, outputs).swapaxes(1, 2)
    shifted = jnp.concatenate([strided(x, 2, j, columns) for j in range(size)], axis=-1)
    products = [_over_images(of, strided(shifted, 1, i, rows), cotangent) for i in range(size)]
    return jnp.stack(products).reshape(of.kernel)


def _input_gradient(of: Convolution, kernel: jax.Array, cotangent: jax.Array) -> jax.Array:
    """Computes the input's gradient [N, H, W, C] of a strided convolution, without dilation."""
    size, stride, pad = of.size, of.stride, of.padding[0]
    _, _, inputs, outputs = kernel.shape
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
        dimension_numbers=LAYOUT,
        precision=of.precision,
    )
    n, rows, columns, _ = gradient.shape
    gradient = gradient.reshape(n, rows, columns, stride, stride, inputs)
    gradient = gradient.transpose(0, 1, 3, 2, 4, 5)
    gradient = gradient.reshape(n, rows * stride, columns * stride, inputs)
    return gradient[:, pad : pad + of.x[1], pad : pad + of.x[2]]


def max_pool(x: jax.Array) -> jax.Array:
    """Takes 3x3 maxima of x [N, H, W, C] at stride 2 with padding 1.

    Works on slices, first along H, then along W: the gradient of `reduce_window` takes XLA three
    times as long. Equal values share the gradient.
    """
    for axis in (1, 2):
        pad = [(0, 0)] * 4
        pad[axis] = (1, 1)
        x = jnp.pad(x, pad, constant_values=-jnp.inf)
        length = x.shape[axis]
        taps = [jax.lax.slice_in_dim(x, i, length - 2 + i, 2, axis) for i in range(3)]
        x = jnp.maximum(jnp.maximum(taps[0], taps[1]), taps[2])
    return x
