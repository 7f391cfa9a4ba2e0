"""Drills: trainings that signals and full disks stop at random, and that go on to the same bits.

The fast ones train in this process, with its programs compiled once. The slow ones run the command.
NSNEG_DRILLS scales their numbers: 0.1 makes a tenth of them.
"""

import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import jax
import pytest
from drills import FAST, LONG, end_state, number
from processes import ROOT, flags, start
from small_disk import fill, small_disk
from tiny import tiny_config

from nsneg_jax.errors import STOPPED, RunError, Stopped
from nsneg_jax.jobs import build, pretrain
from nsneg_jax.training import signals
from nsneg_jax.training.checkpoints import saving

STEPS = 20


def saved_steps(workdir: Path) -> list[int]:
    names = [path.name for path in (workdir / "checkpoints").glob("*")]
    return sorted(int(name) for name in names if name.isdecimal())


# In this process.


def on_host(leaf):
    return jax.device_get(leaf) if isinstance(leaf, jax.Array) else leaf


@pytest.fixture(scope="module")
def compiled_once(quick_code):
    """Builds and compiles the method once for all trainings of this module."""
    once = {}

    def remembered(name, function):
        def call(*arguments):
            if name not in once:
                # The first step donates its state.
                once[name] = jax.tree.map(on_host, function(*arguments))
            return once[name]

        return call

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pretrain, "compile_step", remembered("step", pretrain.compile_step))
        patched.setattr(build, "build", remembered("build", build.build))
        patched.setattr(saving, "_RETRY_AFTER", 0.01)
        yield


def train(workdir):
    config = tiny_config(total_steps=STEPS, **{"checkpoint.every_steps": 4})
    told = []
    pretrain.pretrain(config, workdir, jax.devices()[:1], told.append)
    return told


@pytest.fixture(scope="module")
def undisturbed(compiled_once, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    train(workdir)
    began = time.monotonic()
    train(tmp_path_factory.mktemp("timed"))
    return end_state(workdir), time.monotonic() - began


class At(threading.Thread):
    """Calls a function some seconds from now, unless it was joined before."""

    def __init__(self, seconds, function):
        super().__init__()
        self._over, self._seconds, self._function = threading.Event(), seconds, function
        self.start()

    def run(self):
        if not self._over.wait(self._seconds):
            self._function()

    def __exit__(self, *_):
        self._over.set()
        self.join()

    def __enter__(self):
        return self


def report(capsys, what, seed, counts):
    with capsys.disabled():
        print(f"\n{what}: seed {seed}; {', '.join(f'{n} {name}' for name, n in counts.items())}")


@pytest.mark.parametrize("second", [False, True], ids=["once", "twice"])
def test_signals_at_random_lose_nothing(undisturbed, tmp_path, capsys, second):
    expected, seconds = undisturbed
    seed, counts = 11 + second, {"signals": 0, "stops": 0, "ends": 0}
    rng = random.Random(seed)

    def send():
        for _ in range(1 + second):
            counts["signals"] += 1
            os.kill(os.getpid(), rng.choice(signals.STOP_SIGNALS))
            if second:
                time.sleep(rng.uniform(0, 0.05))

    while counts["signals"] < FAST * (1 + second):
        workdir, told = tmp_path / str(counts["ends"]), None
        while told != []:
            # The outer scope gets what comes after the training, such as a second signal.
            try:
                with signals.ended_by_signals(""), At(rng.uniform(0, seconds), send):
                    told = train(workdir)
                    steps = saved_steps(workdir)
                    assert not told or f" {steps[-1]} of {STEPS}" in told[0]
            except Stopped:
                told = ["stopped"]
            counts["stops"] += bool(told)
        counts["ends"] += 1
        assert end_state(workdir) == expected
    report(capsys, "signals in one process", seed, counts)


def test_a_disk_that_fills_at_random_loses_nothing(undisturbed, tmp_path, capsys):
    expected, seconds = undisturbed
    seed, counts = 13, {"disks": 0, "errors": 0}
    rng = random.Random(seed)
    for i in range(FAST):
        with small_disk(tmp_path / str(i), 16 << 20) as disk:
            leave = rng.choice((0, 5_000, 50_000, 300_000))
            with At(rng.uniform(0, seconds), lambda disk=disk, leave=leave: fill(disk, leave)):
                try:
                    train(disk / "run")
                except (RunError, OSError):
                    counts["errors"] += 1
            (disk / "ballast").unlink(missing_ok=True)
            train(disk / "run")
            assert end_state(disk / "run") == expected
            counts["disks"] += 1
    report(capsys, "disks that fill", seed, counts)


# The command.


class Command:
    """One start of the command; its output goes to files, which a full disk does not hold."""

    def __init__(self, workdir: Path, logs: Path, workers: int = 0) -> None:
        config = tiny_config(**LONG, **{"data.workers": workers})
        argv = [*flags(config, "patch"), f"--workdir={workdir}"]
        self.workdir = workdir
        self.log = logs / f"{time.monotonic_ns()}.log"
        with self.log.open("wb") as log:
            command = [sys.executable, str(ROOT / "main.py"), *argv]
            self.process = start(command, stdout=log, stderr=log, start_new_session=True)
        self.began = time.monotonic()
        status = Path(f"/proc/{self.process.pid}/status")
        caught = 0
        while not caught >> (signal.SIGTERM - 1) & 1:  # Python itself needs a moment
            assert self.process.poll() is None, self.said()
            line = next(x for x in status.read_text().splitlines() if x.startswith("SigCgt"))
            caught = int(line.split()[1], 16)
            time.sleep(0.005)

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, text: str) -> bool:
        """Waits until the command has said `text`; False if it ended without."""
        while text not in self.said():
            if self.process.poll() is not None:
                return text in self.said()
            time.sleep(0.005)
        return True

    def send(self, number: int, group: bool = False) -> None:
        if self.process.poll() is None:
            (os.killpg if group else os.kill)(self.process.pid, number)

    def ended(self, *expected: int, within: float = 300) -> int:
        status = self.process.wait(within)
        said = self.said()
        assert status in expected and "Traceback" not in said, said
        if status == STOPPED and " of 200, with everything saved" in said:
            step = int(said.rpartition(" of 200, with")[0].rpartition(" ")[2])
            assert saved_steps(self.workdir)[-1] == step, said
        return status


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """How an undisturbed command ends, and its seconds until its first step."""
    folder = tmp_path_factory.mktemp("whole")
    Command(folder / "warm", folder).ended(0)  # fills the cache of programs
    command = Command(folder / "run", folder)
    command.wait_for("first step")
    seconds = time.monotonic() - command.began
    command.ended(0)
    return end_state(folder / "run"), seconds


