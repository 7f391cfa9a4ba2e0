"""What is measured of features during a training, against references."""

import jax
import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression

from nsneg_jax.evaluation.features import Features
from nsneg_jax.evaluation.monitoring import logistic, spread
from nsneg_jax.evaluation.monitoring.monitor import some_of
from nsneg_jax.parallel import mesh


def drawn(rng, n, size=12, classes=7):
    """Features of overlapping classes, on scales from 0.01 to 100, and one that is constant."""
    centres = np.random.default_rng(5).normal(size=(classes, size))
    labels = rng.integers(0, classes, n).astype(np.int32)
    features = centres[labels] + 1.5 * rng.normal(size=(n, size))
    features = (features * np.logspace(-2, 2, size) + 3).astype(np.float32)
    features[:, 4] = 2.5
    return Features(features, labels, np.arange(n, dtype=np.int32))


@pytest.mark.parametrize("devices", [1, 8])
def test_probe_is_logistic_regression(devices, monkeypatch):
    """Of the same loss: the mean cross entropy and half the decay times the squared weights."""
    monkeypatch.setattr(logistic, "_ROWS", 64)
    rng = np.random.default_rng(0)
    training, queries = drawn(rng, 301), drawn(rng, 200)
    split = mesh.data_mesh(jax.devices()[:devices])
    found = logistic.probe_accuracies(training, queries, split)

    mean, std = training.features.mean(0), training.features.std(0)
    scale = np.where(std > 1e-6, 1 / np.maximum(std, 1e-6), 0)
    x, q = ((each.features - mean) * scale for each in (training, queries))
    reference = LogisticRegression(C=1 / (logistic.DECAY * len(x)), tol=1e-8, max_iter=5000)
    reference.fit(x, training.labels)

    def loss(weights, bias):
        picked = log_softmax(x @ weights + bias, axis=1)[np.arange(len(x)), training.labels]
        return -picked.mean() + logistic.DECAY / 2 * (weights**2).sum()

    weights, bias = logistic.fit(training, mean.astype(float), scale, 7, split)
    best = loss(reference.coef_.T, reference.intercept_)
    assert best < loss(weights, bias) < best + 1e-3
    scores = reference.decision_function(q)
    own = scores[np.arange(len(q)), queries.labels][:, None]
    above = (scores > own).sum(axis=1)
    for k, name in ((1, "probe_top1"), (5, "probe_top5")):
        assert found[name] == pytest.approx(100 * (above < k).mean(), abs=1.0)
    assert 40 < found["probe_top1"] < found["probe_top5"] < 100


def test_five_classes_have_no_top_5():
    rng = np.random.default_rng(1)
    few = drawn(rng, 60, classes=5)
    assert set(logistic.probe_accuracies(few, few, mesh.data_mesh(jax.devices()[:1]))) == {
        "probe_top1"
    }


@pytest.mark.parametrize("shape", [(200, 30), (5000, 30), (20, 30)])
def test_rankme_is_that_of_the_singular_values(shape):
    features = np.random.default_rng(2).normal(size=shape) * np.logspace(0, -5, 30) + 0.1
    features = features.astype(np.float32)
    values = np.linalg.svd(features.astype(float), compute_uv=False)
    share = values / values.sum() + 1e-7
    expected = np.exp(-(share * np.log(share)).sum())
    assert spread.rankme(features) == pytest.approx(expected, rel=1e-5)


def test_rank_and_deviation_have_their_ends():
    equal = np.ones((50, 8), np.float32)
    assert spread.rankme(equal) == pytest.approx(1, abs=1e-4)
    assert spread.rankme(np.zeros((5, 8), np.float32)) == 1
    assert spread.deviation(equal) == pytest.approx(0, abs=1e-6)
    even = np.random.default_rng(3).normal(size=(20000, 64)).astype(np.float32)
    assert spread.deviation(even) == pytest.approx(1, abs=0.01)
    assert spread.rankme(even) == pytest.approx(64, rel=0.01)


def test_some_images_are_the_same_each_time():
    assert some_of(3, 10).tolist() == [0, 1, 2]
    chosen = some_of(1_281_167, 2**17)
    assert len(set(chosen.tolist())) == 2**17 and chosen[-1] < 1_281_167
    np.testing.assert_array_equal(chosen, some_of(1_281_167, 2**17))
    for period in (10, 100, 1000):  # as of labels in turn
        counts = np.bincount(chosen % period)
        assert counts.min() > 0.6 * 2**17 / period
