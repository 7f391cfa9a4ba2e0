"""Loads batches of samples in threads or processes; the caller says which samples.

The images of step `s` and their crops depend only on the seed and `s`. To resume, start at that
step, with any number of threads, workers and processes.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import grain
import jax
import numpy as np

from nsneg_jax.errors import UsageError, printable
from nsneg_jax.input.draws import philox_words
from nsneg_jax.input.loaders.buffers import Buffers
from nsneg_jax.input.loaders.crew import Crew, Local, Rows
from nsneg_jax.input.loaders.workers import Shared, Worker
from nsneg_jax.input.samples import Samples, Unreadable

Batch = dict[str, np.ndarray]  # of samples, stacked

AUTOMATIC = -1
# Rows that a thread or worker fills at once. Handing them over takes a tenth of a millisecond,
# loading a photograph takes one.
_MOST_ROWS = 16
# Batches being filled or waiting, besides the caller's.
_AHEAD = 2
# More threads than these hold each other up by Python's lock; with more processors than these one
# of them is left to the process that trains.
_FEW = 4
# Per accelerator. 16 load 10,000 photographs per second and more.
_MOST_WORKERS = 16
_BLOCKS = 3  # of four random words per sample, enough for most pairs of crops
_STALLED_SECONDS = 60.0
_POLL_SECONDS = 5.0


class Order(Protocol):
    """[step] is int64 [batch_size, ...], what `Samples` wants for each place of a step."""

    def __getitem__(self, step: int, /) -> np.ndarray: ...


@dataclass(frozen=True)
class Steps:
    """The batches start .. total - 1 of a run.

    Attributes:
        batch_size: images per batch, over all processes.
        start: the first step to load, where a run resumes.
        total: the step to stop before; does not depend on `start`.
    """

    batch_size: int
    start: int
    total: int


@dataclass(frozen=True)
class Loaders:
    """The threads and processes that load a process's part of each batch.

    Attributes:
        threads: threads that decode and crop if there are no workers; -1 chooses the number of
            processors, but 4 at most.
        workers: worker processes that decode and crop in place of this process; 0 uses threads. -1
            chooses one per processor; with more than four one less, up to 16 per accelerator; none
            with a single processor.
        process_index: index of this process, which loads only this slice of each batch.
        process_count: number of processes.
    """

    threads: int = AUTOMATIC
    workers: int = 0
    process_index: int = 0
    process_count: int = 1

    def chosen(self, processors: int, accelerators: int | None = None) -> "Loaders":
        """Replaces -1 by the numbers for so many processors and accelerators; None: JAX's."""
        threads, workers = self.threads, self.workers
        if workers == AUTOMATIC and processors == 1:
            workers = 0
        elif workers == AUTOMATIC:
            most = _MOST_WORKERS * (accelerators or jax.local_device_count())
            workers = min(processors if processors <= _FEW else processors - 1, most)
        if threads == AUTOMATIC:
            threads = min(processors, _FEW)
        return Loaders(threads, workers, self.process_index, self.process_count)


