"""Batches of samples, loaded by threads or processes; which samples is the caller's to say.

Which images are in step `s`, and where they are cut, is a function of the seed and `s` alone: to
resume, start at that step, with as many threads, workers and processes as are at hand.
"""

import contextlib
import functools
import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import grain
import jax
import numpy as np
from absl import flags

from nsneg_jax.errors import UsageError

Sample = Mapping[str, np.ndarray | np.generic]
Batch = dict[str, np.ndarray]  # of samples, stacked

_Of = TypeVar("_Of")

# Samples that a thread loads in one go. Handing one over takes a third of a millisecond, as threads
# wait for one another; loading a photograph takes one.
_CHUNK = 8
# Chunks in work or waiting for their batch, in this process. Four batches come on top, from the one
# that is filling to the one the caller has: 0.8 GB in all for 512 images of 224 px.
_BUFFER_BYTES = 256 * 2**20
# Workers hand over chunks in shared memory, of which containers often have only 64 MiB.
_SHARED_BYTES = 32 * 2**20


class Order(Protocol):
    """[step] is int64 [batch_size], the images of a step."""

    def __getitem__(self, step: int, /) -> np.ndarray: ...


@dataclass(frozen=True)
class Steps:
    """The batches start .. total - 1 of a run.

    Attributes:
        batch_size: of all processes together.
        start: the first step wanted, where a run resumes.
        total: the step to end before, whatever `start` is.
    """

    batch_size: int
    start: int
    total: int


@dataclass(frozen=True)
class Loaders:
    """Who loads a process's part of each batch.

    Attributes:
        threads: that decode and crop in this process, or in each worker; 0 does it in the one
            background thread that makes batches.
        workers: processes that do it in place of this one. They are started afresh, so a script
            that uses them needs `if __name__ == "__main__":`.
        process_index: of this process, which takes that slice of each batch's indices and loads
            only those.
        process_count: number of processes.
    """

    threads: int
    workers: int = 0
    process_index: int = 0
    process_count: int = 1


def load_batches(
    order: Order,
    load: Callable[[int, int], Sample],
    sample_bytes: int,
    steps: Steps,
    loaders: Loaders,
) -> Iterator[Batch]:
    """This process's part of the batches of `steps`.

    Closing the iterator, or exhausting it, stops its threads and workers.

    Args:
        order: the images of each step.
        load: makes a sample, a dict of arrays, of (image's index, place in the run); the place is
            step * batch_size + place in the global batch.
        sample_bytes: size of a sample.
        steps: which batches.
        loaders: who makes them.

    Yields:
        The samples' dicts with their arrays stacked.

    Raises:
        UsageError: sizes that do not fit together; raised at once, not by the first step.
    """
    if loaders.process_count < 1 or steps.batch_size % loaders.process_count:
        raise UsageError(
            f"A batch of {steps.batch_size} images cannot be shared evenly by "
            f"{loaders.process_count} processes. Make batch_size a multiple of the number of "
            "processes."
        )
    if loaders.threads < 0 or loaders.workers < 0:
        raise UsageError(
            f"There are {loaders.threads} input threads and {loaders.workers} input workers, but "
            "neither may be negative. Set data.threads to the number of CPUs and data.workers to 0."
        )
    threads, workers = loaders.threads, loaders.workers
    share = steps.batch_size // loaders.process_count
    first = loaders.process_index * share
    buffer = max(2 * threads, 1)
    limit = _SHARED_BYTES // workers if workers else _BUFFER_BYTES // buffer
    size = max(1, min(_CHUNK, share // buffer, limit // sample_bytes))
    chunks = _Chunks(order, load, steps, range(first, first + share), size)
    if not workers:
        buffer = max(buffer, min(share, _BUFFER_BYTES // sample_bytes) // size)
    dataset = grain.MapDataset.source(chunks)[steps.start * chunks.of_batch :].to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=buffer)
    )
    if workers:
        # Before batching: a worker takes every workers-th element, which must not be a batch's.
        shared = max(1, min(16 // size, limit // (size * sample_bytes)))
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=shared)
        if not flags.FLAGS.is_parsed():  # grain reads a flag of its own; app.run may not be used
            flags.FLAGS.mark_as_parsed()
        dataset = dataset.mp_prefetch(options)
    dataset = dataset.batch(chunks.of_batch, drop_remainder=True, batch_fn=_joined)
    # Joining 512 pairs takes tens of milliseconds that the training loop should not wait for.
    dataset = grain.experimental.ThreadPrefetchIterDataset(dataset, prefetch_buffer_size=1)
    return _closing(dataset)


def prefetch_to_devices(
    batches: Iterable[Batch],
    sharding: jax.sharding.Sharding,
    names: Sequence[str],
    depth: int = 2,
) -> Iterator[dict[str, jax.Array]]:
    """Puts a part of each batch on the devices, some batches ahead.

    Args:
        batches: this process's parts, see `load_batches`; closed at the end.
        sharding: of the global batch, e.g. over the axis 'data'.
        names: the entries wanted.
        depth: how many batches are on the devices when one is handed out, itself included.

    Yields:
        The entries named, as global arrays [batch_size, ...].
    """
    ready: deque[dict[str, jax.Array]] = deque()
    try:
        for batch in batches:
            ready.append(
                {
                    name: jax.make_array_from_process_local_data(sharding, batch[name])
                    for name in names
                }
            )
            if len(ready) >= depth:
                yield ready.popleft()
        while ready:
            yield ready.popleft()
    finally:
        if hasattr(batches, "close"):
            batches.close()


def once(function: Callable[[_Of, int], np.ndarray]) -> Callable[[_Of, int], np.ndarray]:
    """Keeps a function's last results; of threads that want one, the first makes it."""
    lock, kept = threading.Lock(), functools.lru_cache(maxsize=8)(function)

    @functools.wraps(function)
    def one_at_a_time(of: _Of, step: int) -> np.ndarray:
        with lock:
            return kept(of, step)

    return one_at_a_time


@once
def images_of(order: Order, step: int) -> np.ndarray:
    # Shuffling takes ten microseconds an index, and all threads want the same step's.
    return order[step]


class _Chunks:
    """What one process loads, as a random-access source of grain's; workers get a copy.

    Chunk i is part i % of_batch of this process's part of step i // of_batch: `size` samples,
    stacked, the last part of a step what is left.

    Attributes:
        of_batch: chunks in a batch.
    """

    def __init__(
        self,
        order: Order,
        load: Callable[[int, int], Sample],
        steps: Steps,
        places: range,
        size: int,
    ) -> None:
        self._order = order
        self._load = load
        self._batch_size = steps.batch_size
        self._places = places
        self._size = size
        self.of_batch = math.ceil(len(places) / size)
        self._length = steps.total * self.of_batch

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, position: int) -> Batch:
        step, part = divmod(position, self.of_batch)
        indices = images_of(self._order, step)
        samples = [
            self._load(int(indices[place]), step * self._batch_size + place)
            for place in self._places[part * self._size : (part + 1) * self._size]
        ]
        return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}


def _joined(chunks: Sequence[Batch]) -> Batch:
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _closing(dataset: grain.IterDataset) -> Iterator[Batch]:
    with contextlib.closing(iter(dataset)) as iterator:
        yield from iterator
