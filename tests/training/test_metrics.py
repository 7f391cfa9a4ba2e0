"""Figures of a run: their means, and the files that they are written to."""

import subprocess
import sys
from pathlib import Path

import jax

from nsneg_jax.training.metrics import Window


def test_means_so_far_leave_those_to_be_taken_as_they_are():
    window = Window()
    assert window.means() == {}
    for step, loss in enumerate((1.0, 3.0, 8.0), 1):
        window.add(step, {"loss": jax.numpy.float32(loss)})
        if step == 2:
            assert window.means() == {"loss": 2.0}
    assert window.take() == {"loss": 4.0}
    assert window.means() == {}


def test_tensorboard_files_are_written_without_pytorch(tmp_path):
    """tensorboardX would import it where it is installed."""
    program = f"""
import sys
from pathlib import Path
from nsneg_jax.training.metrics import MetricWriter
with MetricWriter(Path({str(tmp_path)!r}), 0) as writer:
    writer.write(3, "train", {{"loss": 2.5}})
assert "tensorboardX" in sys.modules and "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])
    (events,) = (tmp_path / "tensorboard").iterdir()
    # the tag and, as a little-endian float, the value
    assert b"train/loss" in events.read_bytes() and b"\x00\x00\x20\x40" in events.read_bytes()
