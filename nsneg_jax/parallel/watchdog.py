"""Writes where each thread of a run stands if the run does not get on for long."""

import faulthandler
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_POLLS = 10  # looks at the run within its patience
_MOST_SECONDS = 30.0  # between two looks


class _Watchdog:
    """A thread that looks for a stall; see `watching`."""

    def __init__(self, seconds: float, path: Path) -> None:
        self._seconds = seconds
        self._path = path
        self._doing = (time.monotonic(), "the start")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def alive(self, doing: str) -> None:
        self._doing = (time.monotonic(), doing)

    def _watch(self) -> None:
        told = None
        pause = min(self._seconds / _POLLS, _MOST_SECONDS)
        while True:
            # A call that keeps Python's lock stops this thread, too, but not faulthandler's.
            faulthandler.dump_traceback_later(self._seconds + 2 * pause, file=2)
            if self._over.wait(pause):
                return
            doing = self._doing
            idle = time.monotonic() - doing[0]
            if idle >= self._seconds and told is not doing:
                told = doing
                self._tell(doing[1], idle)

    def _tell(self, doing: str, idle: float) -> None:
        text = (
            f"No step for {idle / 60:.3g} minutes (watchdog_minutes); the last thing begun is "
            f"{doing}. Process {os.getpid()} on {platform.node()}, "
            f"{time.strftime('%Y-%m-%d %H:%M:%S %z')}."
        )
        stacks = _stacks()
        # The log first, because the workdir may be what does not answer.
        print(
            f"warning: {text} The run goes on. The stacks of all threads, also in {self._path}:\n"
            f"{stacks}",
            file=sys.stderr,
            flush=True,
        )
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"{text}\n{stacks}\n")
        except OSError as error:
            print(f"warning: {self._path} cannot be written: {error}", file=sys.stderr, flush=True)


_current: _Watchdog | None = None


@contextmanager
def watching(minutes: float, workdir: Path, name: str) -> Iterator[None]:
    """Watches the enclosed run, which calls `alive` with all that it begins.

    Without a call for `minutes`, the stacks of all threads and what was begun last are written to
    standard error and to a file, once per stall. The run goes on.

    Args:
        minutes: longest time between two calls of `alive`; 0 watches nothing.
        workdir: folder of the file, made if it is missing then.
        name: pattern of the file's name, in which '*' becomes host and process.
    """
    global _current
    if not minutes > 0:
        yield
        return
    path = workdir / name.replace("*", f"{platform.node()}-{os.getpid()}")
    before, _current = _current, _Watchdog(60 * minutes, path)
    _current.start()
    try:
        yield
    finally:
        _current.stop()
        _current = before


def alive(doing: str) -> None:
    """Reports that the run gets on, and what it begins now; any thread may call it."""
    if _current is not None:
        _current.alive(doing)


def _stacks() -> str:
    """Returns the stacks of all threads as text."""
    try:
        with tempfile.TemporaryFile() as file:
            faulthandler.dump_traceback(file, all_threads=True)
            file.seek(0)
            return file.read().decode("utf-8", "replace")
    except OSError:
        faulthandler.dump_traceback(2, all_threads=True)
        return ""
