"""From a `Source` to batches of two crops an image, in an order that needs no saved state.

The host decodes and crops; the rest of a view is made on the device (views.py). Which images are
in step `s`, and where they are cut, is a function of the seed and `s` alone: to resume, start at
that step, with as many threads, workers and processes as are at hand.
"""

import contextlib
import functools
import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import grain
import jax
import numpy as np
from absl import flags

from nsneg_jax.errors import UsageError
from nsneg_jax.input.crops import relative_crop, resized_crop, sample_crop
from nsneg_jax.input.shuffle import ShuffleOrders
from nsneg_jax.input.sources.source import Source

Sample = dict[str, np.ndarray]

# Samples that a thread loads in one go. Handing one over takes a third of a millisecond, as threads
# wait for one another; loading a photograph takes one.
_CHUNK = 8
# Chunks in work or waiting for their batch, in this process. Four batches come on top, from the one
# that is filling to the one the caller has: 0.8 GB in all for 512 images of 224 px.
_BUFFER_BYTES = 256 * 2**20
# Workers hand over chunks in shared memory, of which containers often have only 64 MiB.
_SHARED_BYTES = 32 * 2**20


def sample_order(num_images: int, batch_size: int, seed: int) -> grain.MapDataset:
    """The global order of the data, without end and with random access.

    Each epoch is a fresh permutation cut into num_images // batch_size steps, as in the original
    (`drop_last=True`); the remainder is left out, another one each epoch.

    Returns:
        Element [step] is int64 [batch_size], indices of images. Epoch e begins at step
        e * (num_images // batch_size).

    Raises:
        UsageError: the data set does not fill one batch, or the seed is negative.
    """
    if batch_size < 1:
        raise UsageError(f"The batch size is {batch_size}, but must be at least 1. Correct it.")
    if num_images < batch_size:
        raise UsageError(
            f"The data set has {num_images} images, which is less than one batch of {batch_size}. "
            "Lower batch_size, or use more images."
        )
    if seed < 0:
        raise UsageError(f"The seed is {seed}, but must not be negative. Choose 0 or more.")
    order = grain.MapDataset.range(num_images).shuffle(seed=mixed_seed(seed))
    return order.batch(batch_size, drop_remainder=True).repeat()


def pretrain_batches(
    source: Source,
    *,
    batch_size: int,
    image_size: int,
    crop_scale: tuple[float, float],
    seed: int,
    start_step: int,
    total_steps: int,
    threads: int,
    workers: int,
    process_index: int = 0,
    process_count: int = 1,
    textures: Source | None = None,
    shuffle: ShuffleOrders | None = None,
) -> Iterator[Sample]:
    """This process's part of the batches start_step .. total_steps - 1, two crops an image.

    An image is decoded once and cut twice. Its two crops depend on the seed and its place in the
    run (step * batch_size + place in the global batch) alone. Closing the iterator, or exhausting
    it, stops its threads and workers.

    Args:
        source: the images.
        batch_size: of all processes together; process p takes the p-th slice of each batch's
            indices and loads only those.
        image_size: side of the crops in pixels.
        crop_scale: smallest and largest area of both crops, see `sample_crop`.
        seed: of order and crops.
        start_step: the first step wanted, where a run resumes.
        total_steps: the step to end before, whatever `start_step` is.
        threads: that decode and crop in this process, or in each worker; 0 does it in the one
            background thread that makes batches.
        workers: processes that do it in place of this one. They are started afresh, so a script
            that uses them needs `if __name__ == "__main__":`.
        process_index: of this process.
        process_count: number of processes.
        textures: of the images, in their order; cut as the queries are.
        shuffle: gives the orders of shuffling BN, for crops that come in them.

    Yields:
        {'query', 'key': uint8 [n, image_size, image_size, 3], 'index': int64 [n]} and, with
        textures, 'texture' like 'query', n = batch_size / process_count, the caller's to keep.
        With `shuffle`, place i of the global batch holds sample i's query, the key crop of the
        sample that the key pass has there and, in place of 'texture', 'negatives' [n, M, ...]:
        the crops that the negatives there are made from, queries and last the texture. An image
        is then decoded for each of its 2 + M places.
        What `source.image` raises, such as UnreadableImage, comes from here with its own type and
        message.

    Raises:
        UsageError: sizes that do not fit together; raised at once, not by the first step.
    """
    order = sample_order(len(source), batch_size, seed)
    load = _TwoCrops(source, textures, image_size, crop_scale, seed)
    crops = 2 if textures is None else 3
    if shuffle is not None:
        load, crops = _ShuffledCrops(load, order, shuffle), 1 + shuffle.passes
    return load_batches(
        order,
        load,
        batch_size=batch_size,
        sample_bytes=crops * image_size * image_size * 3,
        start_step=start_step,
        total_steps=total_steps,
        threads=threads,
        workers=workers,
        process_index=process_index,
        process_count=process_count,
    )


