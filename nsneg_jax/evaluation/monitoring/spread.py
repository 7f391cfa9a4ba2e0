"""How many directions features use: their effective rank, and their deviation per dimension."""

import numpy as np

RANKME_IMAGES = 25_600  # as many as in Garrido et al. (2023)
_EPSILON = 1e-7  # of RankMe, for float32 features
_ROWS = 4096  # rows in float64 at a time


def rankme(features: np.ndarray) -> float:
    """Returns RankMe, the effective rank of features: Garrido et al. (2023), equation 1.

    It is the exponential of the entropy of the singular values, divided by their sum.

    Args:
        features: float [n, F], not centred, as in the paper.

    Returns:
        From 1, if all features are multiples of one, to about min(n, F).
    """
    values = _singular_values(features)
    total = values.sum()
    if not total:
        return 1.0
    share = values / total + _EPSILON
    return float(np.exp(-(share * np.log(share)).sum()))


def deviation(features: np.ndarray) -> float:
    """Returns the standard deviation of normalised features, averaged over their dimensions.

    Features are divided by their L2 norms, and the mean is multiplied by the square root of F: 0
    for equal features, 1 for directions drawn evenly. Chen and He (2021), section 4.1, notice a
    collapse by it.

    Args:
        features: float [n, F].
    """
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    normalised = features / np.maximum(norms, np.finfo(np.float32).tiny)
    return float(normalised.std(axis=0, dtype=np.float64).mean() * features.shape[1] ** 0.5)


def _singular_values(features: np.ndarray) -> np.ndarray:
    n, size = features.shape
    if n <= size:
        return np.linalg.svd(features.astype(np.float64), compute_uv=False)
    # In float64 the squares of singular values down to 1e-8 of the largest are exact enough, and
    # the matrix of all features need not be in memory twice.
    squares = np.zeros((size, size))
    for start in range(0, n, _ROWS):
        rows = features[start : start + _ROWS].astype(np.float64)
        squares += rows.T @ rows
    return np.sqrt(np.maximum(np.linalg.eigvalsh(squares), 0))
