"""Threads that fill the rows of batches, themselves or each by a worker process of its own."""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from nsneg_jax.input.loaders.buffers import Memory
from nsneg_jax.input.samples import Samples, Unreadable


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
        found: list[Unreadable] = []
        all_words = rows.words.tolist()
        for offset, wanted in enumerate(rows.wanted):
            row = rows.start + offset
            self._reading = int(wanted.flat[0]), time.monotonic()
            out = {name: array[row, ...] for name, array in rows.arrays.items()}
            found += self._samples(wanted, rows.place + offset, all_words[offset], out)
        self._reading = None
        return found

    def reading(self) -> tuple[int, float] | None:
        """See `Hand`."""
        return self._reading

    def close(self) -> None:
        """See `Hand`."""


class Crew:
    """Fills rows in threads, in the order of submission.

    The threads are daemons: a read that never returns must not keep the process from ending.

    Args:
        count: number of threads.
        make_hand: makes what a thread works with, in this thread.
    """

    def __init__(self, count: int, make_hand: Callable[[], Hand]) -> None:
        self._waiting: queue.SimpleQueue[tuple[Rows, Future[list[Unreadable]]] | None] = (
            queue.SimpleQueue()
        )
        self._make_hand = make_hand
        self._closed = threading.Event()
        self._hands: list[Hand] = []
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def submit(self, rows: Rows) -> "Future[list[Unreadable]]":
        """Queues rows; the result is the list of images that could not be read."""
        future: Future[list[Unreadable]] = Future()
        self._waiting.put((rows, future))
        if self._closed.is_set():
            self._cancel()
        return future

    def readings(self) -> Sequence[tuple[int, float]]:
        """Returns the images being read and since when, see `Hand.reading`."""
        now = (hand.reading() for hand in list(self._hands))
        return [reading for reading in now if reading is not None]

    def close(self, seconds: float = 5.0) -> None:
        """Cancels what is queued, and waits for the threads; not longer than `seconds`."""
        self._closed.set()
        self._cancel()
        for _ in self._threads:
            self._waiting.put(None)
        for hand in list(self._hands):
            hand.close()
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _cancel(self) -> None:
        while True:
            try:
                task = self._waiting.get_nowait()
            except queue.Empty:
                return
            if task is not None:
                task[1].cancel()

    def _work(self) -> None:
        hand: Hand | None = None
        while (task := self._waiting.get()) is not None:
            rows, future = task
            if not future.set_running_or_notify_cancel():
                continue
            try:
                if hand is None:
                    hand = self._make_hand()
                    self._hands.append(hand)
                future.set_result(hand.fill(rows))
            except BaseException as error:
                future.set_exception(error)
            # The thread would hold the memory of the last batch until the next one.
            del task, rows, future
        if hand is not None:
            hand.close()
