"""Signals that ask a command to stop, and what becomes of its work.

SIGINT (Ctrl-C), SIGTERM and SIGHUP, and SIGUSR1, which SLURM's --signal may send, mean the same.
The first one is answered at once on standard error, also while the command is inside a compiler.
What it does, and what another does, is decided by the innermost of the scopes that are entered:

* `begin`: a program starts or ends. The first signal ends the process.
* `ended_by_signals`: work that saves nothing, or saves as it goes. The first signal raises
  `Stopped`, or ends the process during an import; the second ends it.
* `StopSignals`: steps that must be saved. The first signal lets the run stop after its step. The
  second raises `Stopped`, except that a save is finished; the third ends the process.

This module imports nothing that takes long, so that signals are caught from the first line on.
"""

import atexit
import ctypes
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import Enum
from types import FrameType
from typing import Any, Protocol

from nsneg_jax.errors import STOPPED, Stopped

STOP_SIGNALS: tuple[signal.Signals, ...] = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGHUP,
)


_AGAIN_AFTER = 0.05  # seconds until a Stopped that was dropped is raised again


_IGNORE = 1  # SIG_IGN in C


class _Action(Enum):
    GO_ON = "go on"
    RAISE = "raise Stopped in the main thread"
    EXIT = "end the process"


class _Scope(Protocol):
    """Work that a signal may stop; `answer` gets the signal's name and how many came so far."""

    advice: str

    def answer(self, name: str, count: int) -> tuple[str, _Action]: ...

    def may_raise(self) -> bool: ...


class _Catcher:
    """Handles the signals of this process while any scope is entered.

    Python runs signal handlers in the main thread between two lines of code, so one that answers
    would be silent during a compilation. Bytes that Python writes for each signal (see
    `signal.set_wakeup_fd`) wake a thread that answers.
    """

    def __init__(self) -> None:
        self.first = ""  # name of the first signal
        self._scopes: list[_Scope] = []
        self._before: dict[int, Any] = {}
        self._lock = threading.RLock()  # a handler may interrupt another
        self._reset()

    def _reset(self) -> None:
        self.first = ""
        self._count = 0
        self._unhandled = 0  # signals counted since the last handler
        self._repeats = 0  # signals sent by `_unraisable`
        self._due = False  # Stopped is to be raised

    def enter(self, scope: _Scope, numbers: Sequence[signal.Signals]) -> bool:
        """Makes `scope` the innermost; returns False outside the main thread, which gets none."""
        if threading.current_thread() is not threading.main_thread():
            return False
        self._scopes.append(scope)
        if len(self._scopes) == 1:
            self._install(numbers)
        return True

    def leave(self, scope: _Scope) -> None:
        self._scopes.remove(scope)
        if not self._scopes:
            self._restore()

    def _install(self, numbers: Sequence[signal.Signals]) -> None:
        self._reset()
        self._reader, self._writer = socket.socketpair()
        for end in (self._reader, self._writer):
            end.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
        for number in numbers:
            if number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue  # by nohup
            self._before[number] = signal.signal(number, self._handle)
        threading.Thread(
            target=self._listen, args=(self._reader,), name="signals", daemon=True
        ).start()

    def take_over(self, number: signal.Signals) -> Callable[[int], None] | None:
        """Handles a signal that C code handles; returns the C function, None if there is none."""
        exchange = ctypes.CDLL(None).signal
        exchange.argtypes, exchange.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
        found = []
        for _ in range(2):  # the second one is Python's own function
            found.append(exchange(number, _IGNORE))
            before = signal.signal(number, self._handle)
            self._before.setdefault(number, before)
        theirs, pythons = found
        if theirs in (None, _IGNORE, pythons):
            return None
        function: Callable[[int], None] = ctypes.CFUNCTYPE(None, ctypes.c_int)(theirs)
        return function

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}
        signal.set_wakeup_fd(self._wakeup)
        sys.unraisablehook = self._hook
        self._writer.close()  # ends the thread

    def _listen(self, reader: socket.socket) -> None:
        with reader:
            while True:
                select.select([reader], [], [])
                if not self._take(reader):
                    return

    def _take(self, reader: socket.socket) -> bool:
        """Counts the signals that came; returns False once no more can come."""
        with self._lock:
            try:
                numbers = reader.recv(64)
            except BlockingIOError:
                return True
            except OSError:
                return False
            for number in numbers:
                if number in self._before and self._scopes:
                    self._note(signal.Signals(number).name)
            return bool(numbers)

    def _note(self, name: str) -> None:
        self._unhandled += 1
        if self._repeats:
            self._repeats -= 1
            return
        self._count += 1
        self.first = self.first or name
        text, action = self._scopes[-1].answer(name, self._count)
        _say(text)
        if action is _Action.EXIT:
            _exit()
        self._due |= action is _Action.RAISE

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._unhandled:  # the byte may come a moment after the handler
            select.select([self._reader], [], [], 0.1)
        self._take(self._reader)
        self._unhandled = 0
        if self._due and self._scopes:
            self._due = False
            scope = self._scopes[-1]
            if scope.may_raise():
                text = f"stopped by {self.first}; {scope.advice}"
                if _is_importing(frame):  # an exception would crash some libraries of C
                    _say(text)
                    _exit()
                raise Stopped(text)

    def _unraisable(self, unraisable: Any) -> None:
        """Raises Stopped again if it was raised where Python drops errors, as in `__del__`."""
        if not isinstance(unraisable.exc_value, Stopped):
            self._hook(unraisable)
            return
        threading.Timer(_AGAIN_AFTER, self._repeat).start()  # this hook must not be interrupted

    def _repeat(self) -> None:
        with self._lock:
            if self._scopes:
                self._due = True
                self._repeats += 1
                number = signal.Signals[self.first]
                signal.pthread_kill(threading.main_thread().ident or 0, number)


