"""Files and folders by path, local or in an object store.

Paths such as gs://bucket/folder go through etils.epath, which needs the store's client installed
(gcsfs for gs://). Local ones go to the operating system directly: listing and reading a million
small files has no time for a layer between.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from etils import epath

from nsneg_jax.errors import UsageError

# the stores by scheme, and how to install the client of each
_CLIENTS = {
    "gs": 'pip install "nsneg_jax[gcs]"',
    "s3": "pip install s3fs",
    "az": "pip install adlfs",
    "hf": "pip install huggingface_hub",
}


def is_remote(path: str) -> bool:
    """Whether a path is one of an object store."""
    return "://" in path


def local_folder(path: str, option: str) -> str:
    """`path`, for what can only be made in a local folder.

    Args:
        path: of the folder, which need not be there.
        option: that it was given with, for the message.

    Raises:
        UsageError: it is one of an object store.
    """
    if is_remote(path):
        raise UsageError(
            f"{option} is {path}, but must be a local folder. Give one with {option}, and copy it "
            "to the store afterwards."
        )
    return path


def join(folder: str, name: str) -> str:
    """`name` in `folder`; '.' and '' are the folder itself, as on every file system but a store."""
    if is_remote(folder):
        return folder.rstrip("/") if name in (".", "") else f"{folder.rstrip('/')}/{name}"
    return os.path.join(folder, name)


def read_bytes(path: str) -> bytes:
    """All of a file.

    Raises:
        OSError: there is none, or it cannot be read.
    """
    if not is_remote(path):
        with open(path, "rb") as file:
            return file.read()
    with remote(path) as found:
        return found.read_bytes()


def exists(path: str) -> bool:
    """Whether there is a file or folder."""
    if not is_remote(path):
        return os.path.exists(path)
    with remote(path) as found:
        return found.exists()


def is_folder(path: str) -> bool:
    """Whether there is a folder; in a store, whether there is anything below the path."""
    if not is_remote(path):
        return os.path.isdir(path)
    with remote(path) as found:
        return found.is_dir()


def size(path: str) -> int:
    """Bytes of a file.

    Raises:
        OSError: there is none.
    """
    if not is_remote(path):
        return os.stat(path).st_size
    with remote(path) as found:
        return found.stat().length


def folders(folder: str) -> list[str]:
    """Names of the folders in a folder, sorted, without hidden ones."""
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
    """Paths relative to `folder` of files below folder/path, in no order.

    Args:
        folder, path: where to look, at any depth. Hidden files and folders are passed over; links
            are followed, except for those back to a folder above.
        endings: of the files wanted, in lower case; the files' own may be in any.
        above: device and number of the folders above; given by the function to itself.
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
            # what is a folder costs a question to the store, so the ending decides first
            if entry.name.lower().endswith(endings):
                yield f"{path}/{entry.name}"
            elif entry.is_dir():
                yield from _remote_files(folder, f"{path}/{entry.name}", endings)


@contextmanager
def remote(path: str) -> Iterator[epath.Path]:
    """A path of an object store, and what goes wrong with it as the errors of local files.

    Raises:
        UsageError: a store that is not known, or whose client is not installed.
        OSError: whatever the client says.
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
    except Exception as error:  # clients have types of errors of their own
        raise OSError(f"{type(error).__name__}: {error}") from error
