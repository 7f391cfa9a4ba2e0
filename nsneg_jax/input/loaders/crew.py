"""Threads that fill the rows of batches, themselves or each by a worker process of its own."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from nsneg_jax.input.loaders.buffers import Memory
from nsneg_jax.input.samples import Samples, Unreadable, fill

# Most images are decoded in less; one that takes longer is thought to be waited for.
_SLOW_SECONDS = 0.02
_WATCH_SECONDS = 0.005


@dataclass(frozen=True)
class Rows:
    """Rows of a batch to fill.

    Attributes:
        memory: memory of the batch.
        arrays: the batch's arrays in it.
        start: first row to fill.
        wanted: int64 [rows, ...], see `Samples`.
        place: place in the run of the first row.
        words: uint64 [rows, ...], see `Samples`.
    """

    memory: Memory
    arrays: dict[str, np.ndarray]
    start: int
    wanted: np.ndarray
    place: int
    words: np.ndarray


_Task = tuple[Rows, "Future[list[Unreadable]]"]


class _Member:
    """A thread of a crew: its next task, and the event that wakes it."""

    def __init__(self) -> None:
        self.woken = threading.Event()
        self.task: _Task | None = None


class Hand(Protocol):
    """Fills rows; used by one thread."""

    def fill(self, rows: Rows) -> list[Unreadable]:
        """Fills rows and returns the images that could not be read."""
        ...

    def reading(self) -> tuple[int, float] | None:
        """Returns the image being read and since when, by time.monotonic; None if none is."""
        ...

    def close(self) -> None:
        """Ends the hand; called by any thread."""
        ...


class Local:
    """Fills rows in the calling thread."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self._reading: tuple[int, float] | None = None

    def fill(self, rows: Rows) -> list[Unreadable]:
        """See `Hand`."""
        try:
            return fill(
                self._samples,
                rows.arrays,
                rows.start,
                rows.wanted,
                rows.place,
                rows.words,
                self._note,
            )
        finally:
            self._reading = None

    def reading(self) -> tuple[int, float] | None:
        """See `Hand`."""
        return self._reading

    def close(self) -> None:
        """See `Hand`."""

    def _note(self, index: int) -> None:
        self._reading = index, time.monotonic()


class Crew:
    """Fills rows in threads, in the order of submission.

    No more threads are at work than there are processors, the same ones as long as they do, because
    another one would have to fill its caches first. A thread that waits for its storage does not
    count, so that more threads than processors are of use where reading is slow. The threads are
    daemons: a read that never returns must not keep the process from ending.

    Args:
        count: number of threads.
        make_hand: makes what a thread works with, in this thread.
        processors: number of processors.
    """

    def __init__(self, count: int, make_hand: Callable[[], Hand], processors: int) -> None:
        self.at_work = min(count, processors)  # threads that work at a time, storage apart
        self._make_hand = make_hand
        self._changed = threading.Condition()
        self._tasks: deque[_Task] = deque()
        self._hands: list[Hand] = []
        self._busy = self._slow = 0
        self._closed = False
        self._idle: list[_Member] = []
        self._threads: list[threading.Thread] = []
        for _ in range(count):
            member = _Member()
            self._idle.append(member)
            self._start(self._work, member)
        if count > processors:
            self._start(self._watch)

    def submit(self, rows: Rows) -> "Future[list[Unreadable]]":
        """Queues rows; the result is the list of images that could not be read."""
        future: Future[list[Unreadable]] = Future()
        with self._changed:
            if self._closed:
                future.cancel()
            else:
                self._tasks.append((rows, future))
                self._wake()
        return future

    def readings(self) -> Sequence[tuple[int, float]]:
        """Returns the images being read and since when, see `Hand.reading`."""
        now = (hand.reading() for hand in list(self._hands))
        return [reading for reading in now if reading is not None]

    def close(self, seconds: float = 5.0) -> None:
        """Cancels what is queued, and waits for the threads; not longer than `seconds`."""
        with self._changed:
            self._closed = True
            while self._tasks:
                self._tasks.pop()[1].cancel()
            while self._idle:
                self._idle.pop().woken.set()
            self._changed.notify_all()
        for hand in list(self._hands):
            hand.close()
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _next(self) -> "_Task | None":
        if self._tasks and self._busy - self._slow < self.at_work:
            self._busy += 1
            return self._tasks.popleft()
        return None

    def _wake(self) -> None:
        while self._idle and (task := self._next()) is not None:
            member = self._idle.pop()  # the last one to stop
            member.task = task
            member.woken.set()

    def _work(self, member: "_Member") -> None:
        hand: Hand | None = None
        while True:
            member.woken.wait()
            member.woken.clear()
            if self._closed:
                if member.task is not None:  # handed over just before
                    member.task[1].cancel()
                break
            while member.task is not None:
                hand = self._do(member.task, hand)
                with self._changed:
                    self._busy -= 1
                    member.task = self._next()
                    if member.task is None:
                        self._idle.append(member)
            if self._closed:
                break
        if hand is not None:
            hand.close()

    def _do(self, task: "_Task", hand: Hand | None) -> Hand | None:
        rows, future = task
        if future.set_running_or_notify_cancel():
            try:
                if hand is None:
                    hand = self._make_hand()
                    self._hands.append(hand)
                future.set_result(hand.fill(rows))
            except BaseException as error:
                future.set_exception(error)
        return hand

    def _watch(self) -> None:
        """Lets other threads work while some wait for their storage."""
        while not self._closed:
            late = time.monotonic() - _SLOW_SECONDS
            slow = sum(since < late for _, since in self.readings())
            with self._changed:
                self._slow = slow
                self._wake()
                self._changed.wait(_WATCH_SECONDS)
