"""Writes files completely or not at all, and resolves users' paths."""

import errno
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nsneg_jax.errors import UsageError, printable

_LONGEST_NAME = 255  # bytes of a file name


def expand(given: str) -> str:
    """Replaces '~' by the home folder in a path or data set from the user.

    Args:
        given: such as '~/runs', '~ann/runs', 'folder:~/data' or 'untrained:~/runs/patch'; anything
            else is returned unchanged.
    """
    path = re.sub(r"\A(?:\w+:)*", "", given)
    return given.removesuffix(path) + os.path.expanduser(path)


def user_path(given: str) -> Path:
    """Does `expand` for a local path, such as an argument of a command."""
    return Path(expand(given))


def user_cache() -> Path:
    """Returns the folder for caches: $XDG_CACHE_HOME/nsneg_jax or ~/.cache/nsneg_jax."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # Without a home, "~" stays, and must not become a folder in the working folder.
    root = given if given.is_absolute() else Path("/", os.path.expanduser("~"), ".cache")
    return root / "nsneg_jax"


def data_root() -> str:
    """Returns the default folder for reading and preparing data sets.

    This is $NSNEG_DATA, local or as 'gs://BUCKET/FOLDER', without a trailing '/'. If that is unset
    or empty, it is 'datasets' in the working folder.

    Raises:
        UsageError: $NSNEG_DATA begins with the '~' of a user without a home.
    """
    given = os.environ.get("NSNEG_DATA", "")
    root = os.path.expanduser(given or "datasets")
    if root.startswith("~"):
        raise UsageError(
            f"NSNEG_DATA is {given!r}, but that user has no home folder. Give the path in full."
        )
    return root.rstrip("/") or "/"


def earlier_data(path: str) -> str:
    """Returns an addition to the message that `path` is missing, if data/ has it.

    Earlier versions prepared data sets in data/NAME and read them from there.

    Args:
        path: path of a missing folder.

    Returns:
        A sentence with a leading space; '' if data/ has nothing of that name.
    """
    root = data_root()
    name = os.path.relpath(path, root)
    earlier = os.path.join("data", name)
    elsewhere = "://" in path or name == "." or name.startswith("..")
    if elsewhere or os.path.isdir(path) or not os.path.isdir(earlier):
        return ""
    return f" Found {earlier} from an earlier version: move it to {path}, or set NSNEG_DATA=data."


def check_writable(path: Path, flag: str, is_folder: bool = False) -> None:
    """Checks that a file, or a folder, can be written; leaves nothing behind.

    Args:
        path: path that may not exist yet, nor folders above it.
        flag: flag or field that gave it, for the message.
        is_folder: whether it is to be a folder.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        if path.is_symlink() and not path.exists():
            raise _because(f"it is a link to {os.readlink(path)}, which is missing")
        if not is_folder and path.is_dir():
            raise _because("it is a folder")
        place = path if is_folder else path.parent
        while not place.exists():
            place = place.parent
        if not place.is_dir():
            raise _because(f"{place} is no folder")
        if len(os.fsencode(path.name)) > _LONGEST_NAME:
            raise _because("its name is too long")
        with tempfile.TemporaryDirectory(prefix=".nsneg-", dir=place):
            pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        given = printable(str(path))
        raise UsageError(
            f"{flag} is {given if len(given) < 100 else given[:100] + '...'}, which cannot be "
            f"written: {reason}. Give a {'folder' if is_folder else 'file'} elsewhere."
        ) from error


def _because(reason: str) -> OSError:
    return OSError(errno.EINVAL, reason)


def is_plain(name: str) -> bool:
    """Returns whether a name is one file or folder, and so leads nowhere else."""
    return name not in ("", ".", "..") and not any(c in name for c in ("/", "\\", "\0"))


def check_plain(flag: str, names: Iterable[str]) -> None:
    """Checks names that become folders.

    Args:
        flag: flag that gave them, for the message.
        names: one or more.

    Raises:
        UsageError: one leads elsewhere, or there is none.
    """
    names = list(names)
    wrong = [name for name in names if not is_plain(name)] or ([] if names else [""])
    if wrong:
        raise UsageError(
            f"{flag} names {printable(wrong[0])!r}, which is not the name of a folder. Give names "
            "without '/' that are not '..'."
        )


