"""Measures the time from the start of a pre-training to its first step; prints one JSON line.

    python -m benchmarks.first_step --out DIR -- --config=configs/patch.py \
        --config.data.source=folder:FOLDER

Give main.py's flags after `--`, without --workdir. The command is started --starts times, one after
another, each with its own workdir below DIR and one compilation cache, DIR/cache, which is empty at
first; it is ended after its first step. `seconds_to_first_step` has one figure per start, for
Python's imports, the devices, reading the data set, compilation and the step itself.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from nsneg_jax.errors import RunError, UsageError, tell

_ROOT = Path(__file__).parents[1]


def seconds_to_first_step(flags: Sequence[str], workdir: Path, cache: Path) -> float:
    """Starts main.py with `flags` and waits for its first step.

    Raises:
        RunError: it ended before that; its standard error says why.
    """
    command = [sys.executable, "main.py", *flags, f"--workdir={workdir}"]
    command += ["--config.log_every_steps=1", "--config.total_steps=2", "--config.pictures=False"]
    environ = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    start = time.monotonic()
    process = subprocess.Popen(command, cwd=_ROOT, env=environ, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.startswith("step 1/"):
                return time.monotonic() - start
    finally:
        process.kill()
        process.wait()
    raise RunError(f"{' '.join(command)} ended before its first step.")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Reads the command line; argparse exits with status 2 on a malformed one.

    Raises:
        UsageError: a value is out of range.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.first_step",
        description="Measures the time to the first step; prints one JSON line.",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for workdirs and cache")
    parser.add_argument("--starts", type=int, default=2)
    parser.add_argument("flags", nargs="+", metavar="-- FLAG", help="of main.py")
    options = parser.parse_args(argv)
    if options.starts < 1:
        raise UsageError(f"--starts is {options.starts}, but must be at least 1.")
    if options.out.exists():
        raise UsageError(f"--out is {options.out}, which exists already. Give another folder.")
    return options


def main(argv: Sequence[str]) -> int:
    """Returns the exit status: 0 done, 1 the command failed, 2 a mistake of the user's."""
    try:
        options = parse(argv)
        out = options.out.resolve()
        seconds = [
            seconds_to_first_step(options.flags, out / f"run{place}", out / "cache")
            for place in range(options.starts)
        ]
    except (RunError, UsageError) as error:
        return tell(error)
    print(
        json.dumps({"benchmark": "first_step", "seconds_to_first_step": seconds}, allow_nan=False)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
