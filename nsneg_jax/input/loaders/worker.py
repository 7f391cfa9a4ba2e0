"""The program of a worker process, see workers.py."""

import contextlib
import mmap
import os
import pickle
import signal
import sys
import time
import traceback
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle

import numpy as np

from nsneg_jax.input.loaders.buffers import arrays_in
from nsneg_jax.input.samples import Samples, Unreadable

STATUS = 3  # numbers per worker: whether it reads, since when in nanoseconds, and which image


def work(descriptor: int) -> None:
    """Fills rows until the parent ends.

    Args:
        descriptor: of the socket to the parent.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    if hasattr(os, "SCHED_BATCH"):  # more workers than processors then wait for each other less
        with contextlib.suppress(OSError):  # some containers forbid it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    with contextlib.suppress(EOFError, ConnectionError):  # the parent has ended
        _serve(Connection(descriptor))
    sys.stderr.flush()
    os._exit(0)  # the parent's memory needs no tidying


def _serve(connection: Connection) -> None:
    places, number = connection.recv()
    packed, status = (_map(recv_handle(connection)) for _ in range(2))
    failure: Exception | None = None
    try:
        samples, rows = _unpack(packed, places)
    except Exception as error:  # reported when rows are asked for
        failure = RuntimeError(f"A worker process cannot load the data set: {error!r}")
    reading = np.frombuffer(status, np.int64).reshape(-1, STATUS)[number]
    batches: dict[int, dict[str, np.ndarray]] = {}
    while True:
        memory, new, start, wanted, place, words = connection.recv()
        if new:
            pages = _map(recv_handle(connection))
            if failure is None:
                batches[memory] = arrays_in(np.frombuffer(pages, np.uint8), samples.fields, rows)
        found: list[Unreadable] = []
        problem = failure
        if problem is None:
            try:
                _fill(samples, batches[memory], start, wanted, place, words, reading, found)
            except Exception as error:
                problem = _sendable(error)
        reading[0] = 0
        connection.send((found, problem))


def _fill(
    samples: Samples,
    arrays: dict[str, np.ndarray],
    start: int,
    all_wanted: np.ndarray,
    place: int,
    words: np.ndarray,
    reading: np.ndarray,
    found: list[Unreadable],
) -> None:
    words_of = words.tolist()
    for offset, wanted in enumerate(all_wanted):
        reading[1:] = time.monotonic_ns(), wanted.flat[0]
        reading[0] = 1
        out = {name: array[start + offset, ...] for name, array in arrays.items()}
        found += samples(wanted, place + offset, words_of[offset], out)


def _unpack(packed: mmap.mmap, places: list[tuple[int, int]]) -> tuple[Samples, int]:
    whole = memoryview(packed)
    pieces = [whole[start:end] for start, end in places]
    return pickle.loads(pieces[0], buffers=pieces[1:])


def _map(file: int) -> mmap.mmap:
    pages = mmap.mmap(file, os.fstat(file).st_size)
    os.close(file)
    return pages


def _sendable(error: Exception) -> Exception:
    """Returns the error, or its traceback if it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError("".join(traceback.format_exception(error)))
