"""Accuracies, their intervals and calibration, against plain loops and SciPy."""

import numpy as np
import pytest
from scipy import stats

from nsneg_jax.evaluation.intervals import accuracy, bootstrap_interval, calibration_rms


def plain_bootstrap(values, seed, samples, level):
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(samples)]
    return np.quantile(means, [(1 - level) / 2, (1 + level) / 2])


def plain_calibration(confidence, correct, size, skip_last):
    """Bins of `size` images, the last with the rest, as in the code for ImageNet-R."""
    pairs = sorted(zip(confidence.tolist(), correct.tolist(), strict=True))
    count = len(pairs) // size
    total = 0.0
    for k in range(count - 1 if skip_last else count):
        part = pairs[k * size : len(pairs) if k == count - 1 else (k + 1) * size]
        gap = sum(c for c, _ in part) / len(part) - sum(r for _, r in part) / len(part)
        total += len(part) / len(pairs) * gap**2
    return total**0.5


def images(count, seed=0):
    rng = np.random.default_rng(seed)
    confidence = rng.beta(3, 1, count)
    return confidence, rng.random(count) < confidence**1.5


def test_accuracy():
    assert accuracy(np.array([True, False, True, True])) == 0.75
    assert accuracy(np.array([1, 0.5])) == 0.75
    for wrong in ([], [2], [np.nan], [[1, 0]]):
        with pytest.raises(ValueError, match="correct"):
            accuracy(np.array(wrong))


@pytest.mark.parametrize(
    "values",
    [
        np.arange(400) < 290,
        np.random.default_rng(1).integers(0, 76, 400) / 75,
        np.random.default_rng(2).random(400),
    ],
    ids=["right or wrong", "share of 75 versions", "any"],
)
def test_interval_is_that_of_resampled_images(values):
    ours = bootstrap_interval(values, samples=20_000)
    plain = plain_bootstrap(values, 3, 20_000, 0.95)
    width = plain[1] - plain[0]
    np.testing.assert_allclose(ours, plain, atol=0.04 * width)
    scipy = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=5000, rng=4)
    np.testing.assert_allclose(ours, scipy.confidence_interval, atol=0.06 * width)


def test_interval_of_a_million_images_is_the_binomial_one():
    count, right = 1_200_000, 912_345
    low, high = bootstrap_interval(np.arange(count) < right, samples=100_000)
    exact = np.array(stats.binom.interval(0.95, count, right / count)) / count
    np.testing.assert_allclose([low, high], exact, atol=0.02 * (exact[1] - exact[0]))
    narrow = bootstrap_interval(np.arange(count) < right, samples=100_000, level=0.5)
    exact = np.array(stats.binom.interval(0.5, count, right / count)) / count
    np.testing.assert_allclose(narrow, exact, atol=0.02 * (exact[1] - exact[0]))


def test_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(400):
        low, high = bootstrap_interval(rng.random(500) < 0.7, seed, samples=400)
        hits += low <= 0.7 <= high
    assert 0.91 < hits / 400 < 0.98


def test_versions_of_an_image_do_not_narrow_the_interval():
    # An image is right in all of its versions or in none, so 75 of them say no more than one.
    right = np.random.default_rng(0).random(300) < 0.6
    by_image = bootstrap_interval(np.stack([right] * 75, axis=1).mean(axis=1))
    assert by_image == bootstrap_interval(right)
    low, high = bootstrap_interval(np.repeat(right, 75))
    assert high - low < 0.2 * (by_image[1] - by_image[0])


def test_interval_is_a_function_of_seed_and_values():
    values = np.random.default_rng(0).integers(0, 76, 500) / 75
    first = bootstrap_interval(values, seed=5)
    assert bootstrap_interval(values[::-1], seed=5) == first
    assert bootstrap_interval(values, seed=6) != first
    assert bootstrap_interval(np.ones(10)) == (1, 1)
    assert bootstrap_interval(np.zeros(10)) == (0, 0)


def test_interval_of_many_different_values_in_chunks(monkeypatch):
    values = np.random.default_rng(0).random(300)
    whole = bootstrap_interval(values, samples=50)
    monkeypatch.setattr("nsneg_jax.evaluation.intervals._DRAWN_AT_ONCE", 7 * 300)
    assert bootstrap_interval(values, samples=50) == pytest.approx(whole, abs=1e-15)


@pytest.mark.parametrize("values", [[], [0.5, np.nan], [[0, 1]]])
def test_no_interval_of_nothing(values):
    with pytest.raises(ValueError, match="one finite number"):
        bootstrap_interval(np.array(values))


@pytest.mark.parametrize("count", [1500, 15_000])
def test_calibration_against_the_loop(count):
    confidence, correct = images(count)
    ours = calibration_rms(confidence, correct)
    whole = plain_calibration(confidence, correct, count // 15, skip_last=False)
    assert ours == pytest.approx(whole, rel=1e-12)
    by_hundreds = calibration_rms(confidence, correct, bins=count // 100)
    assert by_hundreds == pytest.approx(
        plain_calibration(confidence, correct, 100, skip_last=False), rel=1e-12
    )
    # What the original leaves out: its bins but the last, from the same definition.
    last = slice(-100, None)
    order = np.argsort(confidence)
    gap = confidence[order][last].mean() - correct[order][last].mean()
    skipped = (by_hundreds**2 - 100 / count * gap**2) ** 0.5
    assert skipped == pytest.approx(
        plain_calibration(confidence, correct, 100, skip_last=True), rel=1e-9
    )


def test_calibration_of_what_is_known():
    rng = np.random.default_rng(0)
    confidence = rng.random(200_000)
    assert calibration_rms(confidence, rng.random(200_000) < confidence) < 0.01
    # Always sure, right three times of four.
    assert calibration_rms(np.ones(4000), np.arange(4000) % 4 > 0) == pytest.approx(0.25)
    assert calibration_rms(np.full(5, 0.2), np.ones(5)) == pytest.approx(0.8)
    assert calibration_rms(np.array([0.9, 0.1]), np.array([1, 0])) == pytest.approx(0.1)


def test_calibration_does_not_depend_on_the_order_of_images():
    confidence, correct = images(1000)
    confidence = confidence.round(1)
    shuffled = np.random.default_rng(0).permutation(1000)
    ours = calibration_rms(confidence, correct)
    assert calibration_rms(confidence[shuffled], correct[shuffled]) == pytest.approx(
        ours, rel=1e-12
    )


def test_calibration_counts_every_image_when_bins_are_uneven():
    confidence, correct = images(101)
    # A bin an image: the root of the mean squared difference itself.
    each = np.sqrt(np.mean((confidence - correct) ** 2))
    assert calibration_rms(confidence, correct, bins=500) == pytest.approx(each, rel=1e-12)
    mean = abs(confidence.mean() - correct.mean())
    assert calibration_rms(confidence, correct, bins=1) == pytest.approx(mean, rel=1e-12)


def test_calibration_refuses_what_is_no_probability():
    with pytest.raises(ValueError, match="confidence has values"):
        calibration_rms(np.array([0.5, 1.2]), np.array([0, 1]))
    with pytest.raises(ValueError, match="2 confidences, but 3"):
        calibration_rms(np.array([0.5, 0.2]), np.array([0, 1, 1]))
    with pytest.raises(ValueError, match="confidence has shape"):
        calibration_rms(np.array([]), np.array([]))
