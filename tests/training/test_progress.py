"""What a run says of itself on the terminal: when, and how often."""

import jax
import pytest
from tiny import metrics_lines, tiny_config, tiny_linear_config

from nsneg_jax.jobs.linear import linear
from nsneg_jax.jobs.pretrain import pretrain
from nsneg_jax.training import progress
from nsneg_jax.training.progress import Progress, Stopwatch

ONE = jax.devices()[:1]


class Clock:
    """In place of `time` for nsneg_jax.training.progress."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
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


def test_the_speed_so_far_leaves_it_to_be_taken_as_it_is(clock):
    stopwatch = Stopwatch(batch_size=8)
    assert stopwatch.figures() == {}
    for step in range(3):
        stopwatch.count_step()
        clock.now += 2
        if step == 1:
            assert stopwatch.figures() == {"images_per_second": 4, "input_wait_fraction": 0}
    assert stopwatch.take()["images_per_second"] == 4
    assert stopwatch.figures() == {}


def test_lines_between_change_nothing_that_is_kept(quick_code, tmp_path, monkeypatch, capsys):
    """As of a run in which each step takes a minute."""
    config = tiny_config(epochs=1)
    pretrain(config, tmp_path / "quiet", ONE)
    linear(tiny_linear_config(tmp_path / "quiet", epochs=1), tmp_path / "quiet_probe", ONE)
    quiet = capsys.readouterr().out.splitlines()
    monkeypatch.setattr(progress, "_SILENCE", 0.0)
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
