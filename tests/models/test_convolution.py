"""Every platform's convolutions and gradients, against XLA's."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nsneg_jax.models import convolution as forms
from nsneg_jax.models.convolution import convolution, linear
from nsneg_jax.models.trilinear import KERNEL, Convolution, X, Y


def of_xla(x, kernel, stride):
    pad = (kernel.shape[0] - 1) // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((pad, pad), (pad, pad)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def loss(convolve, stride, x, kernel):
    y = convolve(x, kernel, stride)
    y = y.astype(jnp.promote_types(y.dtype, jnp.float32))
    return (y * jnp.cos(jnp.arange(y.size).reshape(y.shape))).sum()


def with_gradients(convolve, stride):
    return jax.jit(jax.value_and_grad(partial(loss, convolve, stride), (0, 1)))


def draws(shape, kernel, outputs=6, dtype=np.float64):
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape)
    return x.astype(dtype), rng.normal(size=(kernel, kernel, shape[3], outputs)).astype(dtype)


def assert_close(got, expected, tolerance):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max()),
        got,
        expected,
    )


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("kernel", "height", "width"),
    [
        (1, 7, 6),
        (1, 1, 1),
        (3, 2, 2),
        (3, 1, 2),
        (3, 5, 2),
        (3, 14, 15),
        (3, 56, 57),
        (3, 63, 60),
        (7, 56, 59),
        (7, 71, 64),
    ],
)
# fewer and more than the inputs, on which the form of a gradient depends
@pytest.mark.parametrize("outputs", [3, 6])
def test_values_and_gradients_are_those_of_the_convolution(
    kernel, height, width, stride, outputs, float64
):
    x, w = draws((3, height, width, 5), kernel, outputs)
    expected = with_gradients(of_xla, stride)(x, w)
    assert_close(with_gradients(convolution, stride)(x, w), expected, 1e-12)


@pytest.mark.parametrize(
    ("form", "shape", "kernel", "stride"),
    [
        (forms._for_most, (2, 9, 8, 5), 3, 1),
        (forms._for_most, (2, 9, 8, 5), 3, 2),
        (forms._for_most, (2, 9, 8, 5), 1, 2),
        (forms._for_most, (4, 1, 1, 5), 1, 1),
        (forms._for_gpus, (2, 16, 18, 3), 7, 2),  # on blocks of pixels
        (forms._for_gpus, (2, 16, 18, 4), 3, 2),
        (forms._for_gpus, (2, 16, 18, 1), 5, 2),
        (forms._for_gpus, (2, 16, 17, 3), 7, 2),  # an odd side
        (forms._for_gpus, (2, 16, 18, 5), 3, 2),
    ],
)
def test_forms_of_accelerators(form, shape, kernel, stride, float64):
    """The programs that GPUs and TPUs get, run here."""
    x, w = draws(shape, kernel)
    pad = (kernel - 1) // 2
    of = Convolution(x.shape, w.shape, stride, (pad, pad), None, x.dtype, w.dtype)
    y, transpose = jax.vjp(partial(of_xla, stride=stride), x, w)
    cotangent = np.random.default_rng(1).normal(size=y.shape)
    gradients = transpose(cotangent)
    for wanted, given, expected in (
        (Y, (x, w), y),
        (X, (w, cotangent), gradients[0]),
        (KERNEL, (x, cotangent), gradients[1]),
    ):
        got = jax.jit(partial(form, of=of, wanted=wanted))(*given)
        assert_close(got, expected, 1e-12)


def test_linear_is_a_matrix_product(float64):
    x, w = np.random.default_rng(0).normal(size=(2, 5, 5))
    np.testing.assert_allclose(linear(jnp.asarray(x), jnp.asarray(w)), x @ w, rtol=1e-12)


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (7, 2)])
@pytest.mark.parametrize("side", [2, 14, 56])
def test_forward_mode_and_second_derivatives(kernel, stride, side, float64):
    x, w = draws((2, side, side, 3), kernel)
    dx, dw = (np.random.default_rng(1).normal(size=a.shape) for a in (x, w))

    def tangents(convolve):
        return jax.jvp(partial(convolve, stride=stride), (x, w), (dx, dw))

    def hessian_product(convolve):
        def gradient(x, w):
            return jax.grad(lambda x, w: (convolve(x, w, stride) ** 2).sum(), (0, 1))(x, w)

        return jax.jvp(gradient, (x, w), (dx, dw))

    for derivative in (tangents, hessian_product):
        assert_close(jax.jit(partial(derivative, convolution))(), derivative(of_xla), 1e-12)


def test_vmap_over_images_kernels_and_both(float64):
    x, w = draws((3, 2, 9, 9, 4)[1:], 3)
    x, w = np.stack([x, 2 * x, -x]), np.stack([w, -w, 3 * w])
    for axes in ((0, None), (None, 0), (0, 0)):
        given = [a if axis == 0 else a[0] for a, axis in zip((x, w), axes, strict=True)]
        got, expected = (
            jax.vmap(partial(f, stride=2), axes)(*given) for f in (convolution, of_xla)
        )
        assert_close(got, expected, 1e-12)


@pytest.mark.parametrize(
    ("side", "kernel", "stride"),
    [(64, 3, 1), (64, 3, 2), (64, 7, 2), (8, 3, 1), (2, 3, 1), (8, 1, 1)],
)
def test_gradients_of_wider_kernels_are_not_narrowed(side, kernel, stride):
    """Of bfloat16 images and float32 kernels: exact products of bfloat16, summed in float32."""
    x, w = draws((8, side, side, 4), kernel, dtype=np.float32)
    x, narrow = x.astype(jnp.bfloat16), w.astype(jnp.bfloat16)
    y, transpose = jax.vjp(partial(convolution, stride=stride), x, jnp.asarray(w))
    assert y.dtype == jnp.bfloat16
    cotangent = jnp.ones(y.shape, y.dtype)
    dx, dw = transpose(cotangent)
    assert (dx.dtype, dw.dtype) == (jnp.bfloat16, jnp.float32)
    exact = jax.vjp(
        partial(of_xla, stride=stride), x.astype(np.float32), narrow.astype(np.float32)
    )[1](cotangent.astype(np.float32))
    assert_close(np.float32(dx), exact[0], 0.01)
    assert_close(dw, exact[1], 1e-5)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (7, 2)])
def test_devices_share_the_gradients(kernel, stride, float64):
    x, w = draws((16, 56, 56, 4), kernel)
    expected = with_gradients(of_xla, stride)(x, w)
    mesh = Mesh(np.array(jax.devices()), ("data",))
    x = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    w = jax.device_put(w, NamedSharding(mesh, PartitionSpec()))
    step = with_gradients(convolution, stride)
    assert_close(step(x, w), expected, 1e-12)
    assert "all-gather" not in step.lower(x, w).compile().as_text()


@pytest.mark.parametrize("platform", ["cpu", "cuda", "rocm", "tpu"])
@pytest.mark.parametrize(
    ("side", "kernel", "stride", "products"),
    # dot products in the program for CPUs: output, gradient of the kernel, gradient of the input
    [(56, 1, 1, 3), (56, 1, 2, 3), (2, 3, 1, 3), (56, 3, 1, 3), (56, 3, 2, 3), (14, 3, 1, 0)],
)
def test_only_programs_for_cpus_have_products(side, kernel, stride, products, platform):
    x, w = draws((2, side, side, 8), kernel, dtype=np.float32)
    traced = with_gradients(convolution, stride).trace(x, w)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert text.count("dot_general") == (products if platform == "cpu" else 0)
    if platform != "cpu":
        assert text.count("stablehlo.convolution") == 3


@pytest.mark.parametrize(("platform", "channels"), [("cuda", 16), ("tpu", 3), ("cpu", 3)])
def test_the_stem_works_on_blocks_of_pixels_on_gpus(platform, channels):
    x, w = draws((2, 224, 224, 3), 7, 64, np.float32)
    traced = jax.jit(partial(convolution, stride=2)).trace(x, w)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    side = 112 if platform == "cuda" else 224
    assert f"tensor<2x{side}x{side}x{channels}xf32>, tensor<" in text


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (3, 2), (7, 2)])
def test_devices_sum_gradients_in_the_kernels_dtype(kernel, stride, platform):
    """Half-precision images, float32 kernels: the program has the sum, and has it in float32."""
    x, w = draws((16, 56, 56, 4), kernel, dtype=np.float32)
    x = x.astype(jnp.bfloat16)
    mesh = Mesh(np.array(jax.devices()), ("data",))
    samples, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (["data"], []))

    def gradient(x, w):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return jax.grad(partial(loss, convolution, stride), 1)(x, w)

    traced = jax.jit(gradient, in_shardings=(samples, whole)).trace(x, w)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    shape = "x".join(map(str, w.shape))
    summed = re.findall(r"all_reduce.*?\}\) : \(tensor<([^>]*)>\)", text, re.S)
    assert summed == [f"{shape}xf32"]
    got = jax.jit(gradient, in_shardings=(samples, whole))(x, w)
    one = jax.grad(partial(loss, convolution, stride), 1)(x, jnp.asarray(w))
    assert got.dtype == jnp.float32
    assert_close(got, one, 1e-5)
