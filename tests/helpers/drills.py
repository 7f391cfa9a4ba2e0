"""What drills of stopped and killed commands share."""

import json
import os
from pathlib import Path

from tiny import metrics_lines

from nsneg_jax.training.workdir import step_folders

FAST = 5  # of a kind in the fast tests
# of a pre-training that is stopped or killed at random
LONG = {"epochs": 40, "log_every_steps": 3, "checkpoint.every_steps": 7}


def number(count: int) -> int:
    """How many of `count` to do; NSNEG_DRILLS=0.1 makes it a tenth."""
    return max(1, round(float(os.environ.get("NSNEG_DRILLS", "1")) * count))


def end_state(workdir: Path) -> tuple[dict, list[dict]]:
    """Digests of all values in the newest checkpoint, and metrics.jsonl without times."""
    newest = step_folders(workdir / "checkpoints")[-1]
    digests = json.loads((newest / "digests" / "metadata").read_text())
    return digests["state"] | {"step": newest.name}, metrics_lines(workdir)
