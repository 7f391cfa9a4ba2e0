"""Reports whether two runs ended in the same state, to the bit; prints one JSON line.

    python -m benchmarks.same_bits RUN RUN

The fields compare the last checkpoints of both: `arrays`, their number; `different`, the number of
arrays that differ in a bit; `largest_difference`, the largest absolute difference of an entry.
"""

import argparse
import json
import sys
from collections.abc import Sequence

import jax
import numpy as np

from nsneg_jax.errors import RunError, UsageError, tell
from nsneg_jax.training.checkpoints.checkpoint import find_checkpoint, read_checkpoint


def compare(one: object, other: object) -> dict[str, float]:
    """Returns the figures of the JSON line, for two trees of arrays.

    Raises:
        UsageError: the trees, or the shapes and dtypes of their arrays, differ.
    """
    ours, structure = jax.tree.flatten(one)
    theirs, other_structure = jax.tree.flatten(other)
    pairs = [tuple(map(np.asarray, pair)) for pair in zip(ours, theirs, strict=False)]
    same = structure == other_structure  # type: ignore[operator]  # its stub lacks it
    if not same or any((a.shape, a.dtype) != (b.shape, b.dtype) for a, b in pairs):
        raise UsageError("The runs have different networks. Give two runs of one config.")
    different = [(a, b) for a, b in pairs if a.tobytes() != b.tobytes()]
    largest = max((np.abs(a.astype(float) - b).max() for a, b in different), default=0.0)
    return {
        "arrays": len(pairs),
        "different": len(different),
        "largest_difference": float(largest),
    }


def main(argv: Sequence[str]) -> int:
    """Returns the exit status: 0 compared, 1 a checkpoint is broken, 2 a mistake of the user's."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.same_bits", description="Compares the states of two runs."
    )
    parser.add_argument("runs", nargs=2, metavar="RUN", help="workdir of a pre-training")
    options = parser.parse_args(argv)
    jax.config.update("jax_platforms", "cpu")  # the accelerator has nothing to do here
    try:
        states = [read_checkpoint(find_checkpoint(run))[0] for run in options.runs]
        figures = compare(*states)
    except (RunError, UsageError) as error:
        return tell(error)
    print(json.dumps({"benchmark": "same_bits", **figures}, allow_nan=False))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
