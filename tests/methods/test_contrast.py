"""The loss, against the paper's formula written out."""

import jax
import numpy as np
import pytest

from nsneg_jax.methods.contrast import (
    InfoNCE,
    Similarities,
    histogram,
    l2_normalize,
    similarities,
)


@pytest.fixture
def cosines():
    """Of 5 queries with 7 keys in the queue and 2 non-semantic negatives each."""
    rng = np.random.default_rng(0)
    return Similarities(*(rng.uniform(-1, 1, (5, *n)) for n in ((), (7,), (2,))))


@pytest.mark.parametrize("bins", [1, 7, 200])
def test_histogram_is_numpys(bins):
    values = np.random.default_rng(1).uniform(-1, 1, (40, 5, 3)).astype(np.float32)
    values[0] = [-1, 1, 0]
    got = histogram(values, bins)
    assert got.dtype == np.int32
    edges = np.linspace(-1, 1, bins + 1, dtype=np.float32)
    np.testing.assert_array_equal(got, np.histogram(values, edges)[0])
    beyond = np.float32([-1.0000001, 1.0000001])
    assert np.flatnonzero(histogram(beyond, bins)).tolist() == sorted({0, bins - 1})


def test_loss_is_the_papers_formula(cosines, float64):
    """-log of the fraction."""
    positive, queue, nonsemantic = cosines
    top = np.exp(positive / 0.3)
    bottom = (
        top + np.exp(queue / 0.3).sum(1) + np.exp(np.array([3, 0.5]) * nonsemantic / 0.3).sum(1)
    )
    loss = InfoNCE(0.3, (3.0, 0.5))(cosines)
    np.testing.assert_allclose(loss, -np.log(top / bottom), rtol=1e-12)


def test_gradients_are_the_softmaxs(cosines, float64):
    """dL/ds is (p - 1) / T of the key and alpha p / T of the others."""
    positive, queue, nonsemantic = cosines
    alphas = np.array([3, 0.5])
    logits = np.concatenate([positive[:, None], queue, alphas * nonsemantic], axis=1) / 0.3
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = jax.grad(lambda s: InfoNCE(0.3, (3.0, 0.5))(s).sum())(cosines)
    np.testing.assert_allclose(found.positive, (p[:, 0] - 1) / 0.3, rtol=1e-10)
    np.testing.assert_allclose(found.queue, p[:, 1:8] / 0.3, rtol=1e-10)
    np.testing.assert_allclose(found.nonsemantic, alphas * p[:, 8:] / 0.3, rtol=1e-10)


def test_without_negatives_it_is_mocos_loss(cosines, float64):
    plain = cosines._replace(nonsemantic=np.zeros((5, 0)))
    logits = np.concatenate([plain.positive[:, None], plain.queue], axis=1) / 0.2
    loss = InfoNCE(0.2)(plain)
    np.testing.assert_allclose(loss, -jax.nn.log_softmax(logits)[:, 0], rtol=1e-12)


def test_large_similarities_do_not_overflow(cosines):
    sharp = InfoNCE(1e-3, (3.0, 3.0))
    assert np.isfinite(sharp(jax.tree.map(np.float32, cosines))).all()


def test_ranks_count_the_negatives_before_the_key(cosines, float64):
    loss = InfoNCE(0.3, (3.0, 0.5))
    others = np.concatenate([cosines.queue, np.array([3, 0.5]) * cosines.nonsemantic], axis=1)
    expected = (others > cosines.positive[:, None]).sum(axis=1)
    np.testing.assert_array_equal(loss.ranks(cosines), expected)
    assert 0 < expected.min() < expected.max()


def test_similarities_are_cosines(float64):
    rng = np.random.default_rng(1)
    q, k, queue, t = (
        np.asarray(l2_normalize(rng.normal(size=(*shape, 4))))
        for shape in ((3,), (3,), (6,), (3, 2))
    )
    s = similarities(q, k, queue, t)
    np.testing.assert_allclose(s.positive, (q * k).sum(-1), rtol=1e-12)
    np.testing.assert_allclose(s.queue, q @ queue.T, rtol=1e-12)
    np.testing.assert_allclose(s.nonsemantic, (q[:, None] * t).sum(-1), rtol=1e-12)