_catcher = _Catcher()


class _Program:
    """Lines before and after all work."""

    advice = "run the same command again"

    def answer(self, name: str, count: int) -> tuple[str, _Action]:
        return f"stopped by {name}; {self.advice}", _Action.EXIT

    def may_raise(self) -> bool:
        return False


_program = _Program()


def begin() -> None:
    """Lets a signal end this process with status 75, until it ends; programs call it first."""
    if _program not in _catcher._scopes and _catcher.enter(_program, STOP_SIGNALS):
        atexit.register(_ignore)


def _ignore() -> None:
    """Ignores signals from here on: Python drops its handlers before the process has ended."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class _Ended:
    def __init__(self, advice: str) -> None:
        self.advice = advice

    def answer(self, name: str, count: int) -> tuple[str, _Action]:
        if count > 1:
            return f"{name}: ended", _Action.EXIT
        return f"{name}: stopping; again to end at once", _Action.RAISE

    def may_raise(self) -> bool:
        return True


@contextmanager
def ended_by_signals(advice: str) -> Iterator[None]:
    """Ends the enclosed work by `Stopped` on a signal; another signal ends the process.

    Only the main thread can receive signals, so this does nothing in others.

    Args:
        advice: what is kept and how to go on, for the message.
    """
    scope = _Ended(advice)
    entered = _catcher.enter(scope, STOP_SIGNALS)
    try:
        yield
    finally:
        if entered:
            _catcher.leave(scope)


class StopSignals:
    """Makes the first signal set `received`, so that a run stops after its step.

    With several processes JAX stops all of them at the same step, once any of them has told its
    handler of SIGTERM; `received` is the signal that this one got.

    Args:
        unit: name of a step, for the answer.

    Attributes:
        received: name of the signal, or reason of a request; None before.
        unfinished: returns the name of a save that is being written, which a second signal does
            not interrupt; '' if there is none.
    """

    advice = "the run goes on from its newest checkpoint; run the same command to resume"

    def __init__(self, unit: str = "step") -> None:
        self.received: str | None = None
        self.unfinished: Callable[[], str] = lambda: ""
        self._unit = unit
        self._jax: Callable[[int], None] | None = None  # handler of SIGTERM

    def __enter__(self) -> "StopSignals":
        several = _processes() > 1
        ours = (number for number in STOP_SIGNALS if not several or number != signal.SIGTERM)
        self._entered = _catcher.enter(self, tuple(ours))
        if self._entered and several:
            self._jax = _catcher.take_over(signal.SIGTERM)
        if self._entered and _catcher.first:
            self.request(_catcher.first)  # it came before, where it could not be raised
        return self

    def __exit__(self, *_: object) -> None:
        if self._entered:
            _catcher.leave(self)

    def answer(self, name: str, count: int) -> tuple[str, _Action]:
        """Returns what to say about a signal, and what to do."""
        unfinished = self.unfinished()
        if count > 2:
            return f"{name}: ended", _Action.EXIT
        if count == 1:
            self.request(name)
            saved = f"{name}: stopping after this {self._unit}, with everything saved"
            return f"{saved}; again to stop now", _Action.GO_ON
        if unfinished:
            return f"{name}: finishing {unfinished}; again to end without it", _Action.GO_ON
        return f"{name}: stopping now; again to end at once", _Action.RAISE

    def may_raise(self) -> bool:
        """Returns whether no save is being written."""
        return not self.unfinished()

    def request(self, reason: str) -> None:
        """Asks the run to stop as a signal does; any thread may call it."""
        if self.received is None:
            self.received = reason
            if self._jax is not None:
                self._jax(signal.SIGTERM)  # JAX passes it on to the other processes

    def may_give_up(self) -> bool:
        """Returns whether to stop at once, where a run waits for its input between two steps.

        Several processes must stop after the same step, so none of them may stop by itself.
        """
        return bool(self.received) and _processes() == 1

    def stop_after(self, step: int) -> bool:
        """Returns whether to stop; every process must call it after every step."""
        if _processes() == 1:
            return bool(self.received)
        from jax.experimental import multihost_utils

        return multihost_utils.reached_preemption_sync_point(step)


def stopped(received: str | None, done: int, total: int, unit: str = "step") -> str:
    """Returns the message of a run that stopped early; `received` comes from `StopSignals`."""
    return (
        f"stopped by {received or 'a signal'} after {unit} {done} of {total}, with everything "
        "saved; run the same command to resume"
    )


def _processes() -> int:
    """Returns the number of processes of the run; a command that did not import JAX is alone."""
    return sys.modules["jax"].process_count() if "jax" in sys.modules else 1


def _is_importing(frame: FrameType | None) -> bool:
    """Returns whether a frame, or one that called it, imports a module."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _say(text: str) -> None:
    # Not print, which the signal may have interrupted. A progress bar leaves its line unfinished.
    with suppress(OSError, ValueError):
        start = "\n" if sys.stderr is not None and sys.stderr.isatty() else ""
        os.write(2, f"{start}{text}\n".encode())


def _exit() -> None:
    if threading.current_thread() is threading.main_thread():
        with suppress(Exception):  # what is written to a file or a pipe may still wait
            sys.stdout.flush()
    os._exit(STOPPED)
