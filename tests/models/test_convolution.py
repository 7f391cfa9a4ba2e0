"""What stands in for XLA's convolutions and their gradients, against XLA's."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nsneg_jax.models.convolution import convolution

LAYOUT = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}


def loss(convolve, stride, x, kernel):
    pad = (kernel.shape[0] - 1) // 2
    y = convolve(x, kernel, (stride, stride), ((pad, pad), (pad, pad)), **LAYOUT)
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
@pytest.mark.parametrize("outputs", [3, 6, 24])
def test_values_and_gradients_are_those_of_the_convolution(
    kernel, height, width, stride, outputs, float64
):
    x, w = draws((3, height, width, 5), kernel, outputs)
    expected = with_gradients(jax.lax.conv_general_dilated, stride)(x, w)
    assert_close(with_gradients(convolution, stride)(x, w), expected, 1e-12)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (7, 2)])
def test_gradients_in_bfloat16_are_summed_in_float32(kernel, stride):
    x, w = draws((8, 64, 64, 4), kernel, dtype=np.float32)
    expected = with_gradients(jax.lax.conv_general_dilated, stride)(x, w)
    x, w = x.astype(jnp.bfloat16), w.astype(jnp.bfloat16)
    got = with_gradients(convolution, stride)(x, w)
    assert [leaf.dtype for leaf in got[1]] == [jnp.bfloat16] * 2
    assert_close(jax.tree.map(np.float32, got[1]), expected[1], 0.02)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (7, 2)])
def test_devices_share_the_gradients(kernel, stride, float64):
    x, w = draws((16, 56, 56, 4), kernel)
    expected = with_gradients(jax.lax.conv_general_dilated, stride)(x, w)
    mesh = Mesh(np.array(jax.devices()), ("data",))
    x = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    w = jax.device_put(w, NamedSharding(mesh, PartitionSpec()))
    step = with_gradients(convolution, stride)
    assert_close(step(x, w), expected, 1e-12)
    assert "all-gather" not in step.lower(x, w).compile().as_text()


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (7, 2)])
def test_only_cpus_have_products_for_gradients(kernel, stride, platform):
    x, w = draws((2, 56, 56, 4), kernel, dtype=np.float32)
    traced = with_gradients(convolution, stride).trace(x, w)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert ("dot_general" in text) == (platform == "cpu")
    assert text.count("stablehlo.convolution") == (2 if platform == "cpu" else 3)
