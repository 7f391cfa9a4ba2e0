"""Runs functions of the package in a separate process, which a crashing compiler may end."""

import os
import pickle
import re
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from nsneg_jax.errors import RunError, UsageError

_ROOT = Path(__file__).parents[2]
# A compiler's last message before it aborts: letter of the severity, date, time, place.
_FATAL = re.compile(r"^F\d{4} \S+\s+\d+ (.*)$", re.MULTILINE)
_SHOWN = 600  # most characters to show of a compiler's message


def run_apart(
    function: Callable[..., Iterator[Any]], *arguments: Any, environment: Mapping[str, str]
) -> Iterator[Any]:
    """Calls a generator function in a new process, and yields what it yields.

    Args:
        function: function of a module of the package; yields picklable values.
        arguments: picklable arguments of the function.
        environment: environment variables to add to those of this process.

    Raises:
        UsageError: `function` raises it.
        RunError: `function` fails, or the process ends otherwise.
    """
    # The new process must find the same modules.
    variables = os.environ | {"PYTHONPATH": os.pathsep.join([str(_ROOT), *filter(None, sys.path)])}
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "nsneg_jax.planning.apart"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            env=variables | dict(environment),
        )
        assert process.stdin is not None and process.stdout is not None  # pipes
        try:
            with suppress(BrokenPipeError), process.stdin as call:
                pickle.dump((function, arguments), call)
            while True:
                try:
                    result = pickle.load(process.stdout)
                except EOFError:
                    break
                if isinstance(result, Exception):
                    raise result
                yield result
            if process.wait():
                said.seek(0)
                raise RunError(_ended(process.returncode, said.read().decode(errors="replace")))
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def _ended(status: int, said: str) -> str:
    """Returns the message for a process that ended without giving a reason."""
    how = f"exit status {status}" if status > 0 else signal.Signals(-status).name
    fatal = _FATAL.search(said)
    last = fatal[1] if fatal else " ".join(said[-_SHOWN:].split())
    return f"The process ended ({how}): {last or 'it said nothing'}"


def _failed(error: Exception) -> Exception:
    """Returns the error to raise in the waiting process."""
    if isinstance(error, (UsageError, RunError)):
        return error
    return RunError(f"{type(error).__name__}: {' '.join(str(error).split())[:_SHOWN]}")


def _serve() -> None:
    # Compilers and their libraries print to standard output too.
    with os.fdopen(os.dup(1), "wb") as results:
        os.dup2(2, 1)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        function, arguments = pickle.load(sys.stdin.buffer)
        try:
            for result in function(*arguments):
                pickle.dump(result, results)
                results.flush()
        except Exception as error:
            pickle.dump(_failed(error), results)


if __name__ == "__main__":
    _serve()
