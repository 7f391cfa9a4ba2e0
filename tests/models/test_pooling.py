"""Max-pooling in every platform's form, against PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from nsneg_jax.models import cpu, pooling


@pytest.mark.parametrize(
    "form", [pooling.max_pool, cpu.max_pool, pooling._of_window, pooling._of_taps]
)
@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 12), (1, 2)])
def test_values_and_gradients_are_pytorchs(form, height, width):
    x = np.random.default_rng(0).normal(size=(3, height, width, 5)).astype(np.float32)
    peer = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    y = torch.max_pool2d(peer, 3, 2, 1)
    (y * y.cos()).sum().backward()
    got, transpose = jax.vjp(jax.jit(form), x)
    np.testing.assert_array_equal(got, y.detach().numpy().transpose(0, 2, 3, 1))
    (gradient,) = transpose(jnp.cos(got) - got * jnp.sin(got))
    np.testing.assert_allclose(gradient, peer.grad.numpy().transpose(0, 2, 3, 1), atol=1e-5)


@pytest.mark.parametrize("form", [pooling._of_window, pooling._of_taps])
def test_the_first_of_equal_values_has_the_gradient(form):
    gradient = jax.grad(lambda x: form(x).sum())(jnp.ones((1, 4, 4, 1)))
    peer = torch.ones(1, 1, 4, 4, requires_grad=True)
    torch.max_pool2d(peer, 3, 2, 1).sum().backward()
    np.testing.assert_array_equal(gradient[0, ..., 0], peer.grad[0, 0])


def test_forward_mode():
    x, dx = np.random.default_rng(0).normal(size=(2, 2, 8, 8, 3)).astype(np.float32)
    y, dy = jax.jvp(pooling.max_pool, (x,), (dx,))
    step = 1e-3
    np.testing.assert_allclose(dy, (pooling.max_pool(x + step * dx) - y) / step, atol=1e-2)


@pytest.mark.parametrize(
    ("platform", "operation"),
    [("cpu", "stablehlo.maximum"), ("cuda", "stablehlo.compare"), ("tpu", "select_and_scatter")],
)
def test_each_platform_has_its_form(platform, operation):
    traced = jax.jit(jax.grad(lambda x: pooling.max_pool(x).sum())).trace(jnp.ones((1, 8, 8, 1)))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert operation in text
    assert ("select_and_scatter" in text) == (platform == "tpu")