def available_processors() -> int:
    """Returns how many processors this process may use: its affinity and the container's quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        limit = max(1, round(int(quota) / int(period)))
    except (OSError, ValueError):  # no control group, or "max"
        limit = sys.maxsize
    return min(allowed or 1, limit)


def report(found: Unreadable) -> None:
    """Prints an image that could not be read on standard error."""
    print(f"unreadable: {printable(found.path)}: {found.reason}", file=sys.stderr, flush=True)


def load_batches(
    order: Order,
    samples: Samples,
    steps: Steps,
    loaders: Loaders,
    on_unreadable: Callable[[Unreadable], None] = report,
) -> Generator[Batch, None, None]:
    """Loads this process's part of the batches of `steps`.

    Closing or exhausting the iterator stops its threads and workers.

    Args:
        order: what is wanted at each place of a step.
        samples: makes the samples.
        steps: batches to load.
        loaders: threads and processes to load them with.
        on_unreadable: called for each image that cannot be read, each time it is met.

    Yields:
        The entries of the samples, stacked. Their memory is used again once the caller holds none
        of a batch's arrays.

    Raises:
        UsageError: the sizes do not fit together. This is raised at once, not by the first step.
    """
    if loaders.process_count < 1 or steps.batch_size % loaders.process_count:
        raise UsageError(
            f"A batch of {steps.batch_size} images cannot be shared evenly by "
            f"{loaders.process_count} processes. Make batch_size a multiple of the number of "
            "processes."
        )
    for name, count, least in (("threads", loaders.threads, 1), ("workers", loaders.workers, 0)):
        if count < least and count != AUTOMATIC:
            raise UsageError(
                f"data.{name} is {count}, but must be {least} or more, or -1 to choose it by the "
                "number of processors. Correct it."
            )
    return _load(order, samples, steps, loaders, on_unreadable)


def _load(
    order: Order,
    samples: Samples,
    steps: Steps,
    loaders: Loaders,
    on_unreadable: Callable[[Unreadable], None],
) -> Generator[Batch, None, None]:
    processors = available_processors()
    loaders = loaders.chosen(processors)
    if loaders.workers:
        shared = Shared(samples, steps.batch_size // loaders.process_count, loaders.workers)
        crew = Crew(loaders.workers, lambda: Worker(shared), processors)
    else:
        crew = Crew(loaders.threads, lambda: Local(samples), processors)
    batches = _Batches(order, samples, steps, loaders, crew, on_unreadable)
    dataset = grain.MapDataset.source(batches)[steps.start :].to_iter_dataset(
        grain.ReadOptions(num_threads=_AHEAD, prefetch_buffer_size=_AHEAD)
    )
    iterator = iter(dataset)
    try:
        yield from iterator
    finally:
        crew.close()
        iterator.close()


def prefetch_to_devices(
    batches: Iterable[Batch],
    sharding: jax.sharding.Sharding,
    names: Sequence[str],
    depth: int = 2,
    give_up: Callable[[], bool] = lambda: False,
) -> Generator[dict[str, jax.Array], None, None]:
    """Puts some entries of each batch on the devices, some batches ahead, in a thread.

    Args:
        batches: this process's parts, see `load_batches`; closed at the end.
        sharding: sharding of the global batch, e.g. over the axis 'data'.
        names: entries to put on the devices.
        depth: number of batches on the devices, including the one that is yielded.
        give_up: asked while waiting; if it returns True the iteration ends early.

    Yields:
        The named entries, as global arrays [batch_size, ...].
    """
    return _Prefetched(batches, sharding, names, depth).batches(give_up)


class _Prefetched:
    """The thread of `prefetch_to_devices` and what it hands over."""

    def __init__(
        self,
        batches: Iterable[Batch],
        sharding: jax.sharding.Sharding,
        names: Sequence[str],
        depth: int,
    ) -> None:
        self._host = batches
        self._sharding = sharding
        self._names = names
        self._room = threading.Semaphore(depth)
        self._ready: list[dict[str, jax.Array]] = []
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._ended = self._closed = False

    def batches(self, give_up: Callable[[], bool]) -> Generator[dict[str, jax.Array], None, None]:
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            while (batch := self._next(give_up)) is not None:
                yield batch
                del batch
                self._room.release()
        finally:
            self._closed = True
            self._room.release()
            thread.join(10)

    def _next(self, give_up: Callable[[], bool]) -> dict[str, jax.Array] | None:
        with self._changed:
            while not self._ready and not self._ended:
                self._changed.wait(0.2)
                if not self._ready and give_up():
                    return None
            if self._ready:
                return self._ready.pop(0)
            if self._error is not None:
                raise self._error
            return None

    def _run(self) -> None:
        try:
            host = iter(self._host)
            while True:
                self._room.acquire()
                if self._closed or (batch := next(host, None)) is None:
                    break
                arrays = {
                    name: jax.make_array_from_process_local_data(self._sharding, batch[name])
                    for name in self._names
                }
                del batch
                jax.block_until_ready(arrays)
                with self._changed:
                    self._ready.append(arrays)
                    self._changed.notify()
                del arrays
        except BaseException as error:
            self._error = error
        finally:
            if hasattr(self._host, "close"):
                self._host.close()
            with self._changed:
                self._ended = True
                self._changed.notify()


class _Batches:
    """The batches that one process loads, as a random-access source for grain."""

    def __init__(
        self,
        order: Order,
        samples: Samples,
        steps: Steps,
        loaders: Loaders,
        crew: Crew,
        on_unreadable: Callable[[Unreadable], None],
    ) -> None:
        self._order = order
        self._samples = samples
        self._steps = steps
        self._share = steps.batch_size // loaders.process_count
        self._first = loaders.process_index * self._share
        self._crew = crew
        self._on_unreadable = on_unreadable
        self._warned: set[tuple[int, float]] = set()
        self._buffers = Buffers(samples.fields, self._share, shared=loaders.workers > 0)
        # The next batch keeps those threads busy that have no rows of this one left.
        self._rows = max(1, min(_MOST_ROWS, self._share // crew.at_work))

    def __len__(self) -> int:
        return self._steps.total

    def __getitem__(self, step: int) -> Batch:
        wanted = self._order[step][self._first : self._first + self._share]
        place = step * self._steps.batch_size + self._first
        words = np.empty((self._share, 0), np.uint64)
        if self._samples.seed is not None:
            places = np.arange(place, place + self._share)
            words = philox_words(self._samples.seed, places, _BLOCKS)
        memory, arrays = self._buffers.take()
        filling = [
            self._crew.submit(
                Rows(memory, arrays, rows.start, wanted[rows], place + rows.start, words[rows])
            )
            for rows in (
                slice(start, start + self._rows) for start in range(0, self._share, self._rows)
            )
        ]
        for future in filling:
            for found in self._result(future):
                self._on_unreadable(found)
        return arrays

    def _result(self, future: "Future[list[Unreadable]]") -> list[Unreadable]:
        while True:
            try:
                return future.result(timeout=_POLL_SECONDS)
            except TimeoutError:
                if future.done():
                    raise  # it came from reading
                self._warn_of_stalled()

    def _warn_of_stalled(self) -> None:
        now = time.monotonic()
        for index, since in self._crew.readings():
            if now - since > _STALLED_SECONDS and (index, since) not in self._warned:
                self._warned.add((index, since))
                print(
                    f"waiting for {now - since:.0f} s for {self._samples.path(index)}; is its "
                    "storage reachable?",
                    file=sys.stderr,
                    flush=True,
                )
