"""Files and folders by path, local or in an object store.

Paths such as gs://bucket/folder go through etils.epath, which needs the store's client (gcsfs for
gs://). Local paths go straight to the operating system, because a layer in between would slow down
listing and reading a million small files.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from etils import epath

from nsneg_jax.errors import UsageError

# Stores by scheme, with the command that installs the client.
_CLIENTS = {
    "gs": 'pip install "nsneg_jax[gcs]"',
    "s3": "pip install s3fs",
    "az": "pip install adlfs",
    "hf": "pip install huggingface_hub",
}

# Folders of thumbnails, waste bins and snapshots, which file servers and archivers leave behind.
LEFTOVERS = (
    *("@eaDir", "@Recycle", "#recycle", "#snapshot", "__MACOSX"),
    *("$RECYCLE.BIN", "System Volume Information", "lost+found"),
)
_LEFTOVERS = frozenset(map(str.lower, LEFTOVERS))

# Opening a FIFO must not wait for its writer, and opening a terminal must not take it over.
_OPENING = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
_OTHER_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_LEAST_READ = 2**16


def is_remote(path: str) -> bool:
    """Returns whether a path is in an object store."""
    return "://" in path


def local_folder(path: str, option: str) -> str:
    """Returns `path` if it is local.

    Args:
        path: path of a folder, which need not exist.
        option: option that gave the path, for the message.

    Raises:
        UsageError: the path is in an object store.
    """
    if is_remote(path):
        raise UsageError(
            f"{option} is {path}, but must be a local folder. Give one with {option}, and copy it "
            "to the store afterwards."
        )
    return path


def join(folder: str, name: str) -> str:
    """Joins `folder` and `name`; '.' and '' mean the folder itself, in a store too."""
    if is_remote(folder):
        return folder.rstrip("/") if name in (".", "") else f"{folder.rstrip('/')}/{name}"
    return os.path.join(folder, name)


def read_bytes(path: str, most: int | None = None) -> bytes:
    """Reads a whole file, without waiting for anything but the file system.

    Args:
        path: path of a regular file, or of a link to one.
        most: largest size in bytes; None reads any.

    Raises:
        OSError: the file is missing, larger than `most`, cannot be read, or is no regular file (a
            folder, FIFO, socket or device).
    """
    if not is_remote(path):
        data = _read_regular(path, most)
    else:
        with remote(path) as found, found.open("rb") as file:
            data = file.read(-1 if most is None else most + 1)
    if most is not None and len(data) > most:
        raise _too_large(path, most)
    return data


def _read_regular(path: str, most: int | None) -> bytes:
    try:
        opened = os.open(path, _OPENING)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket cannot be opened
            _check_regular(path, os.stat(path))
        if error.errno != errno.EAGAIN or not stat.S_ISREG(os.stat(path).st_mode):
            raise
        opened = os.open(path, os.O_RDONLY)  # waits until a file server gives up its lease
    try:
        status = os.fstat(opened)
        _check_regular(path, status)
        if most is not None and status.st_size > most:
            raise _too_large(path, most)
        parts = [os.read(opened, status.st_size + 1 if status.st_size else _LEAST_READ)]
        held = len(parts[0])
        # One read gets the whole of an ordinary file, but not of one that grows, or of an odd
        # file system that knows no sizes.
        while held != status.st_size and parts[-1] and (most is None or held <= most):
            parts.append(os.read(opened, _LEAST_READ))
            held += len(parts[-1])
    finally:
        os.close(opened)
    return parts[0] if held == len(parts[0]) else b"".join(parts)


def _check_regular(path: str, status: os.stat_result) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if kind != stat.S_IFREG:
        what = f"it is {_OTHER_KINDS.get(kind, 'something else')}, not a regular file"
        raise OSError(errno.EINVAL, what, path)


def _too_large(path: str, most: int) -> OSError:
    return OSError(errno.EFBIG, f"it is larger than {most:,} bytes", path)


def exists(path: str) -> bool:
    """Returns whether there is a file or folder."""
    if not is_remote(path):
        return os.path.exists(path)
    with remote(path) as found:
        return found.exists()


def is_folder(path: str) -> bool:
    """Returns whether there is a folder; in a store, whether anything is below the path."""
    if not is_remote(path):
        return os.path.isdir(path)
    with remote(path) as found:
        return found.is_dir()


def size(path: str) -> int:
    """Returns the size of a file in bytes.

    Raises:
        OSError: the file is missing.
    """
    if not is_remote(path):
        return os.stat(path).st_size
    with remote(path) as found:
        return found.stat().length


def stamp(path: str) -> tuple[int, int]:
    """Returns the size in bytes and the time of change, in ns since 1970, of a local file.

    Raises:
        OSError: the file is missing.
    """
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns


def folders(folder: str) -> list[str]:
    """Returns the names of the folders in a folder, sorted, without hidden ones and leftovers."""
    if not is_remote(folder):
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if not _passed_over(e.name) and _is_folder(e))
    with remote(folder) as found:
        names = (entry.name for entry in found.iterdir() if entry.is_dir())
        return sorted(name for name in names if not _passed_over(name))


def files_below(
    folder: str, path: str, endings: tuple[str, ...], passed: list[str] | None = None
) -> Iterator[str]:
    """Yields the paths, relative to `folder`, of files below folder/path, in no order.

    Hidden files and folders and `LEFTOVERS` are skipped. Links to files are followed; links to
    folders too, but only out of `folder`, and each target counts once: links to a folder that is
    listed anyway, or that contains `folder` or folder/path, are passed over.

    Args:
        folder, path: where to look, at any depth.
        endings: endings to look for, in lower case; case does not matter in the files.
        passed: gets the paths, relative to `folder`, of links that are passed over.
    """
    if is_remote(folder):
        yield from _remote_files(folder, path, endings)
        return
    whole, top = (os.path.realpath(os.path.join(folder, each)) for each in ("", path))
    reached: set[str] = set()
    waiting = [(path, top, False)]
    passed = [] if passed is None else passed
    if path not in ("", ".") and _is_in(whole, top):
        passed.append(waiting.pop()[0])
    while waiting:
        below, real, is_link = waiting.pop()
        back = is_link and any(_is_in(each, real) or _shows(each, real) for each in (whole, top))
        if back or real in reached:
            passed.append(below)
            continue
        reached.add(real)
        inner = []
        with os.scandir(os.path.join(folder, below)) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if _is_folder(entry):
                    inner.append((entry.name, entry.is_symlink()))
                elif entry.name.lower().endswith(endings):
                    yield f"{below}/{entry.name}"
        # Sorted, so that the same one of several links to a folder counts on every file system.
        for name, is_link in sorted(inner, reverse=True):
            if _passed_over(name):
                continue
            place, there = f"{below}/{name}", os.path.join(real, name)
            waiting.append((place, os.path.realpath(there) if is_link else there, is_link))


def _is_in(inner: str, outer: str) -> bool:
    """Returns whether a real path is another, or below it."""
    return inner == outer or inner.startswith(outer.rstrip("/") + "/")


def _shows(outer: str, inner: str) -> bool:
    """Returns whether a listing of `outer` comes to the folder `inner` without any link."""
    if not _is_in(inner, outer):
        return False
    return not any(map(_passed_over, inner[len(outer) :].strip("/").split("/")))


def _passed_over(name: str) -> bool:
    return name.startswith(".") or name.lower() in _LEFTOVERS


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link to itself
            return False
        raise


def _remote_files(folder: str, path: str, endings: tuple[str, ...]) -> Iterator[str]:
    with remote(join(folder, path)) as found:
        entries = [entry for entry in found.iterdir() if not _passed_over(entry.name)]
        for entry in entries:
            # Check the ending first: asking whether it is a folder costs a request to the store.
            if entry.name.lower().endswith(endings):
                yield f"{path}/{entry.name}"
            elif entry.is_dir():
                yield from _remote_files(folder, f"{path}/{entry.name}", endings)


@contextmanager
def remote(path: str) -> Iterator[epath.Path]:
    """Gives a path in an object store, and raises the errors of its client like those of files.

    Raises:
        UsageError: the store is unknown, or its client is not installed.
        OSError: the client reports an error.
    """
    scheme = path.partition("://")[0]
    if scheme not in _CLIENTS:
        raise UsageError(
            f"The path {path} is in no store known here. Give a local path, or one that begins "
            f"with {', '.join(f'{name}://' for name in _CLIENTS)}."
        )
    try:
        yield epath.Path(path)
    except (OSError, UsageError):
        raise
    except ImportError as error:
        raise UsageError(
            f"{path} needs its store's client: {error}. Install it with `{_CLIENTS[scheme]}`."
        ) from error
    except Exception as error:  # every client has its own types of errors
        raise OSError(f"{type(error).__name__}: {error}") from error
