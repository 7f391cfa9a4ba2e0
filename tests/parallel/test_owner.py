"""One owner per workdir: alive, dead, on this host and on another."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import main
from nsneg_jax.errors import UsageError
from nsneg_jax.parallel import owner
from nsneg_jax.parallel.owner import LOCK, owned

ROOT = Path(main.__file__).parent
HOLD = """
import sys, time
from pathlib import Path
from nsneg_jax.parallel.owner import owned

with owned(Path(sys.argv[1])):
    print("owns", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that owns `tmp_path`."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "owns\n"
        yield process
        process.kill()


def start(workdir):
    return main.main(["main.py", "--config=configs/patch.py:tiny", f"--workdir={workdir}"])


def test_a_second_start_is_refused_until_the_first_is_dead(other, tmp_path, capsys):
    lock = tmp_path / LOCK
    assert json.loads(lock.read_text())["pid"] == other.pid
    assert start(tmp_path) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"process {other.pid} on" in said
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]
    other.send_signal(signal.SIGKILL)
    other.wait()
    with owned(tmp_path):
        assert json.loads(lock.read_text())["pid"] == os.getpid()
    assert not lock.exists()


def test_file_systems_without_locks_go_by_the_process(other, tmp_path, monkeypatch):
    monkeypatch.setattr(owner, "_locked", lambda lock: None)
    with pytest.raises(UsageError, match=f"process {other.pid} on"), owned(tmp_path):
        pass
    other.send_signal(signal.SIGKILL)
    other.wait()
    with owned(tmp_path):
        pass


def test_a_new_workdir_where_nothing_was_written_is_removed(tmp_path):
    with owned(tmp_path / "a" / "b"):
        pass
    assert not list(tmp_path.iterdir())
    with owned(tmp_path / "a"):
        (tmp_path / "a" / "config.json").touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["config.json"]


@pytest.mark.parametrize("content", ["", "{", "[3]", "\x00" * 90])
def test_a_damaged_lock_is_taken_over(tmp_path, content):
    (tmp_path / LOCK).write_text(content)
    with owned(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_an_owner_on_another_host_goes_by_its_counter(tmp_path, monkeypatch, capsys):
    """The counter is raised by a thread, as that host would do it."""
    monkeypatch.setattr(owner, "_PATIENCE", 0.5)
    monkeypatch.setattr(owner, "_LOOK_EVERY", 0.02)
    lock = tmp_path / LOCK
    content = {"host": "elsewhere", "pid": 1, "since": "yesterday", "beat": 1}
    lock.write_text(json.dumps(content))
    with owned(tmp_path):
        assert "elsewhere" in capsys.readouterr().err
    lock.write_text(json.dumps(content))
    beat = threading.Timer(0.2, lambda: lock.write_text(json.dumps(content | {"beat": 2})))
    beat.start()
    with pytest.raises(UsageError, match="process 1 on elsewhere"), owned(tmp_path):
        pass
    beat.join()
    assert lock.exists()


def test_the_counter_rises(tmp_path, monkeypatch):
    monkeypatch.setattr(owner, "_BEAT", 0.01)
    with owned(tmp_path):
        while json.loads((tmp_path / LOCK).read_text() or '{"beat": 0}')["beat"] < 3:
            pass
