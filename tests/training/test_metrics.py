"""Figures of a run: their means, and the files that they are written to."""

import json
import subprocess
import sys
from pathlib import Path

import jax

from nsneg_jax.training.metrics import MetricWriter, Window


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


def steps_of(workdir: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").open()]


def test_numbers_that_are_none_are_null(tmp_path):
    with MetricWriter(tmp_path, 0) as writer:
        writer.write(1, "val", {"loss": float("nan"), "top1": float("inf"), "lr": 0.5})
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line) == {"step": 1, "split": "val", "loss": None, "top1": None, "lr": 0.5}


def test_a_resumed_writer_drops_later_and_broken_lines(tmp_path):
    with MetricWriter(tmp_path, 0) as writer:
        for step in (1, 2, 3):
            writer.write(step, "train", {"loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'\xff\xfe\n{"step": 1, "spl')
    with MetricWriter(tmp_path, 2) as writer:
        writer.write(3, "train", {"loss": 2.0})
    assert steps_of(tmp_path) == [1, 2, 3]


def limited(program: str, workdir: Path, size: int) -> subprocess.CompletedProcess:
    """Runs a program whose files cannot grow beyond `size` bytes."""
    program = f"""
import resource, signal, sys
from pathlib import Path
from nsneg_jax.training.metrics import MetricWriter
workdir = Path({str(workdir)!r})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing then raises OSError
def limit(size): resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
limit({size})
{program}"""
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        timeout=60,
        capture_output=True,
        text=True,
    )


def test_a_disk_that_fills_blocks_nothing_and_loses_no_line(tmp_path):
    """TensorBoard's files end where the disk is full; lines wait until there is room."""
    done = limited(
        """
with MetricWriter(workdir, 0) as writer:
    for step in range(1, 201):
        writer.write(step, "train", {"loss": 1.0, "accuracy": 2.0})
        if step == 150:
            limit(resource.RLIM_INFINITY)
""",
        tmp_path,
        4000,
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert [line.split()[0] for line in done.stderr.splitlines()] == ["warning:"] * 2
    assert steps_of(tmp_path) == list(range(1, 201))


def test_a_disk_that_stays_full_says_what_is_lost(tmp_path):
    done = limited(
        """
with MetricWriter(workdir, 0) as writer:
    for step in range(1, 101):
        writer.write(step, "train", {"loss": 1.0})
""",
        tmp_path,
        2000,
    )
    assert done.returncode == 0 and "lines of" in done.stderr and "Traceback" not in done.stderr
    steps = steps_of(tmp_path)
    assert steps == list(range(1, len(steps) + 1)) and 10 < len(steps) < 100
    assert f"{100 - len(steps)} lines of" in done.stderr


def test_a_board_that_cannot_be_written_is_reported(tmp_path, capsys):
    (tmp_path / "tensorboard").write_text("a file")
    with MetricWriter(tmp_path, 0) as writer:
        writer.write(1, "train", {"loss": 1.0})
    assert steps_of(tmp_path) == [1] and "tensorboard" in capsys.readouterr().err
