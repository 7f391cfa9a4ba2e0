"""What a signal leaves: status 75 and work to go on with, in every job and data script."""

import os
import signal
import threading

import pytest
from answering import evaluation_of_two
from photo_folder import write_photos

import main
from data import arrayrecord, check, imagenet100, texture
from nsneg_jax.errors import STOPPED, RunError, Stopped, UsageError, exit_status
from nsneg_jax.input.sources.folders.folder import Folder
from nsneg_jax.jobs import evaluate
from nsneg_jax.training.progress import Progress
from nsneg_jax.training.signals import STOP_SIGNALS, ended_by_signals


def sending(function, number=signal.SIGTERM):
    """A function that sends a signal to this process, then does its work."""

    def wrapper(*arguments, **named):
        os.kill(os.getpid(), number)
        return function(*arguments, **named)

    return wrapper


def test_statuses():
    assert [exit_status(e) for e in (Stopped(), UsageError(), RunError())] == [75, 2, 1]
    assert STOPPED == os.EX_TEMPFAIL


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_work_that_saves_nothing_ends_where_it_is(number):
    before = signal.getsignal(number)
    said = rf"{signal.Signals(number).name}.*once more"
    with pytest.raises(Stopped, match=said), ended_by_signals("once more"):
        os.kill(os.getpid(), number)
        signal.pause()
    assert signal.getsignal(number) is before
    thread = threading.Thread(target=lambda: ended_by_signals("").__enter__())
    thread.start()
    thread.join()
    assert signal.getsignal(number) is before


@pytest.fixture
def command(monkeypatch, tmp_path):
    """The command line of an evaluation of two sets, all answers right."""
    return evaluation_of_two(monkeypatch, tmp_path, "configs/evaluate.py")


def test_a_job_that_is_stopped_and_goes_on(command, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patched:
        patched.setattr(evaluate, "Progress", type("P", (Progress,), {}))
        patched.setattr(evaluate.Progress, "advance", sending(Progress.advance))
        assert main.main(command) == 75
    assert "stopped by SIGTERM after part 1 of 2" in capsys.readouterr().out
    assert not (tmp_path / "out" / "results.json").exists()
    with monkeypatch.context() as patched:  # before its first step
        patched.setattr(evaluate, "load_pretrained", sending(evaluate.load_pretrained))
        assert main.main(command) == 75
    assert "stopped by SIGTERM" in capsys.readouterr().out
    assert main.main(command) == 0
    assert "2 sets; 1 done before" in capsys.readouterr().out


def of_photos(tmp_path):
    names = [f"{name}/{i}.jpg" for name in ("ant", "bee") for i in range(3)]
    for split in ("train", "val"):
        write_photos(tmp_path / "photos", names, split)
    return str(tmp_path / "photos")


def test_check_is_stopped(tmp_path, monkeypatch, capsys):
    photos = of_photos(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(Folder, "encoded", sending(Folder.encoded))
        assert check.main([photos]) == 75
    assert "stopped by SIGTERM" in capsys.readouterr().out
    assert check.main([photos]) == 0


def test_packing_is_stopped_and_goes_on(tmp_path, monkeypatch):
    arguments = ["--source", of_photos(tmp_path), "--out", str(tmp_path / "packed")]
    with monkeypatch.context() as patched:
        patched.setattr(Folder, "encoded", sending(Folder.encoded, signal.SIGINT))
        assert arrayrecord.main(arguments) == 75
    assert arrayrecord.main(arguments) == 0
    assert arrayrecord.main([*arguments, "--verify"]) == 0


def test_textures_are_stopped(tmp_path, monkeypatch):
    arguments = ["--source", of_photos(tmp_path), "--out", str(tmp_path / "textures")]
    monkeypatch.setattr(texture, "make", sending(texture.make))
    assert texture.main([*arguments, "--compilation_cache=off"]) == 75


def test_a_subset_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(imagenet100, "plan", sending(imagenet100.plan))
    assert imagenet100.main(["--source", str(tmp_path), "--out", str(tmp_path / "out")]) == 75
