"""Measures the search for neighbours in random features: time, and memory besides the bank.

    python -m benchmarks.knn --bank 126689 --dim 2048 --queries 5000

Prints one JSON line. The default sizes are ImageNet-100's training images and ResNet-50 features.
"""

import argparse
import json
import sys
import time

import jax
import numpy as np

from benchmarks.memory import peak_of_process
from nsneg_jax.evaluation.features import Features
from nsneg_jax.evaluation.neighbours import TEMPERATURE, accuracies
from nsneg_jax.parallel import mesh

_ROWS_AT_ONCE = 8192  # rows to draw at once, so that drawing does not set the memory peak
_CLASSES = 100


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.knn", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--bank", type=int, default=126689, help="images in the bank")
    parser.add_argument("--dim", type=int, default=2048, help="values of a feature")
    parser.add_argument("--queries", type=int, default=5000, help="images to classify")
    options = parser.parse_args(argv)
    rng = np.random.default_rng(0)
    bank, queries = (_draw(rng, n, options.dim) for n in (options.bank, options.queries))
    devices = mesh.data_mesh()
    before = peak_of_process()
    start = time.monotonic()
    accuracies(bank, queries, (20, 200), TEMPERATURE, devices)
    figures = {
        "benchmark": "knn",
        "seconds": time.monotonic() - start,
        "host_bytes_beyond_the_bank": peak_of_process() - before,
        "bank": options.bank,
        "dim": options.dim,
        "queries": options.queries,
        "devices": f"{devices.size} x {jax.devices()[0].device_kind}",
    }
    print(json.dumps(figures, allow_nan=False))


def _draw(rng: np.random.Generator, n: int, dim: int) -> Features:
    features = np.empty((n, dim), np.float32)
    for start in range(0, n, _ROWS_AT_ONCE):
        rows = features[start : start + _ROWS_AT_ONCE]
        rows[:] = rng.standard_normal(rows.shape, np.float32)
    labels = rng.integers(0, _CLASSES, n).astype(np.int32)
    return Features(features, labels, np.arange(n, dtype=np.int32))


if __name__ == "__main__":
    main(sys.argv[1:])
