"""Files that are whole or not there."""

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np


def expand(given: str) -> str:
    """A path or data set as the user gave it, with the home folder in place of '~'.

    Args:
        given: such as '~/runs', '~ann/runs', 'folder:~/data' or 'untrained:~/runs/patch'; anything
            else stays as it is.
    """
    scheme, path = re.fullmatch(r"((?:\w+:)*)(.*)", given, re.DOTALL).groups()
    return scheme + os.path.expanduser(path)


def user_path(given: str) -> Path:
    """`expand` for a local path, such as an argument of a command."""
    return Path(expand(given))


def user_cache() -> Path:
    """Folder for files that can be made again: $XDG_CACHE_HOME/nsneg_jax or ~/.cache/nsneg_jax."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # of a user without a home "~" stays as it is, and must not become a folder right here
    root = given if given.is_absolute() else Path("/", os.path.expanduser("~"), ".cache")
    return root / "nsneg_jax"


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
            (np.savez_compressed if compressed else np.savez)(file, **arrays)

    write_whole(path, write, mark)


def write_json(path: Path, value: Any) -> None:
    """Writes plain values as indented JSON, whole or not at all.

    Raises:
        ValueError: a number that JSON does not have (infinite or not a number).
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
