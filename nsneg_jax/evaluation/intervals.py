"""Statistics of an evaluation's images. All of them are fractions of 1, not percent."""

import numpy as np

# Counts drawn at once in a bootstrap, which bounds its memory to some ten megabytes.
_DRAWN_AT_ONCE = 2**20


def accuracy(correct: np.ndarray) -> float:
    """Share of the images that were recognised.

    Args:
        correct: [N], bool or 0 and 1; or of each image the share of its versions recognised.

    Raises:
        ValueError: there are no images, or values outside [0, 1].
    """
    return float(_fractions("correct", correct).mean())


def bootstrap_interval(
    values: np.ndarray, seed: int = 0, samples: int = 1000, level: float = 0.95
) -> tuple[float, float]:
    """Bootstrap interval of the mean of one value an image (the percentile method of Efron 1979).

    The images are resampled, so where an image has several versions, such as its corruptions, pass
    the mean over them: its versions rise and fall together and are no independent images.

    Instead of N draws of images, one draw from the multinomial distribution tells how often a
    resample has each of the values that occur: the same distribution, and with values 0 and 1 a
    single binomial draw, whatever N. Where all values are equal the interval has no width.

    Args:
        values: [N], finite numbers.
        seed: the same seed and values, in any order, give the same interval.
        samples: number of resamples.
        level: share of the resampled means that the interval holds.

    Returns:
        Its two ends.

    Raises:
        ValueError: there are no values, or some that are not finite.
    """
    values = np.asarray(values, float)
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"values of shape {values.shape} are not one finite number an image")
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
    """RMS calibration error with bins that hold equally many images.

    The root of the mean over the images of the squared difference between confidence and accuracy
    of their bin. As in the code for ImageNet-R (Hendrycks et al. 2021) bins are made of images
    sorted by confidence, and weighted by their number of images. Three things are not kept: there
    the number of bins is a hundredth of that of the images, so that the error depends on it; the
    last bin, the most confident images, is left out of the sum; and images of equal confidence are
    divided between bins by chance. Here they count with their mean accuracy, so that the order of
    the images does not matter.

    Args:
        confidence: [N], probability of the class predicted.
        correct: [N], bool or 0 and 1.
        bins: their number; fewer images than that have a bin each.

    Raises:
        ValueError: there are no images, values outside [0, 1] or two lengths.
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
        raise ValueError(f"{name} has shape {values.shape}, but must hold one value an image")
    # A softmax in float32 may exceed 1 by its rounding.
    if not ((values >= 0) & (values <= 1 + 1e-5)).all():
        raise ValueError(f"{name} has values from {values.min()} to {values.max()}, not 0 to 1")
    return values
