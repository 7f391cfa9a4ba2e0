"""Files and folders by path, local or in an object store.

Paths such as gs://bucket/folder go through etils.epath, which needs the store's client (gcsfs for
gs://). Local paths go straight to the operating system, because a layer in between would slow down
listing and reading a million small files.
"""

import os
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


def read_bytes(path: str) -> bytes:
    """Reads a whole file.

    Raises:
        OSError: the file is missing, or cannot be read.
    """
    if not is_remote(path):
        with open(path, "rb") as file:
            return file.read()
    with remote(path) as found:
        return found.read_bytes()


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


def folders(folder: str) -> list[str]:
    """Returns the names of the folders in a folder, sorted, without hidden ones."""
    if not is_remote(folder):
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if not e.name.startswith(".") and e.is_dir())
    with remote(folder) as found:
        names = (entry.name for entry in found.iterdir() if entry.is_dir())
        return sorted(name for name in names if not name.startswith("."))


def files_below(
    folder: str,
    path: str,
    endings: tuple[str, ...],
    above: frozenset[tuple[int, int]] = frozenset(),
) -> Iterator[str]:
    """Yields the paths, relative to `folder`, of files below folder/path, in no order.

    Args:
        folder, path: where to look, at any depth. Hidden files and folders are skipped; links are
            followed, except back to a folder above.
        endings: endings to look for, in lower case; case does not matter in the files.
        above: device and inode of the folders above, for the recursion.
    """
    if is_remote(folder):
        yield from _remote_files(folder, path, endings)
        return
    status = os.stat(os.path.join(folder, path))
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    with os.scandir(os.path.join(folder, path)) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from files_below(folder, f"{path}/{entry.name}", endings, above | {here})
            elif entry.name.lower().endswith(endings):
                yield f"{path}/{entry.name}"


def _remote_files(folder: str, path: str, endings: tuple[str, ...]) -> Iterator[str]:
    with remote(join(folder, path)) as found:
        entries = [entry for entry in found.iterdir() if not entry.name.startswith(".")]
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
