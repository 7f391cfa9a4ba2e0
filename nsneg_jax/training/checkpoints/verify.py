"""Checks the checkpoints of runs against their digests.

    nsneg verify RUN...

RUN is a workdir or one checkpoint, such as runs/patch/checkpoints/400. Standard output gets one
line per checkpoint: its folder, a tab, and 'whole', 'no digests' (it can be read, but an earlier
version wrote it without digests) or 'damaged' with the reason. Nothing is changed. Exit status: 0
none is damaged, 2 some are.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from nsneg_jax.errors import UsageError, printable
from nsneg_jax.training.checkpoints.checkpoint import (
    DamagedError,
    all_checkpoints,
    check_checkpoint,
    has_digests,
)


def main(arguments: Sequence[str]) -> int:
    """Runs `nsneg verify`; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="nsneg verify",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a workdir or a checkpoint")
    damaged = count = 0
    for folder, answer in verified(parser.parse_args(arguments).runs):
        print(f"{printable(str(folder))}\t{answer}", flush=True)
        count += 1
        damaged += answer.startswith("damaged")
    if damaged:
        raise UsageError(
            f"{damaged} of {count} checkpoints are damaged. A run that is started again goes on "
            "from the newest whole one by itself. Copy damaged ones again, or remove them."
        )
    print(f"{count} checkpoints, none is damaged", file=sys.stderr)
    return 0


def verified(runs: Sequence[str]) -> Iterator[tuple[Path, str]]:
    """Yields the folder of each checkpoint, oldest first, with the answer described above.

    Raises:
        UsageError: there is no checkpoint in one of `runs`.
    """
    for run in runs:
        for folder in all_checkpoints(run):
            try:
                check_checkpoint(folder)
            except DamagedError as error:
                yield folder, f"damaged: {error}"
            else:
                yield folder, "whole" if has_digests(folder) else "no digests"
