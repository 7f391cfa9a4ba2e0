"""What the Makefile offers."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
PARTS = {"evaluation", "accelerators-h100", "accelerators-tpu"}  # of other targets


def test_make_alone_names_every_target():
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)
    joined = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    targets = set(re.search(r"^\.PHONY: (.*)$", joined, re.M)[1].split()) - PARTS
    assert targets - {"help"} == set(re.findall(r"\b[a-z]+\b", done.stdout)) & targets
    assert {"demo", "test", "slow", "clean"} <= targets
    assert all(len(line) <= 100 for line in done.stdout.splitlines())
