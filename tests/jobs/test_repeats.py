"""Runs that are killed again and again, with `deterministic=True`, on the CPU and on a GPU.

python -m pytest tests/jobs/test_repeats.py -m slow -s -k gpu
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny import metrics_lines

from nsneg_jax.training.checkpoints.checkpoint import find_checkpoint, read_checkpoint

ROOT = Path(__file__).parents[2]
SEED = int(os.environ.get("DRILL_SEED", "0"))
SMALL = {"data.source": "shapes:200", "data.image_size": 16, "batch_size": 16, "model.width": 4}
SMALL |= {"moco.queue_size": 64}
STEPS, STEPS_PER_SAVE, STEPS_PER_LINE = 60, 6, 2


def has_gpu() -> bool:
    if shutil.which("nvidia-smi") is None:
        return False
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    return listed.returncode == 0 and "GPU" in listed.stdout


def start(platform: str, workdir: Path) -> subprocess.Popen:
    command = [
        sys.executable,
        str(ROOT / "main.py"),
        f"--config={ROOT / 'configs' / 'patch.py'}:tiny",
        f"--workdir={workdir}",
        "--config.deterministic=True",
        f"--config.total_steps={STEPS}",
        f"--config.log_every_steps={STEPS_PER_LINE}",
        f"--config.checkpoint.every_steps={STEPS_PER_SAVE}",
        "--config.pictures=False",
    ]
    if platform == "cpu":  # where the real sizes take long
        command += [f"--config.{name}={value}" for name, value in SMALL.items()]
    environ = os.environ | {"JAX_PLATFORMS": "cpu" if platform == "cpu" else "cuda"}
    return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def lines_in(workdir: Path) -> int:
    metrics = workdir / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0


def finish(process: subprocess.Popen) -> None:
    said, _ = process.communicate(timeout=1200)
    assert process.returncode == 0, said.decode()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("platform", "kills"),
    [
        ("cpu", 3),
        pytest.param("gpu", 20, marks=pytest.mark.skipif(not has_gpu(), reason="needs a GPU")),
    ],
)
def test_killed_runs_end_with_the_same_bits(tmp_path, capsys, platform, kills):
    """Two undisturbed runs, and one that gets SIGKILL at random moments, agree in every bit."""
    for name in ("whole", "again"):
        finish(start(platform, tmp_path / name))
    rng, killed = np.random.default_rng(SEED), 0
    workdir = tmp_path / "killed"
    for kill in range(kills):
        # Later kills come after more lines, so that the run gets on and yet never ends before.
        lines = (kill + 1) * (STEPS // STEPS_PER_LINE - 6) // kills
        process = start(platform, workdir)
        while process.poll() is None and lines_in(workdir) < lines:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.2))
        process.kill()
        killed += process.wait() == -signal.SIGKILL
        process.stdout.close()
    finish(start(platform, workdir))
    expected = read_checkpoint(find_checkpoint(tmp_path / "whole"))[0]
    for name in ("again", "killed"):
        found = read_checkpoint(find_checkpoint(tmp_path / name))[0]
        jax.tree.map(np.testing.assert_array_equal, found, expected)
        assert metrics_lines(tmp_path / name) == metrics_lines(tmp_path / "whole")
    with capsys.disabled():
        print(f"\n{platform}: seed {SEED}, {killed} of {kills} killed before their end, same bits")
    assert killed >= kills / 2
