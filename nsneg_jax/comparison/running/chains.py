"""Runs several chains of commands side by side; the commands of a chain run one after another."""

import math
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from nsneg_jax.errors import STOPPED, RunError
from nsneg_jax.training.signals import StopSignals

TIME_UP = "the end of the time"  # what stopped chains that reached their deadline

_LOOK_EVERY = 0.2  # seconds
_TAIL = 12  # lines to show of a failed command's log


@dataclass(frozen=True)
class Link:
    """A command of a chain.

    Attributes:
        name: for messages.
        command: program and arguments.
        log: file to append its output to.
        done: whether it finished earlier and must not start again.
    """

    name: str
    command: Sequence[str]
    log: Path
    done: Callable[[], bool]


@dataclass
class _Worker:
    """A place for one command at a time, with the cores it may use (None: all)."""

    cores: set[int] | None
    links: list[Link] = field(default_factory=list)
    process: subprocess.Popen | None = None
    started: float = 0.0


def run(
    chains: Sequence[Sequence[Link]],
    processes: int,
    environment: Mapping[str, str] | None = None,
    look: Callable[[], None] = lambda: None,
    deadline: float = math.inf,
    ended: Callable[[Link, float], None] = lambda link, seconds: None,
) -> str | None:
    """Runs the chains to their ends, `processes` of them at a time.

    Each command gets its own cores. A signal to stop is passed on to the commands, and this waits
    for them.

    Args:
        chains: chains in their starting order.
        processes: number of commands to run at a time, at least 1.
        environment: environment variables to add to those of this process.
        look: called several times per second.
        deadline: reading of `time.monotonic` at which the commands are stopped as by a signal.
        ended: called with each command that ended well, and the seconds it took.

    Returns:
        The signal that stopped the chains, or `TIME_UP`; None if they ended.

    Raises:
        RunError: a command failed; the message shows the end of its log. The others are stopped.
    """
    waiting = [[link for link in chain if not link.done()] for chain in chains]
    waiting = [chain for chain in waiting if chain]
    workers = [_Worker(cores) for cores in _shares(processes)]
    environment = os.environ | dict(environment or {})
    with StopSignals() as signals:
        try:
            while True:
                for worker in workers:
                    _advance(worker, waiting, environment, ended)
                if not any(worker.process for worker in workers):
                    return None
                if signals.received:
                    return signals.received
                if time.monotonic() >= deadline:
                    return TIME_UP
                look()
                time.sleep(_LOOK_EVERY)
        finally:
            _stop(workers)


def _advance(
    worker: _Worker,
    waiting: list[list[Link]],
    environment: Mapping[str, str],
    ended: Callable[[Link, float], None],
) -> None:
    """Starts the worker's next command if it has none running."""
    if worker.process is not None:
        status = worker.process.poll()
        if status is None:
            return
        link = worker.links.pop(0)
        worker.process = None
        if status != 0 or not link.done():
            raise RunError(_failure(link, status))
        ended(link, time.monotonic() - worker.started)
    if not worker.links and waiting:
        worker.links = waiting.pop(0)
    if worker.links:
        worker.started = time.monotonic()
        worker.process = _start(worker.links[0], worker.cores, environment)


def _start(link: Link, cores: set[int] | None, environment: Mapping[str, str]) -> subprocess.Popen:
    link.log.parent.mkdir(parents=True, exist_ok=True)
    with link.log.open("ab") as log, _on(cores):
        return subprocess.Popen(
            link.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            # Else a terminal's Ctrl-C would reach it twice, and the second one stops at once.
            start_new_session=True,
        )


@contextmanager
def _on(cores: set[int] | None) -> Iterator[None]:
    """Pins this thread to `cores`, which a command that it starts inherits."""
    if cores is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _stop(workers: Sequence[_Worker]) -> None:
    running = [worker.process for worker in workers if worker.process is not None]
    for process in running:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    for process in running:
        process.wait()


def _shares(processes: int) -> list[set[int] | None]:
    """Returns the cores of each process."""
    if not hasattr(os, "sched_getaffinity"):
        return [None] * processes
    cores = sorted(os.sched_getaffinity(0))
    if processes == 1 or processes > len(cores):
        return [None] * processes
    return [set(cores[i::processes]) for i in range(processes)]


def _failure(link: Link, status: int) -> str:
    lines = link.log.read_text(errors="replace").splitlines()[-_TAIL:]
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    if status in (0, STOPPED):
        how = "was stopped before its end"
    return (
        f"{link.name} {how}. The end of its log, {link.log}, is: "
        + " / ".join(line.strip() for line in lines if line.strip())
        + ". Fix the cause and run the same command to resume."
    )
