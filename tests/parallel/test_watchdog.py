"""The watchdog: what it writes of a run that does not get on, and when."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import pytest
from tiny import tiny_config

from nsneg_jax.parallel import watchdog
from nsneg_jax.parallel.watchdog import alive, watching
from nsneg_jax.training.workdir import STACKS

ROOT = Path(__file__).parents[2]
TENTH = 0.1 / 60  # of a second, in minutes


def files(workdir: Path) -> list[Path]:
    return list(workdir.glob(STACKS))


def wait_for_stall(workdir: Path, count: int = 1) -> str:
    """The file's text once it describes `count` stalls."""
    deadline = time.monotonic() + 30
    while not files(workdir) or files(workdir)[0].read_text().count("No step for") < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return files(workdir)[0].read_text()


def test_a_read_that_never_returns_is_written_once(tmp_path, capfd):
    """A FIFO without a writer, which a thread reads; its stack shows where."""
    fifo = tmp_path / "image.jpg"
    os.mkfifo(fifo)

    def read_that_hangs():
        fifo.read_bytes()

    with watching(TENTH, tmp_path / "run", STACKS):
        alive("waiting for the batch of step 3")
        reader = threading.Thread(target=read_that_hangs, daemon=True)
        reader.start()
        text = wait_for_stall(tmp_path / "run")
        assert "waiting for the batch of step 3" in text
        assert "read_that_hangs" in text and "test_watchdog.py" in text
        time.sleep(0.3)  # three times its patience; it must stay at one
        assert wait_for_stall(tmp_path / "run") == text
        alive("step 4")
        again = wait_for_stall(tmp_path / "run", 2)
        assert "step 4" in again[len(text) :]
        fifo.write_bytes(b"")
        reader.join()
    assert "read_that_hangs" in capfd.readouterr().err


def test_a_run_that_gets_on_leaves_no_file(tmp_path, monkeypatch):
    """Of a clock that goes by the calls, so that a busy machine makes no stall."""

    class Clock:
        now, looks = 0.0, 0

        def monotonic(self) -> float:
            self.looks += threading.current_thread().name == "watchdog"
            return self.now

        strftime = time.strftime

    clock = Clock()
    monkeypatch.setattr(watchdog, "time", clock)
    with watching(TENTH, tmp_path, STACKS):
        for step in range(20):
            alive(f"step {step}")
            clock.now += 0.09  # of its patience of 0.1
            looks = clock.looks
            while clock.looks < looks + 2:
                time.sleep(0.001)
    assert not files(tmp_path)


def test_zero_watches_nothing(tmp_path):
    before = threading.active_count()
    with watching(0, tmp_path, STACKS):
        assert threading.active_count() == before
    alive("nothing watches")


def test_a_workdir_that_cannot_be_written_leaves_the_log(tmp_path, capfd):
    (tmp_path / "file").write_text("")
    with watching(TENTH, tmp_path / "file", STACKS):
        deadline, said = time.monotonic() + 30, ""
        while "cannot be written" not in said:
            assert time.monotonic() < deadline
            time.sleep(0.01)
            said += capfd.readouterr().err
    assert "No step for" in said and "test_watchdog.py" in said


def test_a_call_that_keeps_pythons_lock_is_written_too(tmp_path):
    """No thread of Python runs meanwhile, so faulthandler's own writes to standard error."""
    program = (
        "import ctypes, pathlib\n"
        "from nsneg_jax.parallel.watchdog import watching\n"
        "def keeps_the_lock():\n"
        "    ctypes.PyDLL(None).usleep(900_000)\n"
        f"with watching({TENTH}, pathlib.Path({str(tmp_path)!r}), {STACKS!r}):\n"
        "    keeps_the_lock()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0 and "keeps_the_lock" in ended.stderr


@pytest.mark.usefixtures("quick_code")
def test_a_run_with_a_stalled_source_goes_on(tmp_path, monkeypatch):
    """The job's own phases: the source sleeps within a step, and the run ends as without it."""
    from nsneg_jax.input.shapes.source import Shapes
    from nsneg_jax.jobs.pretrain import pretrain

    image = Shapes.image
    stalled = threading.Event()

    def stalls() -> list[str]:
        return wait_for_stall(tmp_path).split("No step for")

    def is_meant(stall: str) -> bool:
        return "waiting for the batch of step" in stall and "slow_image" in stall

    def slow_image(source, index):
        if not stalled.is_set() and (tmp_path / "metrics.jsonl").exists():
            stalled.set()
            while not any(is_meant(stall) for stall in stalls()):
                time.sleep(0.01)
        return image(source, index)

    monkeypatch.setattr(Shapes, "image", slow_image)
    plain = {"views.jitter_probability": 0.0, "views.grayscale_probability": 0.0}
    config = tiny_config(total_steps=8, **plain, **{"data.threads": 1})
    with watching(TENTH * 5, tmp_path, STACKS):
        assert pretrain(config, tmp_path, jax.devices()[:1]).step == 8
    assert stalled.is_set() and any(is_meant(stall) for stall in stalls())
