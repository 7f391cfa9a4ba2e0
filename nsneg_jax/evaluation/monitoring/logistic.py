"""A linear probe without a learning rate: logistic regression on features that are there already.

Newton's method with Boehning's bound (1992) in place of the Hessian: the Hessian of the logistic
loss of C classes is at most half the second moments of the features, so one factorisation serves
all passes and every step is safe. Nesterov's momentum makes some 50 passes enough.
"""

from collections.abc import Iterator
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from scipy import linalg

from nsneg_jax.evaluation.features import Features
from nsneg_jax.parallel import mesh

PASSES = 50
DECAY = 1e-3  # of the squared weights, on features of deviation 1
_ROWS = 8192  # of the features, on the devices at a time
_LEAST = 1e-6  # deviation of a dimension, as a part of the largest; others are constant


def probe_accuracies(training: Features, queries: Features, devices: Mesh) -> dict[str, float]:
    """Fits a linear classifier to the training features, and classifies the queries.

    Args:
        training: features [n, F] and labels [n] to fit.
        queries: features [m, F] and labels [m] to classify.
        devices: devices to split the rows over.

    Returns:
        'probe_top1' and, with more than five classes, 'probe_top5', in percent.
    """
    mean = training.features.mean(axis=0, dtype=np.float64)
    spread = training.features.std(axis=0, dtype=np.float64)
    constant = spread <= _LEAST * spread.max()
    scale = np.where(constant, 0.0, 1 / np.where(constant, 1.0, spread))
    classes = int(max(training.labels.max(), queries.labels.max())) + 1
    weights, bias = fit(training, mean, scale, classes, devices)
    weights *= scale[:, None]
    scores = queries.features @ weights.astype(np.float32)
    scores += (bias - mean @ weights).astype(np.float32)
    own = scores[np.arange(len(scores)), queries.labels][:, None]
    above = (scores > own).sum(axis=1)
    wanted = {"probe_top1": 1} | ({"probe_top5": 5} if classes > 5 else {})
    return {name: float(100 * (above < k).mean()) for name, k in wanted.items()}


def fit(
    training: Features, mean: np.ndarray, scale: np.ndarray, classes: int, devices: Mesh
) -> tuple[np.ndarray, np.ndarray]:
    """Fits weights float64 [F, classes] and biases [classes] to standardised features.

    Args:
        training: features [n, F] and labels [n].
        mean, scale: float64 [F]; features are (feature - mean) * scale.
        classes: number of classes.
        devices: devices to split the rows over.
    """
    n, size = training.features.shape
    whole = mesh.replicated(devices)
    put = partial(mesh.put, shardings=whole)
    standard = put((mean.astype(np.float32), scale.astype(np.float32)))
    moments, gradient = _compile(devices)

    total = put(np.zeros((size, size), np.float32))
    for rows, labels in _blocks(training, devices):
        total = moments(total, standard, rows, labels)
    bound = np.asarray(total, np.float64) / (2 * n) + DECAY * np.eye(size)
    factor = linalg.cho_factor(bound)

    # The bias has no decay, and the features have mean 0, so that its bound is 1/2.
    weights, bias = np.zeros((size, classes)), np.zeros(classes)
    ahead = (weights, bias)
    momentum = 1.0
    for _ in range(PASSES):
        now = put(tuple(each.astype(np.float32) for each in ahead))
        sums = put((np.zeros((size, classes), np.float32), np.zeros(classes, np.float32)))
        for rows, labels in _blocks(training, devices):
            sums = gradient(sums, now, standard, rows, labels)
        slope = [np.asarray(each, np.float64) / n for each in sums]
        after = (
            ahead[0] - linalg.cho_solve(factor, slope[0] + DECAY * ahead[0]),
            ahead[1] - 2 * slope[1],
        )
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        push = (momentum - 1) / following
        ahead = (after[0] + push * (after[0] - weights), after[1] + push * (after[1] - bias))
        (weights, bias), momentum = after, following
    return weights, bias


def _blocks(training: Features, devices: Mesh) -> Iterator[tuple[jax.Array, jax.Array]]:
    """Yields rows [b, F] and labels [b] of the features on the devices; labels of blanks are -1."""
    n = len(training.features)
    block = -(-min(_ROWS, n) // devices.size) * devices.size
    split = mesh.split_batch(devices)
    for start in range(0, n, block):
        rows = training.features[start : start + block]
        labels = training.labels[start : start + block].astype(np.int32)
        if blank := block - len(rows):
            rows = np.pad(rows, ((0, blank), (0, 0)))
            labels = np.pad(labels, (0, blank), constant_values=-1)
        yield mesh.put((rows, labels), split)


@cache
def _compile(devices: Mesh) -> tuple[jax.stages.Wrapped, jax.stages.Wrapped]:
    """Compiles the programs that add a block's second moments, and its gradient."""
    whole, split = mesh.replicated(devices), mesh.split_batch(devices)
    moments = jax.jit(
        _add_moments,
        in_shardings=(whole, whole, split, split),
        out_shardings=whole,
        donate_argnums=0,
    )
    gradient = jax.jit(
        _add_gradient,
        in_shardings=(whole, whole, whole, split, split),
        out_shardings=whole,
        donate_argnums=0,
    )
    return moments, gradient


_Pair = tuple[jax.Array, jax.Array]
_product = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


def _standardised(standard: _Pair, rows: jax.Array, labels: jax.Array) -> jax.Array:
    mean, scale = standard
    return jnp.where(labels[:, None] >= 0, (rows - mean) * scale, 0)


def _add_moments(
    total: jax.Array, standard: _Pair, rows: jax.Array, labels: jax.Array
) -> jax.Array:
    rows = _standardised(standard, rows, labels)
    return total + _product("nf,ng->fg", rows, rows)


def _add_gradient(
    sums: _Pair, classifier: _Pair, standard: _Pair, rows: jax.Array, labels: jax.Array
) -> _Pair:
    weights, bias = classifier
    rows = _standardised(standard, rows, labels)
    chances = jax.nn.softmax(_product("nf,fc->nc", rows, weights) + bias)
    wrong = chances - jax.nn.one_hot(labels, len(bias), dtype=chances.dtype)
    wrong = jnp.where(labels[:, None] >= 0, wrong, 0)
    return sums[0] + _product("nf,nc->fc", rows, wrong), sums[1] + wrong.sum(axis=0)
