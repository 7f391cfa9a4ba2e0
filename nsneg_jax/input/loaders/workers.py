"""Worker processes that fill rows of batches in shared memory.

Only row numbers go through the pipes, so that handing over costs the parent next to nothing, and
Python's lock of one process does not hold up the others. Workers are started as plain commands, not
by multiprocessing: a script that uses them needs no `if __name__ == "__main__":`, and they do not
import JAX. They have a session of their own, so that Ctrl-C and a scheduler's signals reach the
parent only, which saves and then ends them; if it is killed they see the end of their pipe.
"""

import json
import os
import pickle
import socket
import subprocess
import sys
import threading
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle

import numpy as np

from nsneg_jax.errors import RunError, UsageError
from nsneg_jax.input.loaders.buffers import aligned, make_memory
from nsneg_jax.input.loaders.crew import Rows
from nsneg_jax.input.loaders.worker import STATUS
from nsneg_jax.input.samples import Samples, Unreadable

_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from nsneg_jax.input.loaders.worker import work; work(int(sys.argv[1]))"
)
_ENVIRONMENT = {
    # One thread per worker: NumPy's would only take up memory.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    # Keep the memory of images between them: a fifth faster than asking for it again (glibc).
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
}
# A worker that the system ends, for lack of memory for instance, is started again this often.
_RESTARTS = 3


class Shared:
    """What all workers of a run need: the samples, packed once, and the memory to report in.

    Args:
        samples: makes the samples.
        rows: samples per batch.
        count: number of workers.

    Raises:
        UsageError: the samples cannot be sent to another process.
    """

    def __init__(self, samples: Samples, rows: int, count: int) -> None:
        parts: list[pickle.PickleBuffer] = []
        try:
            packed = pickle.dumps((samples, rows), protocol=5, buffer_callback=parts.append)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UsageError(
                f"The data set cannot be sent to worker processes: {error}. Load it in threads "
                "with data.workers=0, or make its class importable and picklable."
            ) from error
        pieces = [memoryview(packed), *(part.raw() for part in parts)]
        # One copy of names and labels for all workers, which map it; start and end of each piece.
        self.places: list[tuple[int, int]] = []
        end = 0
        for piece in pieces:
            start = aligned(end)
            end = start + len(piece)
            self.places.append((start, end))
        self.packed = make_memory(-1, end, shared=True)
        for (start, end), piece in zip(self.places, pieces, strict=True):
            self.packed.pages[start:end] = bytes(piece)
        # int64 per worker: whether it reads, since when in nanoseconds, and which image
        self.status = make_memory(-1, 8 * STATUS * count, shared=True)
        self._next = iter(range(count))
        self._lock = threading.Lock()

    def next_number(self) -> int:
        """Returns the number of the next worker."""
        with self._lock:
            return next(self._next)


class Worker:
    """A worker process, as a `Hand` of the thread that talks to it."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._number = shared.next_number()
        self._status = np.frombuffer(shared.status.pages, np.int64).reshape(-1, STATUS)[
            self._number
        ]
        self._closed = False
        self._restarts = 0
        self._start()

    def fill(self, rows: Rows) -> list[Unreadable]:
        """See `Hand`.

        Raises:
            RunError: the process ended again and again.
            Exception: what the samples raised, unchanged.
        """
        while True:
            try:
                found, failure = self._fill(rows)
            except (EOFError, OSError) as error:
                ended = self._process.wait()
                if self._closed:
                    raise
                self._restarts += 1
                if self._restarts > _RESTARTS:
                    raise RunError(
                        f"Worker processes of the input ended {self._restarts} times, the last one "
                        f"with status {ended}{_meaning(ended)}. The run can be resumed with the "
                        "same command; lower --config.data.workers."
                    ) from error
                print(
                    f"an input worker ended with status {ended}{_meaning(ended)}; started again",
                    file=sys.stderr,
                    flush=True,
                )
                self._connection.close()
                self._start()
                continue
            if failure is not None:
                raise failure
            return found

    def reading(self) -> tuple[int, float] | None:
        """See `Hand`."""
        active, since, index = self._status.tolist()
        return (index, since / 1e9) if active else None

    def close(self) -> None:
        """See `Hand`."""
        self._closed = True
        if self._process.poll() is None:
            self._process.kill()  # it has nothing to lose
        self._process.wait()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        self._known: set[int] = set()
        self._status[0] = 0
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(theirs.fileno()), json.dumps(sys.path)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env=os.environ | _ENVIRONMENT,
            )
        self._connection = Connection(ours.detach())
        shared = self._shared
        self._connection.send((shared.places, self._number))
        for memory in (shared.packed, shared.status):
            send_handle(self._connection, memory.file, self._process.pid)

    def _fill(self, rows: Rows) -> tuple[list[Unreadable], Exception | None]:
        memory = rows.memory
        new = memory.number not in self._known
        self._connection.send((memory.number, new, rows.start, rows.wanted, rows.place, rows.words))
        if new:
            send_handle(self._connection, memory.file, self._process.pid)
            self._known.add(memory.number)
        return self._connection.recv()


def _meaning(status: int) -> str:
    return " (killed, often because memory ran out)" if status == -9 else ""
