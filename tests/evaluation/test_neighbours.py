"""Nearest neighbours and votes against scikit-learn and a plain loop."""

import jax
import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from nsneg_jax.evaluation import neighbours as knn
from nsneg_jax.evaluation.features import Features
from nsneg_jax.parallel import mesh


def random_features(n, rng, classes=7):
    return Features(
        rng.normal(size=(n, 24)).astype(np.float32),
        rng.integers(0, classes, n).astype(np.int32),
        np.arange(n, dtype=np.int32),
    )


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize(("bank", "queries"), [(1000, 333), (90, 5), (256, 64)])
def test_neighbours_are_scikit_learns(monkeypatch, devices, bank, queries):
    monkeypatch.setattr(knn, "BANK_BLOCK", 128)
    monkeypatch.setattr(knn, "_QUERY_BLOCK", 64)
    rng = np.random.default_rng(bank)
    bank, queries = random_features(bank, rng), random_features(queries, rng)
    k = 50
    similarity, labels = knn.nearest(
        bank, queries.features, k, mesh.data_mesh(jax.devices()[:devices])
    )
    exact = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute").fit(bank.features)
    distance, places = exact.kneighbors(queries.features)
    np.testing.assert_allclose(similarity, 1 - distance, atol=2e-6)
    np.testing.assert_array_equal(labels, bank.labels[places])


def test_votes_are_weighted_by_similarity():
    rng = np.random.default_rng(0)
    similarity = -np.sort(-rng.uniform(-1, 1, (40, 30)), axis=1).astype(np.float32)
    labels = rng.integers(0, 5, (40, 30))
    for k, voted in zip((1, 7, 30), knn.vote(similarity, labels, (1, 7, 30), 0.07, 5), strict=True):
        for i in range(40):
            votes = [0.0] * 5
            for j in range(k):
                votes[labels[i, j]] += np.exp(float(similarity[i, j]) / 0.07)
            assert voted[i] == np.argmax(votes)


def test_a_tiny_temperature_does_not_overflow():
    similarity = np.array([[1.0, 0.999, 0.998]], np.float32)
    assert knn.vote(similarity, np.array([[2, 1, 1]]), (3,), 1e-4, 3)[0].tolist() == [2]
    assert knn.vote(similarity, np.array([[2, 1, 1]]), (3,), 10.0, 3)[0].tolist() == [1]


def test_a_bank_smaller_than_k_votes_whole():
    rng = np.random.default_rng(3)
    bank, queries = random_features(9, rng), random_features(4, rng)
    similarity, labels = knn.nearest(bank, queries.features, 200, mesh.data_mesh(jax.devices()[:1]))
    assert similarity.shape == labels.shape == (4, 9)
    assert (np.sort(labels, axis=1) == np.sort(bank.labels)).all()
    assert np.isfinite(similarity).all()


def test_accuracies_count_every_query():
    rng = np.random.default_rng(4)
    bank = random_features(60, rng)
    queries = Features(*(array[:40].copy() for array in bank))
    queries.labels[:10] = (queries.labels[:10] + 1) % 7
    figures = knn.accuracies(bank, queries, (1,), 0.07, mesh.data_mesh(jax.devices()[:1]))
    assert figures == {"knn_1": 75.0}