def load_batches(
    order: Sequence[np.ndarray],
    load: Callable[[int, int], Sample],
    *,
    batch_size: int,
    sample_bytes: int,
    start_step: int,
    total_steps: int,
    threads: int,
    workers: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Sample]:
    """This process's part of the batches start_step .. total_steps - 1.

    Args:
        order: [step] is int64 [batch_size], the images of a step.
        load: makes a sample, a dict of arrays, of (image's index, place in the run); the place is
            step * batch_size + place in the global batch.
        sample_bytes: size of a sample.
        batch_size, start_step, total_steps, threads, workers, process_index, process_count: as of
            `pretrain_batches`.

    Yields:
        The samples' dicts with their arrays stacked.

    Raises:
        UsageError: sizes that do not fit together; raised at once, not by the first step.
    """
    if process_count < 1 or batch_size % process_count:
        raise UsageError(
            f"A batch of {batch_size} images cannot be shared evenly by {process_count} processes. "
            "Make batch_size a multiple of the number of processes."
        )
    if threads < 0 or workers < 0:
        raise UsageError(
            f"There are {threads} input threads and {workers} input workers, but neither may be "
            "negative. Set data.threads to the number of CPUs and data.workers to 0."
        )
    share = batch_size // process_count
    buffer = max(2 * threads, 1)
    limit = _SHARED_BYTES // workers if workers else _BUFFER_BYTES // buffer
    size = max(1, min(_CHUNK, share // buffer, limit // sample_bytes))
    chunks = _Chunks(order, load, batch_size, process_index * share, share, total_steps, size)
    if not workers:
        buffer = max(buffer, min(share, _BUFFER_BYTES // sample_bytes) // size)
    dataset = grain.MapDataset.source(chunks)[start_step * chunks.of_batch :].to_iter_dataset(
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
    batches: Iterable[Sample],
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


def mixed_seed(seed: int) -> int:
    """A seed for grain's shuffle.

    grain adds the epoch to the seed: unmixed, seed 1 would repeat seed 0 one epoch later.
    """
    return int(np.random.SeedSequence(seed).generate_state(1)[0])


def place_generator(seed: int, place: int) -> np.random.Generator:
    """The generator of a sample's draws on the host, by its place in the run."""
    # Philox: a generator per key, cheap to make, with streams independent of one another.
    return np.random.Generator(np.random.Philox(key=np.array([seed, place], np.uint64)))


@dataclass(frozen=True)
class _TwoCrops:
    """Loads a sample of pre-training."""

    source: Source
    textures: Source | None
    image_size: int
    crop_scale: tuple[float, float]
    seed: int

    def __call__(self, index: int, place: int) -> Sample:
        names = ("query", "key") if self.textures is None else ("query", "key", "texture")
        return self.crops(index, place, names) | {"index": np.int64(index)}

    def crops(self, index: int, place: int, names: Sequence[str]) -> Sample:
        """Those of the crops 'query', 'key' and 'texture' that are wanted."""
        image = self.source.image(index)
        rng = place_generator(self.seed, place)
        boxes = [sample_crop(rng, *image.shape[:2], self.crop_scale) for _ in range(2)]
        sample = {
            name: resized_crop(image, box, self.image_size)
            for name, box in zip(("query", "key"), boxes, strict=True)
            if name in names
        }
        if "texture" in names:
            texture = self.textures.image(index)
            box = relative_crop(boxes[0], image.shape[:2], texture.shape[:2])
            sample["texture"] = resized_crop(texture, box, self.image_size)
        return sample


@dataclass(frozen=True)
class _ShuffledCrops:
    """Loads what the passes of shuffling BN have at one place of the global batch."""

    load: _TwoCrops
    order: Sequence[np.ndarray]
    shuffle: ShuffleOrders

    def __call__(self, index: int, place: int) -> Sample:
        step, at = divmod(place, self.shuffle.batch_size)
        indices, passes = _images_of(self.order, step), _passes_of(self.shuffle, step)

        def crop(sample: int, name: str) -> np.ndarray:
            first = step * self.shuffle.batch_size
            return self.load.crops(int(indices[sample]), first + int(sample), (name,))[name]

        key, *negatives = passes[:, at]
        kinds = ["query"] * len(negatives)
        if self.load.textures is not None:
            kinds[-1] = "texture"
        loaded = {
            "query": crop(at, "query"),
            "key": crop(key, "key"),
            "index": np.int64(index),
        }
        if negatives:
            crops = [crop(sample, kind) for sample, kind in zip(negatives, kinds, strict=True)]
            loaded["negatives"] = np.stack(crops)
        return loaded


def _once(function):
    """Keeps a function's last results; of threads that want one, the first makes it."""
    lock, kept = threading.Lock(), functools.lru_cache(maxsize=8)(function)

    @functools.wraps(function)
    def once(*arguments):
        with lock:
            return kept(*arguments)

    return once


@_once
def _images_of(order: Sequence[np.ndarray], step: int) -> np.ndarray:
    # Shuffling takes ten microseconds an index, and all threads want the same step's.
    return order[step]


@_once
def _passes_of(shuffle: ShuffleOrders, step: int) -> np.ndarray:
    return shuffle(step)


class _Chunks:
    """What one process loads, as a random-access source of grain's; workers get a copy.

    Chunk i is part i % of_batch of this process's part of step i // of_batch: `size` samples,
    stacked, the last part of a step what is left.

    Attributes:
        of_batch: chunks in a batch.
    """

    def __init__(
        self,
        order: Sequence[np.ndarray],
        load: Callable[[int, int], Sample],
        batch_size: int,
        first: int,
        share: int,
        total_steps: int,
        size: int,
    ) -> None:
        self._order = order
        self._load = load
        self._batch_size = batch_size
        self._places = range(first, first + share)
        self._size = size
        self.of_batch = math.ceil(share / size)
        self._length = total_steps * self.of_batch

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, position: int) -> Sample:
        step, part = divmod(position, self.of_batch)
        indices = _images_of(self._order, step)
        samples = [
            self._load(int(indices[place]), step * self._batch_size + place)
            for place in self._places[part * self._size : (part + 1) * self._size]
        ]
        return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}


def _joined(chunks: Sequence[Sample]) -> Sample:
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _closing(dataset: grain.IterDataset) -> Iterator[Sample]:
    with contextlib.closing(iter(dataset)) as iterator:
        yield from iterator