def inside(folder: Path, name: str) -> Path:
    """Returns the path of a file below a folder whose name comes from a data set.

    Args:
        folder: folder to write to.
        name: path below it.

    Raises:
        UsageError: the name leads out of the folder.
    """
    if name.startswith("/") or not all(map(is_plain, name.split("/"))):
        raise UsageError(
            f"The name {printable(name)} is not of a file below {folder}, where it would be "
            "written. Correct the data set: names have no '..', no empty part and no '/' at the "
            "beginning."
        )
    return folder / name


def write_whole(path: Path, write: Callable[[Path], Any], mark: str = "") -> None:
    """Makes the file at `path` by calling `write` with another path in the same folder.

    `path` changes only after `write` has returned and the disk has the bytes, so that neither a
    killed run nor a power cut leaves a part of it. The folder is made if missing.

    Args:
        path: path of the file.
        write: makes a file at the path it gets.
        mark: distinguishes processes that may write the same file at once.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}{mark}.partial")
    try:
        write(partial)
        sync(partial)
        os.replace(partial, path)
        sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Waits until the disk has a file or folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems sync no folders
            raise
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Writes `text` in UTF-8 to `path`, completely or not at all; bytes that are none, escaped."""
    data = text.encode("utf-8", "backslashreplace")
    # Every process of a run may write the same file at once.
    write_whole(path, lambda partial: partial.write_bytes(data), f".{os.getpid()}")


def write_npz(
    path: Path, arrays: Mapping[str, np.ndarray], compressed: bool = True, mark: str = ""
) -> None:
    """Writes arrays by name, completely or not at all; for `mark` see `write_whole`."""

    def write(partial: Path) -> None:
        with partial.open("wb") as file:  # given a name, np.savez would add an ending
            save = np.savez_compressed if compressed else np.savez
            # NumPy's stubs take every keyword for `allow_pickle`.
            save(file, **arrays)  # type: ignore[arg-type]

    write_whole(path, write, mark)


def write_safetensors(
    path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Writes arrays by name, completely or not at all, with texts by name as metadata."""
    from safetensors.numpy import save_file

    plain = {name: np.asarray(array, order="C") for name, array in arrays.items()}

    def write(partial: Path) -> None:
        partial.touch()
        mode = partial.stat().st_mode
        save_file(plain, partial, metadata=dict(metadata))
        partial.chmod(mode)  # safetensors lets nobody but the owner read it

    write_whole(path, write)


def without_nan(value: Any) -> Any:
    """Replaces numbers that JSON does not have, NaN and infinities, by None in plain values."""
    if isinstance(value, Mapping):
        return {name: without_nan(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, value: Any) -> None:
    """Writes plain values as indented JSON, completely or not at all.

    Raises:
        ValueError: a number is infinite or NaN, which JSON does not have.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, mend: str) -> dict[str, Any]:
    """Reads a JSON file that holds an object.

    Args:
        path: path of the file.
        mend: sentence for the message: what to do if the file is damaged.

    Raises:
        UsageError: it is no such file, as after a power cut.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
        if not isinstance(value, dict):
            raise ValueError(f"it holds no object, but {_shortened(value)}")
        return value
    except (ValueError, OSError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"{path} is damaged: {reason}. {mend}") from error


def json_object(path: Path) -> dict[str, Any]:
    """Reads a JSON file that holds an object; {} if it is missing, damaged or holds another."""
    try:
        return read_json(path, "")
    except UsageError:
        return {}


def json_lines(path: Path) -> list[dict[str, Any]]:
    """Reads a file of JSON lines; [] if it is missing, see `json_objects`."""
    try:
        return json_objects(path.read_text("utf-8", "replace"))
    except OSError:
        return []


def json_objects(lines: str) -> list[dict[str, Any]]:
    """Parses JSON lines; leaves out what is no object, as the end of a file being written."""
    found = []
    for line in lines.splitlines():
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and value:
            found.append(value)
    return found


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]} ..."
