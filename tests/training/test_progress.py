"""What a run says of itself on the terminal: when, and how often."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import jax
import pytest
from tiny import metrics_lines, tiny_config, tiny_linear_config

from nsneg_jax.jobs.linear import linear
from nsneg_jax.jobs.pretrain import pretrain
from nsneg_jax.training import progress
from nsneg_jax.training.progress import Progress, Stopwatch

ONE = jax.devices()[:1]
ROOT = Path(__file__).parents[2]


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


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_lines_fit_and_keep_the_loss(clock, capsys, monkeypatch, columns):
    monkeypatch.setattr(progress, "_columns", lambda: min(columns, 80))
    with Progress(247_000, 0) as display:
        display.advance(1)
        clock.now += 45_296
        display.show(123_456, "loss 5.981", "contrast 12.3 %", "10,234 images/s", "epoch 100/200")
        display.show(2, "a first figure that is longer than all of a line of forty columns")
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("step 123456/247000  loss 5.981") and len(first) <= max(columns, 46)
    assert ("contrast" in first) == (columns > 40) and "epoch" not in first
    assert "forty columns" in second


TERMINAL = """
from nsneg_jax.training.progress import Progress, warn
with Progress(5000, 0) as display:
    for step in range(1, 31):
        display.advance(step)
        if step % 10 == 0:
            display.show(step, f"loss {step}.125", "contrast 12.3 %", "x" * 30, "y" * 30)
        if step == 15:
            display.refresh(step, "loss 15.125")
            warn("something")
    display.show(30, "kNN 50 %", in_bar=False)
"""


def in_terminal(program: str, columns: int) -> str:
    """What a program writes to a terminal, as one text."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT
    )
    os.close(theirs)
    found = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # how Linux says that the other end is closed
            part = b""
        if not part:
            break
        found += part
    assert process.wait(60) == 0
    os.close(ours)
    return found.decode()


def test_a_terminal_keeps_a_line_per_log_step_and_the_loss_in_its_bar():
    shown = in_terminal(TERMINAL, 80)
    drawn = [part for line in shown.splitlines() for part in line.split("\r")]
    assert max(map(len, drawn)) <= 80
    kept = [line.split("\r")[-1].strip() for line in shown.replace("\r\n", "\n").split("\n")]
    assert [line.split("  ")[:2] for line in kept if line.startswith("step") and "█" not in line
            and "left" in line and ", " not in line] == [
        ["step 10/5000", "loss 10.125"], ["step 20/5000", "loss 20.125"],
        ["step 30/5000", "loss 30.125"], ["step 30/5000", "kNN 50 %"],
    ]  # fmt: skip
    assert "warning: something" in kept
    bars = [part for part in drawn if ", loss " in part]
    assert "loss 30.125" in bars[-1] and any("loss 15.125" in bar for bar in bars)


def test_a_log_file_has_no_bar(capsys):
    exec(TERMINAL, {})
    out, err = capsys.readouterr()
    assert err == "warning: something\n" and "\r" not in out
    lines = out.splitlines()
    assert [int(line.split()[1].removesuffix("/5000")) for line in lines] == [10, 15, 20, 30, 30]
    assert all(len(line) <= 80 for line in lines)
