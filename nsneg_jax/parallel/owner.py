"""One owner per workdir: a lock file refuses the second start of the same command.

WORKDIR/run.lock names host, process and time, and has a counter that the owner raises every few
seconds. The system's own lock on the file (flock) tells on one host whether the owner lives; on
another host, where a network file system may not pass that on, the counter does.
"""

import fcntl
import itertools
import json
import os
import platform
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import jax

from nsneg_jax.errors import UsageError
from nsneg_jax.files import json_object

LOCK = "run.lock"
_BEAT = 10.0  # seconds between changes of the counter
_PATIENCE = 3 * _BEAT  # seconds without one, after which an owner on another host is gone
_LOOK_EVERY = 0.5


def owned_by_first(workdir: Path) -> AbstractContextManager[None]:
    """Does `owned` in process 0 of a run, and nothing in others."""
    return owned(workdir) if jax.process_index() == 0 else nullcontext()


@contextmanager
def owned(workdir: Path) -> Iterator[None]:
    """Makes this process the owner of a workdir while it works there.

    A workdir that this made and where nothing was written is removed again.

    Args:
        workdir: folder, made if missing.

    Raises:
        UsageError: a process that is alive owns it.
        OSError: it cannot be made or written.
    """
    made = [folder for folder in (workdir, *workdir.parents) if not folder.exists()]
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / LOCK
    try:
        lock = _taken(path, workdir)
        over = threading.Event()
        beating = threading.Thread(target=_beat, args=(lock, over), name="owner", daemon=True)
        beating.start()
        try:
            yield
        finally:
            over.set()
            beating.join()
            with suppress(OSError):
                path.unlink()
            os.close(lock)
    finally:
        for folder in made:
            with suppress(OSError):  # not empty
                folder.rmdir()


def _taken(path: Path, workdir: Path) -> int:
    """Returns the descriptor of the lock file, which now names this process."""
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            can_lock = _locked(lock)
            before = json_object(path)  # {} if it is new, or an owner died while it wrote
            if can_lock is False or _is_alive(path, before, can_lock):
                raise UsageError(_in_use(workdir, before))
            if _is_there(lock, path):  # its owner may have removed it just now
                _claim(lock, path)
                return lock
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)


def _locked(lock: int) -> bool | None:
    """Returns whether this process now holds the lock; None if the file system has no locks."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_alive(path: Path, owner: dict[str, Any], can_lock: bool | None) -> bool:
    """Returns whether an owner lives that the file's lock does not show."""
    if not owner:
        return False
    if owner.get("host") == platform.node():
        return can_lock is None and _is_running(owner.get("pid"))
    print(
        f"{path.parent} was in use on {owner.get('host')}, since {owner.get('since')}; looking for "
        f"{_PATIENCE:.0f} s whether it still is ...",
        file=sys.stderr,
        flush=True,
    )
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        time.sleep(_LOOK_EVERY)
        if not path.exists():
            return False
        if json_object(path) != owner:
            return True
    return False


def _is_running(pid: Any) -> bool:
    if not isinstance(pid, int) or pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _claim(lock: int, path: Path) -> None:
    try:
        _write(lock, 0)
    except OSError:
        path.unlink()
        raise


def _is_there(lock: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock), path.stat())
    except FileNotFoundError:
        return False


def _write(lock: int, beat: int) -> None:
    content = {"host": platform.node(), "pid": os.getpid(), "since": _SINCE, "beat": beat}
    data = json.dumps(content).encode()
    os.ftruncate(lock, len(data))
    os.pwrite(lock, data, 0)
    os.fsync(lock)  # so that other hosts see it


def _beat(lock: int, over: threading.Event) -> None:
    for beat in itertools.count(1):
        if over.wait(_BEAT):
            return
        with suppress(OSError):  # a full disk; the next one may do
            _write(lock, beat)


def _in_use(workdir: Path, owner: dict[str, Any]) -> str:
    who = f"process {owner.get('pid', '?')} on {owner.get('host', '?')}"
    return (
        f"{workdir} is in use by {who}, since {owner.get('since', '?')}. Wait for its end, or give "
        "another --workdir."
    )


_SINCE = time.strftime("%Y-%m-%d %H:%M:%S %Z")
