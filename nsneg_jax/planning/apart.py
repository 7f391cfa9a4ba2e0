"""Functions of the library in a process of their own, which a crash of a compiler may end."""

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
# a compiler's last words before it aborts: the letter of the severity, date, time, place
_FATAL = re.compile(r"^F\d{4} \S+\s+\d+ (.*)$", re.MULTILINE)
_SHOWN = 600  # letters of what a compiler says


def run_apart(
    function: Callable[..., Iterator[Any]], *arguments: Any, environment: Mapping[str, str]
) -> Iterator[Any]:
    """What a generator function yields, called in a new process.

    Args:
        function: of a module of the library; yields what can be pickled.
        arguments: to it, likewise.
        environment: variables of the process, besides this one's.

    Raises:
        UsageError: as `function` does.
        RunError: it failed, or something ended the process.
    """
    # the same modules are found there
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
    """The message for a process that did not say itself why it ended."""
    how = f"exit status {status}" if status > 0 else signal.Signals(-status).name
    fatal = _FATAL.search(said)
    last = fatal[1] if fatal else " ".join(said[-_SHOWN:].split())
    return f"The process ended ({how}): {last or 'it said nothing'}"


def _failed(error: Exception) -> Exception:
    """What is raised in the process that waits."""
    if isinstance(error, (UsageError, RunError)):
        return error
    return RunError(f"{type(error).__name__}: {' '.join(str(error).split())[:_SHOWN]}")


def _serve() -> None:
    # compilers and their libraries print to the standard output too
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
