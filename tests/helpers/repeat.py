"""Runs tests many times, alone or beside busy processes, and says which of them ever fail.

python tests/helpers/repeat.py --runs 20 --load 4 -- -k "process or signal"
"""

import argparse
import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUSY = [sys.executable, "-c", "while True: pass"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20, help="how often")
    parser.add_argument("--load", type=int, default=0, help="busy processes beside the tests")
    parser.add_argument("pytest", nargs="*", help="arguments of pytest, after --")
    given = parser.parse_args()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *given.pytest]
    failures: Counter[str] = Counter()
    busy = [subprocess.Popen(BUSY) for _ in range(given.load)]
    try:
        for run in range(1, given.runs + 1):
            start = time.monotonic()
            ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            if ended.returncode not in (0, 1):
                print(ended.stdout, ended.stderr)
                return ended.returncode
            failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", ended.stdout, re.MULTILINE)
            failures.update(failed)
            if failed:
                print(ended.stdout)
            counts = ended.stdout.strip().splitlines()[-1]
            seconds = time.monotonic() - start
            print(f"run {run} of {given.runs}: {counts} ({seconds:.0f} s)", flush=True)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    cores = len(os.sched_getaffinity(0))
    print(f"{given.runs} runs, {given.load} busy processes beside, {cores} cores:", end=" ")
    print(", ".join(f"{name} failed {n} times" for name, n in failures.items()) or "no failure")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
