"""Runs several real processes over loopback, each with its own CPU devices."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from nsneg_jax.training.workdir import flatten

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".pytest_cache" / "jax"


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


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
        port = free_port()
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

    def wait(self, timeout: float = 240) -> list[tuple[int, str, str]]:
        """Exit status, standard output and standard error of each, without what gloo says."""
        ended = []
        for process in self.running:
            out, err = process.communicate(timeout=timeout)
            said = [line for line in out.splitlines(keepends=True) if "[Gloo]" not in line]
            ended.append((process.returncode, "".join(said), err))
        return ended


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
