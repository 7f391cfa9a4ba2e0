"""Convolutions of residual networks, in the form that suits the platform a program is lowered for.

GPUs and TPUs get XLA's own convolutions and gradients, with one exception: on GPUs the stem of an
ImageNet network works on blocks of 2x2 pixels, because its three input channels would leave the
matrix units idle (the TPU compiler does this by itself). CPUs have their own forms (`cpu`), because
XLA takes several times as long for some convolutions there as for matrix products of equal size.

A convolution y = conv(x, k) and its two gradients are one trilinear form <y, conv(x, k)>, solved
for one of its three factors. Here this form is a JAX primitive: its derivatives, of any order and
in either mode, are the primitive again, and each platform has its own lowering. So a program
compiled on one platform for another gets the forms of the platform it will run on.
"""

import dataclasses
from collections.abc import Sequence
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import PartitionSpec

from nsneg_jax.models import cpu
from nsneg_jax.models.trilinear import KERNEL, Convolution, X, Y, factor

_STEM_CHANNELS = 4
# Half-precision convolutions are fastest with multiples of 8 channels.
_CHANNELS = 8


def convolution(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Convolves images with a kernel of odd size k, padded by (k - 1) / 2 on all sides.

    Args:
        x: [N, H, W, C]; the convolution is computed in its dtype.
        kernel: [k, k, C, D], in the same or a wider dtype, in which its gradient is summed.
        stride: stride in both directions.

    Returns:
        [N, ceil(H / stride), ceil(W / stride), D] in the dtype of x.
    """
    padding = (kernel.shape[0] - 1) // 2
    # Read now: at lowering, a `default_matmul_precision` context may have ended. Half-precision
    # products are exact anyway.
    wide = jnp.finfo(x.dtype).bits > 16
    # the types of JAX before 0.11 lack its options
    asked = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined, unused-ignore]
    precision = asked if wide else None
    of = Convolution(
        x.shape, kernel.shape, stride, (padding, padding), precision, x.dtype, kernel.dtype
    )
    return _convolution_p.bind(x, kernel, of=of, wanted=Y)


def linear(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Multiplies x [N, C] by kernel [C, D], as a convolution of one-pixel images.

    Computes in the dtype of x; the kernel may have a wider one, as in `convolution`.
    """
    return convolution(x[:, None, None], kernel[None, None])[:, 0, 0]


_convolution_p = Primitive("residual_convolution")


@lru_cache
def _compiled(of: Convolution, wanted: int) -> jax.stages.Wrapped:
    return jax.jit(partial(_convolution_p.bind, of=of, wanted=wanted))


@_convolution_p.def_impl
def _impl(*given: jax.Array, of: Convolution, wanted: int) -> jax.Array:
    return _compiled(of, wanted)(*given)


@_convolution_p.def_abstract_eval
def _abstract_eval(*given: ShapedArray, of: Convolution, wanted: int) -> ShapedArray:
    like = of.like(wanted)
    return given[0].update(shape=like.shape, dtype=like.dtype, weak_type=False)


def _transpose(
    place: int, cotangent: jax.Array, *given: jax.Array, of: Convolution, wanted: int
) -> jax.Array:
    """Transposes with respect to the given factor at `place`.

    That factor becomes the wanted one; the cotangent of the formerly wanted one is given.
    """
    places = [p for p in (X, KERNEL, Y) if p != wanted]
    values = {wanted: cotangent, places[1 - place]: given[1 - place]}
    first, second = (values[p] for p in sorted(values))
    if places[place] == KERNEL:
        return _kernel_gradient(first, second, of)
    return _convolution_p.bind(first, second, of=of, wanted=places[place])


def _kernel_gradient(x: jax.Array, cotangent: jax.Array, of: Convolution) -> jax.Array:
    """Computes the kernel's gradient, summed over the ambient mesh's devices in its own dtype.

    The compiler would sum the devices' parts in the narrower dtype of the input.
    """
    gradient = partial(_convolution_p.bind, wanted=KERNEL)
    mesh = jax.sharding.get_abstract_mesh()
    split_here = mesh.size > 1 and mesh.are_all_axes_auto and of.x[0] % mesh.size == 0
    if of.dtype == of.kernel_dtype or not split_here:
        return gradient(x, cotangent, of=of)
    local = dataclasses.replace(of, x=(of.x[0] // mesh.size, *of.x[1:]))

    def summed(x: jax.Array, cotangent: jax.Array) -> jax.Array:
        return jax.lax.psum(gradient(x, cotangent, of=local), mesh.axis_names)

    samples, whole = PartitionSpec(mesh.axis_names), PartitionSpec()
    # Unchecked, because the transposes made in lowering know nothing of devices.
    summed = jax.shard_map(summed, in_specs=(samples, samples), out_specs=whole, check_vma=False)
    return summed(x, cotangent)


ad.defbilinear(_convolution_p, partial(_transpose, 0), partial(_transpose, 1))


def _batch(
    given: Sequence[jax.Array], axes: Sequence[int | None], *, of: Convolution, wanted: int
) -> tuple[jax.Array, int]:
    """Uses XLA's convolution on every platform under `vmap`."""
    return jax.vmap(partial(_for_most, of=of, wanted=wanted), axes)(*given), 0


batching.primitive_batchers[_convolution_p] = _batch


def _for_most(*given: jax.Array, of: Convolution, wanted: int) -> jax.Array:
    forms = {"output": of.output, "kernel_gradient": of.kernel_gradient}
    if of.x[1:3] == (1, 1) and of.size == 1:
        forms = {"output": partial(_dot, of), "kernel_gradient": partial(_dot_gradient, of)}
    return factor(of, wanted, *given, **forms)


def _dot(of: Convolution, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jnp.dot(x[:, 0, 0], kernel[0, 0], precision=of.precision)[:, None, None]


def _dot_gradient(of: Convolution, x: jax.Array, cotangent: jax.Array) -> jax.Array:
    return jnp.einsum(
        "nhwc,nhwd->hwcd",
        x,
        cotangent,
        precision=of.precision,
        preferred_element_type=of.kernel_dtype,
    )


def _for_gpus(*given: jax.Array, of: Convolution, wanted: int) -> jax.Array:
    if wanted == KERNEL and of.kernel_dtype != of.dtype:
        # cuDNN has no convolution with a wider result; XLA would widen the inputs instead.
        narrow = dataclasses.replace(of, kernel_dtype=of.dtype)
        return _for_gpus(*given, of=narrow, wanted=wanted).astype(of.kernel_dtype)
    _, height, width, channels = of.x
    if channels > _STEM_CHANNELS or of.stride != 2 or height % 2 or width % 2:
        return _for_most(*given, of=of, wanted=wanted)

    blocks = _of_blocks(of)

    def output(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return blocks.output(_blocks(x), _block_kernel(kernel, of))

    def kernel_gradient(x: jax.Array, cotangent: jax.Array) -> jax.Array:
        gradient = blocks.kernel_gradient(_blocks(x), cotangent)
        to_blocks = partial(_block_kernel, of=of)
        return jax.linear_transpose(to_blocks, of.like(KERNEL))(gradient)[0]

    return factor(of, wanted, *given, output=output, kernel_gradient=kernel_gradient)


for _platform, _lowered in {
    None: _for_most,
    "cpu": cpu.convolution,
    "cuda": _for_gpus,
    "rocm": _for_gpus,
}.items():
    mlir.register_lowering(
        _convolution_p, mlir.lower_fun(_lowered, multiple_results=False), platform=_platform
    )


def _of_blocks(of: Convolution) -> Convolution:
    """Describes a convolution of stride 2 as one of stride 1 over blocks of 2x2 pixels.

    Products and sums are the same: a block's pixels become channels, and zeros pad the kernel and
    the channels.
    """
    n, height, width, channels = of.x
    # The window of output i starts at pixel 2 i - padding, in block i - before.
    before = -(-of.padding[0] // 2)
    taps = -(-(2 * before - of.padding[0] + of.size) // 2)
    channels = -(-4 * channels // _CHANNELS) * _CHANNELS
    return dataclasses.replace(
        of,
        x=(n, height // 2, width // 2, channels),
        kernel=(taps, taps, channels, of.kernel[3]),
        stride=1,
        padding=(before, taps - 1 - before),
    )


def _blocks(x: jax.Array) -> jax.Array:
    """Maps [N, H, W, C] to [N, H / 2, W / 2, 4 C + zeros], see `_of_blocks`."""
    n, height, width, channels = x.shape
    x = x.reshape(n, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
    x = x.reshape(n, height // 2, width // 2, 4 * channels)
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, -x.shape[3] % _CHANNELS)))


def _block_kernel(kernel: jax.Array, of: Convolution) -> jax.Array:
    """Maps a kernel [k, k, C, D] to the kernel over blocks, see `_of_blocks`."""
    blocks = _of_blocks(of)
    lead = 2 * blocks.padding[0] - of.padding[0]
    around = (lead, 2 * blocks.size - lead - of.size)
    kernel = jnp.pad(kernel, (around, around, (0, 0), (0, 0)))
    kernel = kernel.reshape(blocks.size, 2, blocks.size, 2, *kernel.shape[2:])
    kernel = kernel.transpose(0, 2, 1, 3, 4, 5)
    kernel = kernel.reshape(blocks.size, blocks.size, -1, kernel.shape[5])
    missing = blocks.kernel[2] - kernel.shape[2]
    return jnp.pad(kernel, ((0, 0), (0, 0), (0, missing), (0, 0)))
