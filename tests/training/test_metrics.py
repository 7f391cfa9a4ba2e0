"""What a run says of itself: when, how often, and with which libraries."""

import subprocess
import sys
from pathlib import Path

import jax
import pytest
from tiny import metrics_lines, tiny_config, tiny_linear_config

from nsneg_jax.jobs.linear import linear
from nsneg_jax.jobs.pretrain import pretrain
from nsneg_jax.training import metrics
from nsneg_jax.training.metrics import Progress, Stopwatch, Window

ONE = jax.devices()[:1]


class Clock:
    """In place of `time` for nsneg_jax.training.metrics."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(metrics, "time", clock)
    return clock


def test_a_line_is_due_after_a_minute_of_silence(clock, capsys):
    with Progress(100, 0) as display:
        for say in (display.note, lambda text: display.show(1, text)):
            clock.now += 59.9
            assert not display.is_due()
            clock.now += 0.2
            assert display.is_due()
            say("something")
            assert not display.is_due()
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_the_first_steps_time_is_that_since_compiling(clock, capsys):
    with Progress(100, 0) as display:
        clock.now += 3
        display.compiling("the step")
        assert "the step" in capsys.readouterr().out
        clock.now += 14.2
        display.first("step", "loss 4.615")
        assert {"14.2", "4.615"} <= set(capsys.readouterr().out.split())


def test_figures_so_far_leave_those_to_be_taken_as_they_are(clock):
    window, stopwatch = Window(), Stopwatch(batch_size=8)
    assert window.means() == {} and stopwatch.figures() == {}
    for step, loss in enumerate((1.0, 3.0, 8.0), 1):
        window.add(step, {"loss": jax.numpy.float32(loss)})
        stopwatch.count_step()
        clock.now += 2
        if step == 2:
            assert window.means() == {"loss": 2.0}
            assert stopwatch.figures() == {"images_per_second": 4, "input_wait_fraction": 0}
    assert window.take() == {"loss": 4.0}
    assert stopwatch.take()["images_per_second"] == 4
    assert window.means() == {} and stopwatch.figures() == {}


def test_lines_between_change_nothing_that_is_kept(tmp_path, monkeypatch, capsys):
    """As of a run in which each step takes a minute."""
    config = tiny_config(epochs=1)
    pretrain(config, tmp_path / "quiet", ONE)
    linear(tiny_linear_config(tmp_path / "quiet", epochs=1), tmp_path / "quiet_probe", ONE)
    quiet = capsys.readouterr().out.splitlines()
    monkeypatch.setattr(metrics, "_SILENCE", 0.0)
    pretrain(config, tmp_path / "often", ONE)
    linear(tiny_linear_config(tmp_path / "quiet", epochs=1), tmp_path / "often_probe", ONE)
    often = capsys.readouterr().out.splitlines()

    def steps(lines):
        return [line.split()[1] for line in lines if line.startswith("step ")]

    assert steps(quiet) == ["3/5", "5/5", "3/3"]
    assert steps(often) == ["1/5", "2/5", "3/5", "4/5", "5/5", "1/3", "2/3", "3/3"]
    for name in ("", "_probe"):
        kept = [metrics_lines(tmp_path / f"{kind}{name}") for kind in ("often", "quiet")]
        assert kept[0] == kept[1]


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
