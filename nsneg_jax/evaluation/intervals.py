"""Statistics over the images of an evaluation. All are fractions of 1, not percent."""

import numpy as np

# Counts drawn at once in a bootstrap, which bounds its memory to some ten megabytes.
_DRAWN_AT_ONCE = 2**20


def accuracy(correct: np.ndarray) -> float:
    """Returns the fraction of recognised images.

    Args:
        correct: [N], bool or 0 and 1; or, per image, the fraction of its versions recognised.

    Raises:
        ValueError: there are no images, or values outside [0, 1].
    """
    return float(_fractions("correct", correct).mean())


def bootstrap_interval(
    values: np.ndarray, seed: int = 0, samples: int = 1000, level: float = 0.95
) -> tuple[float, float]:
    """Returns a bootstrap interval of the mean of one value per image (percentiles; Efron 1979).

    Images are resampled. If an image has several versions, such as its corruptions, pass their
    mean, because the versions are correlated and not independent images.

    Instead of drawing N images, one multinomial draw gives the count of each distinct value in a
    resample. The distribution is the same, and for values 0 and 1 it is a single binomial draw,
    whatever N. If all values are equal, the interval has no width.

    Args:
        values: [N], finite numbers.
        seed: the same seed and values, in any order, give the same interval.
        samples: number of resamples.
        level: fraction of the resampled means inside the interval.

    Returns:
        Lower and upper end.

    Raises:
        ValueError: there are no values, or some are not finite.
    """
    values = np.asarray(values, float)
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"values of shape {values.shape} are not one finite number per image")
    distinct, counts = np.unique(values, return_counts=True)
    rng = np.random.default_rng(seed)
    chunk = max(1, _DRAWN_AT_ONCE // len(distinct))
    means = np.concatenate(
        [
            rng.multinomial(values.size, counts / values.size, min(chunk, samples - start))
            @ distinct
            for start in range(0, samples, chunk)
        ]
    )
    low, high = np.quantile(means / values.size, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def calibration_rms(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """Returns the RMS calibration error over bins with equal numbers of images.

    This is the root mean square, over images, of the difference between confidence and accuracy in
    their bin. As in the code for ImageNet-R (Hendrycks et al. 2021), bins consist of images sorted
    by confidence and are weighted by their size. Three things differ. There, the number of bins is
    a hundredth of the number of images, so the error depends on it; the last bin, with the most
    confident images, is missing from the sum; and images of equal confidence fall into bins in
    arbitrary order. Here they count with their mean accuracy, so the order does not matter.

    Args:
        confidence: [N], probability of the predicted class.
        correct: [N], bool or 0 and 1.
        bins: number of bins; with fewer images each has its own bin.

    Raises:
        ValueError: there are no images, values lie outside [0, 1], or the lengths differ.
    """
    confidence = _fractions("confidence", confidence)
    correct = _fractions("correct", correct)
    if len(confidence) != len(correct):
        raise ValueError(f"{len(confidence)} confidences, but {len(correct)} results")
    levels, level, counts = np.unique(confidence, return_inverse=True, return_counts=True)
    gaps = np.repeat(levels - np.bincount(level, weights=correct) / counts, counts)
    parts = np.array_split(gaps, min(bins, len(gaps)))
    return float(np.sqrt(sum(len(part) * part.mean() ** 2 for part in parts) / len(gaps)))


def _fractions(name: str, values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, float)
    if values.ndim != 1 or not values.size:
        raise ValueError(f"{name} has shape {values.shape}, but must hold one value per image")
    # Rounding may take a float32 softmax above 1.
    if not ((values >= 0) & (values <= 1 + 1e-5)).all():
        raise ValueError(f"{name} has values from {values.min()} to {values.max()}, not 0 to 1")
    return values
