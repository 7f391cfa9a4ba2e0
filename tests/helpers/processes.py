"""Runs several real processes over loopback, each with its own CPU devices."""

import fcntl
import itertools
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import gettempdir
from typing import IO

from ml_collections import ConfigDict

from nsneg_jax.training.workdir import flatten

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".pytest_cache" / "jax"


def free_port() -> tuple[int, IO[str]]:
    """A free port, which stays this process's while the returned file is open.

    It lies below those that systems give to outgoing connections, and a lock keeps other tests that
    run now from taking it before the run listens.
    """
    for port in itertools.count(20_000 + os.getpid() % 10_000):
        lock = open(Path(gettempdir()) / f"nsneg-test-port-{port}", "w")  # noqa: SIM115
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as listening:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listening.bind(("127.0.0.1", port))
        except OSError:
            lock.close()
            continue
        return port, lock
    raise AssertionError


def flags(config: ConfigDict, method: str) -> list[str]:
    """The command line that makes `config` of a config file's tiny variant."""
    fields = (f"--config.{name}={value}" for name, value in flatten(config.to_dict()).items())
    return [f"--config={ROOT / 'configs' / method}.py:tiny", *fields]


class Processes:
    """`count` processes of `program` with `devices` CPU devices each, killed on exit.

    All processes get the flags `argv`, then their own in `own`. They start in `folders`, if given.
    """

    def __init__(
        self,
        count: int,
        devices: int,
        argv: Sequence[str],
        own: dict[int, list[str]] | None = None,
        program: Path = ROOT / "main.py",
        folders: Sequence[Path] | None = None,
    ) -> None:
        port, self._lock = free_port()
        self.running = []
        for index in range(count):
            command = [sys.executable, str(program), *argv, f"--cpu_devices={devices}"]
            if count > 1:
                command += [f"--coordinator=127.0.0.1:{port}", f"--num_processes={count}"]
                command += [f"--process_id={index}"]
            folder = folders[index] if folders else None
            self.running.append(start([*command, *(own or {}).get(index, [])], folder))

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.running:
            process.kill()
            process.wait()
        self._lock.close()

    def wait(self, timeout: float = 600) -> list[tuple[int, str, str]]:
        """Exit status, standard output and standard error of each, without what gloo says."""
        ended = []
        for process in self.running:
            out, err = process.communicate(timeout=timeout)
            said = [line for line in out.splitlines(keepends=True) if "[Gloo]" not in line]
            ended.append((process.returncode, "".join(said), err))
        return ended


def is_running(pid: int) -> bool:
    """Whether a process has not ended; one that nobody has waited for (a zombie) has."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return state.rpartition(")")[2].split()[0] != "Z"


def start(command: Sequence[str], folder: Path | None = None, **options) -> subprocess.Popen:
    environ = {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tests/helpers"))),
        "JAX_COMPILATION_CACHE_DIR": str(CACHE),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    }
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(list(command), cwd=folder, env=os.environ | environ, **pipes | options)


def run(count: int, devices: int, argv: Sequence[str], **others: Path) -> str:
    """Runs `Processes` to their ends, which must be good ones; what the first has said."""
    with Processes(count, devices, argv, **others) as processes:
        ended = processes.wait()
    for status, out, err in ended:
        assert status == 0, out + err
    return ended[0][1]
