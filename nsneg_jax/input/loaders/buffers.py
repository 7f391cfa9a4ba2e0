"""Memory for batches, used again once nobody holds a batch's arrays any longer.

A batch of 512 pairs of crops has 154 MB, and fresh memory costs a page fault per 4 KiB.
"""

import itertools
import mmap
import os
import tempfile
import weakref
from dataclasses import dataclass

import numpy as np

from nsneg_jax.input.samples import Fields

# The CPU's device takes arrays without a copy from addresses that are multiples of it.
_ALIGNMENT = 64


@dataclass(frozen=True)
class Memory:
    """Memory of one batch.

    Attributes:
        number: its number, from 0.
        pages: the memory.
        file: descriptor of the file that worker processes map; -1 if there is none.
    """

    number: int
    pages: mmap.mmap
    file: int


class Buffers:
    """Hands out arrays for batches. Thread-safe.

    Args:
        fields: entries of a sample.
        samples: samples per batch.
        shared: whether worker processes are to write into the memory.
    """

    def __init__(self, fields: Fields, samples: int, shared: bool) -> None:
        self._fields = fields
        self._samples = samples
        self._shared = shared
        self._free: list[Memory] = []
        self._numbers = itertools.count()

    def take(self) -> tuple[Memory, dict[str, np.ndarray]]:
        """Returns memory and the batch's arrays in it; it is free once they are all gone."""
        try:
            memory = self._free.pop()
        except IndexError:
            size = sum(size for _, size in _places(self._fields, self._samples).values())
            memory = make_memory(next(self._numbers), size, self._shared)
        whole = np.frombuffer(memory.pages, np.uint8)
        # All views have `whole` as their base, NumPy's views of views too.
        weakref.finalize(whole, self._free.append, memory).atexit = False
        return memory, arrays_in(whole, self._fields, self._samples)


def make_memory(number: int, size: int, shared: bool) -> Memory:
    """Allocates memory of `size` bytes; if `shared`, it has a file that can be mapped."""
    if not shared:
        return Memory(number, mmap.mmap(-1, size), -1)
    # Not in /dev/shm, of which containers often have only 64 MiB.
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("batch")
    else:
        with tempfile.TemporaryFile() as made:
            file = os.dup(made.fileno())
    os.ftruncate(file, size)
    memory = Memory(number, mmap.mmap(file, size), file)
    weakref.finalize(memory.pages, os.close, file).atexit = False
    return memory


def arrays_in(whole: np.ndarray, fields: Fields, samples: int) -> dict[str, np.ndarray]:
    """Returns the arrays [samples, ...] of a batch in uint8 memory."""
    arrays = {}
    for name, (start, size) in _places(fields, samples).items():
        shape, dtype = fields[name]
        count = samples * int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        assert count <= size
        arrays[name] = whole[start : start + count].view(dtype).reshape(samples, *shape)
    return arrays


def _places(fields: Fields, samples: int) -> dict[str, tuple[int, int]]:
    """Returns the start and the size of each entry in bytes; sizes are rounded up."""
    places, start = {}, 0
    for name, (shape, dtype) in fields.items():
        size = samples * int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        places[name] = (start, aligned(size))
        start += aligned(size)
    return places


def aligned(size: int) -> int:
    """Rounds a number of bytes up, so that what follows it is aligned."""
    return -(-size // _ALIGNMENT) * _ALIGNMENT
