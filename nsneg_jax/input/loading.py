"""Loads batches of samples in threads or processes; the caller says which samples.

The images of step `s` and their crops depend only on the seed and `s`. To resume, start at that
step, with any number of threads, workers and processes.
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

# Samples that a thread loads at once. Handing over takes a third of a millisecond, because threads
# wait for one another; loading a photograph takes one millisecond.
_CHUNK = 8
# Chunks being loaded or waiting for their batch, in this process. Up to four batches add to them,
# from the one being filled to the caller's: 0.8 GB in all for 512 images of 224 px.
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
        threads: threads that decode and crop in this process, or in each worker; 0 uses the one
            background thread that makes batches.
        workers: processes that load in place of this one. They are spawned, so a script that uses
            them needs `if __name__ == "__main__":`.
        process_index: index of this process, which loads only this slice of each batch.
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
    """Loads this process's part of the batches of `steps`.

    Closing or exhausting the iterator stops its threads and workers.

    Args:
        order: the images of each step.
        load: makes a sample, a dict of arrays, of (image's index, place in the run); the place is
            step * batch_size + place in the global batch.
        sample_bytes: size of a sample.
        steps: batches to load.
        loaders: threads and processes to load them with.

    Yields:
        The dicts of the samples, with stacked arrays.

    Raises:
        UsageError: the sizes do not fit together. This is raised at once, not by the first step.
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
        # Before batching, because each worker takes every workers-th element: a chunk, not a batch.
        shared = max(1, min(16 // size, limit // (size * sample_bytes)))
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=shared)
        if not flags.FLAGS.is_parsed():  # grain reads an absl flag, even without app.run
            flags.FLAGS.mark_as_parsed()
        dataset = dataset.mp_prefetch(options)
    dataset = dataset.batch(chunks.of_batch, drop_remainder=True, batch_fn=_joined)
    # Joining 512 pairs takes tens of milliseconds; the training loop should not wait for it.
    dataset = grain.experimental.ThreadPrefetchIterDataset(dataset, prefetch_buffer_size=1)
    return _closing(dataset)


def prefetch_to_devices(
    batches: Iterable[Batch],
    sharding: jax.sharding.Sharding,
    names: Sequence[str],
    depth: int = 2,
) -> Iterator[dict[str, jax.Array]]:
    """Puts some entries of each batch on the devices, some batches ahead.

    Args:
        batches: this process's parts, see `load_batches`; closed at the end.
        sharding: sharding of the global batch, e.g. over the axis 'data'.
        names: entries to put on the devices.
        depth: number of batches on the devices, including the one that is yielded.

    Yields:
        The named entries, as global arrays [batch_size, ...].
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
    """Caches a function's last results; if several threads ask for one, only the first makes it."""
    lock, kept = threading.Lock(), functools.lru_cache(maxsize=8)(function)

    @functools.wraps(function)
    def one_at_a_time(of: _Of, step: int) -> np.ndarray:
        with lock:
            return kept(of, step)

    return one_at_a_time


@once
def images_of(order: Order, step: int) -> np.ndarray:
    # Shuffling takes ten microseconds per index, and all threads need the same step.
    return order[step]


class _Chunks:
    """The chunks that one process loads, as a random-access source for grain; workers get copies.

    Chunk i is part i % of_batch of this process's share of step i // of_batch. It stacks `size`
    samples, or fewer if it is the last of its step.

    Attributes:
        of_batch: chunks per batch.
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
