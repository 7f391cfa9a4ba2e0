"""Grouped batch norm against a plain loop over groups and passes."""

import jax
import numpy as np
import pytest
from flax import nnx

from nsneg_jax.models.norm import GroupedBatchNorm


def reference(x, groups, passes, scale, bias, running):
    """Each pass after the other, each group on its own, in PyTorch's conventions."""
    mean, var = np.zeros(x.shape[-1]), np.ones(x.shape[-1])
    samples = x.reshape(len(x) // passes, passes, *x.shape[1:])
    result = np.empty_like(samples)
    for p in range(passes):
        means, variances = [], []
        for group in np.split(np.arange(len(samples)), groups):
            values = samples[group, p].reshape(-1, x.shape[-1])
            means.append(values.mean(axis=0))
            variances.append(values.var(axis=0, ddof=1))
            normal = (samples[group, p] - means[-1]) / np.sqrt(values.var(axis=0) + 1e-5)
            result[group, p] = normal * scale + bias
        new_mean, new_var = (
            (s[0] if running == "first" else np.mean(s, axis=0)) for s in (means, variances)
        )
        mean, var = 0.9 * mean + 0.1 * new_mean, 0.9 * var + 0.1 * new_var
    return result.reshape(x.shape), mean, var


@pytest.mark.parametrize("running", ["first", "mean"])
@pytest.mark.parametrize(("groups", "passes"), [(1, 1), (4, 1), (1, 3), (4, 3), (12, 2)])
def test_groups_and_passes(groups, passes, running, float64):
    rng = np.random.default_rng(0)
    x = rng.normal(2, 3, (12 * passes, 5, 4, 6))
    scale, bias = rng.normal(size=6), rng.normal(size=6)
    norm = GroupedBatchNorm(6, running=running, dtype="float64", param_dtype="float64")
    norm.scale[...], norm.bias[...] = scale, bias
    y = norm(x, groups, passes)
    expected, mean, var = reference(x, groups, passes, scale, bias, running)
    np.testing.assert_allclose(y, expected, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(norm.mean[...], mean, rtol=1e-10)
    np.testing.assert_allclose(norm.var[...], var, rtol=1e-10)
    # inference uses what was gathered and changes nothing
    before = np.asarray(norm.mean[...])
    z = norm(x)
    np.testing.assert_allclose(
        z, (x - mean) / np.sqrt(var + 1e-5) * scale + bias, rtol=1e-9, atol=1e-9
    )
    np.testing.assert_array_equal(norm.mean[...], before)


def test_one_value_in_a_group_is_finite():
    norm = GroupedBatchNorm(3)
    assert np.isfinite(norm(np.ones((2, 1, 1, 3), np.float32), 2)).all()
    assert np.isfinite(norm.var[...]).all()


@pytest.mark.parametrize(
    ("offset", "steps", "bound"),
    # in standard deviations; before the first step the running mean is zero
    [(0, 0, 2e-6), (1, 0, 2e-6), (10, 0, 3e-4), (100, 0, 3e-2), (100, 50, 1e-5), (1000, 50, 1e-4)],
)
def test_float32_with_activations_far_from_zero(offset, steps, bound):
    """The variance is taken about the running mean, and is safe once that has come close."""
    rng = np.random.default_rng(0)
    x = rng.normal(offset, 1, (64, 16, 16, 4)).astype(np.float32)
    norm = GroupedBatchNorm(4)
    train = nnx.jit(lambda norm, x: norm(x, 2))
    for _ in range(steps):
        train(norm, x)
    expected, _, _ = reference(x.astype(np.float64), 2, 1, 1, 0, "first")
    assert np.abs(train(norm, x) - expected).max() < bound


def test_equal_activations_are_finite():
    """A rounding error must not make the variance of a constant negative."""
    for value in (0, 1e-3, 3.3, 1e4):
        x = np.full((8, 5, 5, 3), value, np.float32)
        y, gradient = jax.value_and_grad(lambda x: GroupedBatchNorm(3)(x, 2).sum())(x)
        assert np.isfinite(y) and np.isfinite(gradient).all()


def test_gradient_knows_the_statistics(float64):
    """The gradient through mean and variance, by finite differences."""
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(2, 4, 3, 3, 2))

    def loss(x):
        return (GroupedBatchNorm(2, dtype="float64", param_dtype="float64")(x, 2) * w).sum()

    gradient = jax.grad(loss)(x)
    step = 1e-6 * rng.normal(size=x.shape)
    difference = (loss(x + step) - loss(x - step)) / 2
    np.testing.assert_allclose((gradient * step).sum(), difference, rtol=1e-6)
    assert isinstance(GroupedBatchNorm(2).mean, nnx.BatchStat)
