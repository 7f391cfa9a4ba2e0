"""Saves that fail: noticed at once, tried once more, and then the run ends with a paragraph."""

import errno
import logging
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from small_disk import fill, small_disk
from tiny import tiny_config

import main
from nsneg_jax.errors import RunError, UsageError, exit_status, of_system
from nsneg_jax.jobs.pretrain import pretrain
from nsneg_jax.training.checkpoints import saving
from nsneg_jax.training.checkpoints.checkpoint import Checkpoints

STATE = {"kernel": np.arange(300_000, dtype=np.float32)}


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(saving, "_RETRY_AFTER", 0.01)


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk", 8 << 20) as folder:
        yield folder


def folders(workdir):
    return sorted(path.name for path in (workdir / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, RunError),
        (errno.EIO, RunError),
        (errno.ESTALE, RunError),
        (errno.EROFS, UsageError),
        (errno.ENOTDIR, UsageError),
        (errno.ENAMETOOLONG, UsageError),
    ],
)
def test_an_error_of_the_system_is_one_paragraph(number, kind):
    error = OSError(number, os.strerror(number), "/runs/a")
    told = of_system(error)
    assert type(told) is kind and exit_status(error) == exit_status(told)
    assert "/runs/a" in str(told) and os.strerror(number) in str(told)
    assert "the store is gone" in str(of_system(OSError("the store is gone")))


def test_a_failure_in_the_background_is_noticed_and_made_good(disk, capfd):
    with Checkpoints(disk, keep=3) as checkpoints:
        checkpoints.save(1, STATE, {}, last=True)
        ballast = fill(disk, 200_000)
        checkpoints.save(2, STATE, {})
        assert checkpoints.failed(wait=True)
        assert checkpoints.failed() and checkpoints.latest_step() == 1
        assert folders(disk) == ["1"]  # what could not be finished takes no room
        ballast.unlink()
        checkpoints.save(3, STATE, {})
        assert not checkpoints.failed() and checkpoints.unfinished() == ""
    assert folders(disk) == ["1", "3"]
    said = capfd.readouterr().err
    assert said.count("warning: the checkpoint of step 2 cannot be written") == 1
    assert "Traceback" not in said


def test_a_second_failure_ends_the_run(disk, capfd):
    with pytest.raises(RunError) as caught, Checkpoints(disk, keep=3) as checkpoints:
        checkpoints.save(4, STATE, {}, last=True)
        fill(disk, 200_000)
        checkpoints.save(5, STATE, {}, last=True)
    assert str(disk / "checkpoints" / "4") in str(caught.value)
    assert folders(disk) == ["4"]
    assert "Traceback" not in capfd.readouterr().err


def test_a_lost_folder_is_not_made_anew(tmp_path):
    with pytest.raises(RunError), Checkpoints(tmp_path, keep=3) as checkpoints:
        (tmp_path / "checkpoints").rmdir()
        (tmp_path / "checkpoints").write_text("in the way")
        checkpoints.save(1, STATE, {}, last=True)
    assert (tmp_path / "checkpoints").is_file()


@pytest.mark.slow
@pytest.mark.usefixtures("quick_code")
def test_a_training_tries_again_after_the_next_step(disk, monkeypatch, capfd):
    """The disk is full at the save of step 4, and has room again once the run has said so."""
    config = tiny_config(total_steps=9, **{"checkpoint.every_steps": 4, "checkpoint.keep": 9})
    start, report, ballast = saving.Saves._start, saving.Saves._report, []

    def filling(self, step, state, progress):
        if not ballast:
            ballast.append(fill(disk, 20_000))
        start(self, step, state, progress)

    def freeing(self, error, when):
        report(self, error, when)
        ballast[0].unlink()

    monkeypatch.setattr(saving.Saves, "_start", filling)
    monkeypatch.setattr(saving.Saves, "_report", freeing)
    pretrain(config, disk / "run", jax.devices()[:1])
    assert capfd.readouterr().err.count("of step 4 cannot be written: No space left") == 1
    steps = {int(name) for name in folders(disk / "run")}
    assert {8, 9} <= steps and 4 not in steps and min(steps) in (5, 6, 7)


@pytest.mark.parametrize("place", ["a file", "below a file", "a long name", "read-only"])
def test_a_workdir_that_cannot_be_made_is_one_paragraph(place, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    workdir = {
        "a file": tmp_path / "file",
        "below a file": tmp_path / "file" / "run",
        "a long name": tmp_path / ("x" * 300),
        "read-only": Path("/proc/run"),
    }[place]
    flags = ["--config=configs/patch.py:tiny", "--config.total_steps=1", f"--workdir={workdir}"]
    assert main.main(["main.py", *flags]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error:") and len(said.split("\n\n")) == 1 and len(said) < 700
    assert str(tmp_path) in said.replace("\n", "") or "/proc" in said


def test_waiting_for_the_save_before_is_no_line_of_the_log(tmp_path):
    """Orbax warns of it, although nothing is wrong; its other warnings stay."""
    with Checkpoints(tmp_path, keep=1):
        lines = []
        logger, handler = logging.getLogger("absl"), logging.Handler()
        handler.emit = lambda record: lines.append(record.getMessage())
        logger.addHandler(handler)
        try:
            for text in ("Waiting for previous save to complete took %f seconds.", "%f lost"):
                place = "/lib/orbax/checkpoint/checkpoint_manager.py"
                logger.handle(
                    logging.LogRecord("absl", logging.WARNING, place, 1, text, (3.0,), None)
                )
        finally:
            logger.removeHandler(handler)
    assert lines == ["3.000000 lost"]
