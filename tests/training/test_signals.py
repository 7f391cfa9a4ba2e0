"""What the first, the second and the third signal do, and that the first is answered at once."""

import ctypes
import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nsneg_jax.errors import STOPPED, Stopped
from nsneg_jax.training.signals import (
    STOP_SIGNALS,
    StopSignals,
    _catcher,
    ended_by_signals,
)

ROOT = Path(__file__).parents[2]


def send(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


def test_the_first_lets_a_step_end_and_the_second_does_not(capfd):
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    with pytest.raises(Stopped, match="SIGUSR1"), StopSignals() as signals:
        assert not signals.stop_after(1)
        send(signal.SIGUSR1)
        assert signals.stop_after(2) and signals.may_give_up()
        assert signals.received == "SIGUSR1"
        assert len(capfd.readouterr().err.splitlines()) == 1
        send(signal.SIGINT)
        raise AssertionError("the second signal must not come here")
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before
    assert signal.set_wakeup_fd(-1) == -1
    with StopSignals() as signals:  # counts from anew
        send()
    assert signals.received == "SIGTERM"


def test_the_second_lets_a_save_end(capfd):
    with StopSignals() as signals:
        send()
        signals.unfinished = lambda: "the save of step 7"
        send()
        assert "the save of step 7" in capfd.readouterr().err
        time.sleep(0.01)
    assert signals.received == "SIGTERM"


def test_a_request_stops_as_a_signal_does():
    with StopSignals() as signals:
        signals.request("too many unreadable images")
        assert signals.stop_after(3)
        send()
    assert signals.received == "too many unreadable images"


def test_a_signal_before_the_steps_stops_after_the_first():
    with pytest.raises(Stopped), ended_by_signals("once more"):
        try:
            send()
        except Stopped:
            with StopSignals() as signals:
                assert signals.stop_after(1)
            raise


def test_a_stop_that_python_drops_is_raised_again():
    """JAX has a callback of the garbage collector, which drops what is raised in it."""

    def callback(phase, info):
        if phase == "start" and not sent:
            sent.append(send())

    sent = []
    gc.callbacks.append(callback)
    try:
        with pytest.raises(Stopped), ended_by_signals("once more"):
            gc.collect()
            for _ in range(200):
                time.sleep(0.01)
    finally:
        gc.callbacks.remove(callback)


PROGRAM = """
import hashlib
from nsneg_jax.training.signals import StopSignals, ended_by_signals

with {scope}:
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 1_000_000_000)
"""


def wait_for_work(process: subprocess.Popen) -> None:
    """Waits until a process has computed for a while after its last line."""

    def used() -> int:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    if not Path("/proc/self/stat").exists():
        time.sleep(1)
        return
    enough = used() + os.sysconf("SC_CLK_TCK") // 5
    while used() < enough:
        time.sleep(0.01)


@pytest.mark.parametrize(("scope", "least"), [("StopSignals()", 3), ("ended_by_signals('')", 2)])
def test_signals_are_answered_while_the_main_thread_is_away(scope, least):
    """It is in C code that hears of no signal, as a compiler does, and takes minutes."""
    program = PROGRAM.format(scope=scope)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, **pipes) as process:
        assert process.stdout.readline() == "ready\n"
        wait_for_work(process)
        for _ in range(least):
            process.send_signal(signal.SIGINT)
            assert process.stderr.readline().startswith("SIGINT: ")
        assert process.wait(10) == STOPPED


PROGRAMS = {
    "main.py": ["main.py"],
    "nsneg": ["-m", "nsneg_jax", "pretrain"],
    "texture": ["-m", "data.texture", "--source", "/nowhere"],
    "arrayrecord": ["-m", "data.arrayrecord", "--source", "/nowhere"],
    "imagenet100": ["-m", "data.imagenet100", "--source", "/nowhere"],
    "check": ["-m", "data.check", "/nowhere"],
    "prepare": ["-m", "nsneg_jax", "prepare", "check", "/nowhere"],
    "claim": ["-m", "experiments.claim"],
}


def catches(process: subprocess.Popen, number: int) -> bool:
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_are_stopped_from_their_first_line_on(name, tmp_path):
    """They are stopped during their imports, as soon as they catch the signal."""
    command = [sys.executable, "-X", "importtime", *PROGRAMS[name]]
    if name in ("main.py", "nsneg"):
        command += ["--config=configs/patch.py:tiny", f"--workdir={tmp_path / 'run'}"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=-1, stderr=-1, text=True)
    deadline = time.monotonic() + 30
    while not catches(process, signal.SIGHUP):
        assert process.poll() is None and time.monotonic() < deadline
    process.send_signal(signal.SIGHUP)
    out, err = process.communicate(timeout=60)
    imported = [line.rpartition("|")[2].strip() for line in err.splitlines() if "|" in line]
    assert process.returncode == STOPPED, err[-2000:]
    assert "stopped by SIGHUP" in out + err and "Traceback" not in err
    assert "jaxlib" not in imported and not (tmp_path / "run").exists()


def test_a_handler_of_c_code_is_taken_over_and_called(capfd):
    """As that of JAX for SIGTERM, with several processes."""
    heard = []
    theirs = ctypes.CFUNCTYPE(None, ctypes.c_int)(heard.append)
    before = signal.getsignal(signal.SIGTERM)
    set_handler = ctypes.CDLL(None).signal
    set_handler.restype = ctypes.c_void_p
    with StopSignals() as signals:
        assert _catcher.take_over(signal.SIGTERM) is None
        set_handler(int(signal.SIGTERM), theirs)
        signals._jax = _catcher.take_over(signal.SIGTERM)
        send()
        assert heard == [signal.SIGTERM] and signals.received == "SIGTERM"
        assert len(capfd.readouterr().err.splitlines()) == 1
    assert signal.getsignal(signal.SIGTERM) is before


def run_script(folder, text):
    (folder / "script.py").write_text(text)
    command = [sys.executable, "script.py"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_an_import_is_not_interrupted_by_an_exception(tmp_path):
    (tmp_path / "slow.py").write_text(
        "import os, signal, time\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(20)\n"
        "finally:\n"
        "    print('unwound', flush=True)\n"
    )
    done = run_script(
        tmp_path,
        "from nsneg_jax.training.signals import ended_by_signals\n"
        "with ended_by_signals('once more'):\n"
        "    import slow\n",
    )
    assert done.returncode == STOPPED and not done.stdout
    assert done.stderr.splitlines()[-1] == "stopped by SIGINT; once more"


def test_a_signal_after_all_work_changes_no_status(tmp_path):
    """Python drops its handlers before the last objects go."""
    done = run_script(
        tmp_path,
        "import atexit, ctypes, sys\n"
        "from nsneg_jax.training import signals\n"
        "class Last:\n"
        "    send = ctypes.CDLL(None).kill\n"
        "    pid = ctypes.CDLL(None).getpid()\n"
        "    def __del__(self):\n"
        "        self.send(self.pid, 15)\n"
        "signals.begin()\n"
        "sys.last = Last()\n"
        "sys.exit(3)\n",
    )
    assert done.returncode == 3, done.stderr
