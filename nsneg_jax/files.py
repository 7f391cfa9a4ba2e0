"""Files that are whole or not there."""

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nsneg_jax.errors import UsageError


def expand(given: str) -> str:
    """A path or data set as the user gave it, with the home folder in place of '~'.

    Args:
        given: such as '~/runs', '~ann/runs', 'folder:~/data' or 'untrained:~/runs/patch'; anything
            else stays as it is.
    """
    path = re.sub(r"\A(?:\w+:)*", "", given)
    return given.removesuffix(path) + os.path.expanduser(path)


def user_path(given: str) -> Path:
    """`expand` for a local path, such as an argument of a command."""
    return Path(expand(given))


def user_cache() -> Path:
    """Folder for files that can be made again: $XDG_CACHE_HOME/nsneg_jax or ~/.cache/nsneg_jax."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # of a user without a home "~" stays as it is, and must not become a folder right here
    root = given if given.is_absolute() else Path("/", os.path.expanduser("~"), ".cache")
    return root / "nsneg_jax"


def data_root() -> str:
    """Folder that data sets are read from and prepared in unless a path is given.

    $NSNEG_DATA, local or as 'gs://BUCKET/FOLDER', without a '/' at its end; 'datasets', in the
    working folder, where it is not set or empty.

    Raises:
        UsageError: it begins with the '~' of a user who has no home.
    """
    given = os.environ.get("NSNEG_DATA", "")
    root = os.path.expanduser(given or "datasets")
    if root.startswith("~"):
        raise UsageError(
            f"NSNEG_DATA is {given!r}, but that user has no home folder. Give the path in full."
        )
    return root.rstrip("/") or "/"


def earlier_data(path: str) -> str:
    """What to add to the message that `path` is missing, where an earlier version had it in data/.

    Earlier versions prepared data sets in data/NAME and looked for them there.

    Args:
        path: of a folder that is not there.

    Returns:
        A sentence with a space before it; '' if nothing of that name lies in data/.
    """
    root = data_root()
    name = os.path.relpath(path, root)
    earlier = os.path.join("data", name)
    elsewhere = "://" in path or name == "." or name.startswith("..")
    if elsewhere or os.path.isdir(path) or not os.path.isdir(earlier):
        return ""
    return f" Found {earlier} from an earlier version: move it to {path}, or set NSNEG_DATA=data."


def write_whole(path: Path, write: Callable[[Path], Any], mark: str = "") -> None:
    """Makes the file at `path` by `write`, which is given another path in the same folder.

    `path` changes only when `write` has returned, so that a run killed meanwhile leaves it as it
    was. The folder is made if missing.

    Args:
        path: of the file.
        write: makes a file at the path it is given.
        mark: tells processes apart that may write the same file at the same time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}{mark}.partial")
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes `text` to `path`, whole or not at all."""
    # every process of a run may write the same, at the same time
    write_whole(path, lambda partial: partial.write_text(text), f".{os.getpid()}")


def write_npz(
    path: Path, arrays: Mapping[str, np.ndarray], compressed: bool = True, mark: str = ""
) -> None:
    """Writes arrays by name, whole or not at all; `mark` as of `write_whole`."""

    def write(partial: Path) -> None:
        with partial.open("wb") as file:  # by name, savez would add an ending
            save = np.savez_compressed if compressed else np.savez
            # NumPy's types hold every name for their option `allow_pickle`
            save(file, **arrays)  # type: ignore[arg-type]

    write_whole(path, write, mark)


def write_json(path: Path, value: Any) -> None:
    """Writes plain values as indented JSON, whole or not at all.

    Raises:
        ValueError: a number that JSON does not have (infinite or not a number).
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
