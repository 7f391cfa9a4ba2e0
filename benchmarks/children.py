"""Runs commands in separate processes with a time limit, and writes their output to files."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
_SECONDS_TO_END = 5.0


class Command(NamedTuple):
    """A Python command.

    Attributes:
        name: name of its files.
        argv: arguments of the interpreter, as in ('-m', 'benchmarks.texture').
        environ: environment variables to add to those of this process.
    """

    name: str
    argv: Sequence[str]
    environ: Mapping[str, str] = {}


class Ended(NamedTuple):
    """How a command ended.

    Attributes:
        name: name of the command.
        status: exit status, negative for a signal; None after a timeout.
        seconds: time it took.
        last_words: last error message on standard error, or else the last line.
    """

    name: str
    status: int | None
    seconds: float
    last_words: str


def run(command: Command, files: Path, seconds: float) -> Ended:
    """Runs a command in the project's folder for at most `seconds`.

    After that, or when this process is interrupted, the command and all its children are ended.

    Args:
        command: the command.
        files: FILES.out and FILES.err get its standard output and standard error.
        seconds: time limit.
    """
    out, err = (files.with_name(files.name + ending) for ending in (".out", ".err"))
    files.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with out.open("w") as out_file, err.open("w") as err_file:
        process = subprocess.Popen(
            [sys.executable, *command.argv],
            cwd=ROOT,
            env=os.environ | dict(command.environ),
            stdin=subprocess.DEVNULL,
            stdout=out_file,
            stderr=err_file,
            start_new_session=True,
        )
        try:
            status = process.wait(max(0.0, seconds))
        except subprocess.TimeoutExpired:
            status = None
        finally:
            _end_group(process)
    seconds = time.monotonic() - start
    return Ended(command.name, status, seconds, _last_words(err.read_text(errors="replace")))


def _last_words(text: str) -> str:
    lines = text.strip().splitlines()
    for place in reversed(range(len(lines))):
        if lines[place].startswith("error: "):  # a paragraph, see nsneg_jax/errors.py
            return " ".join(lines[place:])
    return lines[-1] if lines else ""


def _end_group(process: subprocess.Popen) -> None:
    """Ends the process and its children, gracefully or at once."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sent)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_SECONDS_TO_END)