def moment(command, rng, seconds):
    """Waits until a random moment of the start, or of the steps."""
    if rng.random() < 0.5:
        time.sleep(rng.uniform(0, seconds))
    elif command.wait_for("first step"):
        time.sleep(rng.uniform(0, 2))


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("group", [False, True], ids=["process", "group"])
def test_many_signals_at_random_lose_nothing(whole, tmp_path, capsys, sent, group):
    expected, seconds = whole
    seed, counts = int(sent) + 100 * group, {"signals": 0, "stops": 0, "ends": 0}
    rng = random.Random(seed)
    while counts["signals"] < number(20):
        workdir, status = tmp_path / str(counts["ends"]), STOPPED
        while status == STOPPED:
            command = Command(workdir, tmp_path, workers=2 if group else 0)
            if counts["signals"] < number(20):
                moment(command, rng, seconds)
                command.send(sent, group)
                counts["signals"] += 1
            status = command.ended(0, STOPPED)
            counts["stops"] += status == STOPPED
        counts["ends"] += 1
        assert end_state(workdir) == expected
    report(capsys, f"{sent.name} to the {'group' if group else 'process'}", seed, counts)


@pytest.mark.slow
def test_many_double_signals_during_the_last_save_lose_nothing(whole, tmp_path, capsys):
    expected, _ = whole
    seed, counts = 17, {"double signals": 0, "during the save": 0}
    rng = random.Random(seed)
    while counts["double signals"] < number(10):
        workdir = tmp_path / str(counts["double signals"])
        command = Command(workdir, tmp_path)
        command.wait_for("first step")
        time.sleep(rng.uniform(0, 1))
        sent = rng.choice(signals.STOP_SIGNALS)
        command.send(sent)
        command.wait_for("stopping after this step")
        before = saved_steps(workdir)
        while command.process.poll() is None and saved_steps(workdir) == before:
            if list(workdir.glob("checkpoints/*tmp*")):
                command.send(sent)
                break
        if command.ended(0, STOPPED) == STOPPED:
            counts["double signals"] += 1
            counts["during the save"] += "finishing the save of step" in command.said()
            assert "with everything saved" in command.said().replace("stopping after", "", 1)
        Command(workdir, tmp_path).ended(0)
        assert end_state(workdir) == expected
    assert counts["during the save"]
    report(capsys, "double signals", seed, counts)


@pytest.mark.slow
def test_many_disks_that_fill_at_random_lose_nothing(whole, tmp_path, capsys):
    expected, seconds = whole
    seed, counts = 19, {"disks": 0, "errors": 0, "ends": 0}
    rng = random.Random(seed)
    for i in range(number(20)):
        with small_disk(tmp_path / str(i), 24 << 20) as disk:
            command = Command(disk / "run", tmp_path)
            moment(command, rng, seconds)
            fill(disk, rng.choice((0, 5_000, 50_000, 300_000)))
            status = command.ended(0, 1, within=60)
            if status == 1:
                assert command.said().count("error:") == 1
            counts["errors" if status else "ends"] += 1
            (disk / "ballast").unlink()
            Command(disk / "run", tmp_path).ended(0)
            assert end_state(disk / "run") == expected
            counts["disks"] += 1
    report(capsys, "disks that fill", seed, counts)
