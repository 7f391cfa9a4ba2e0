"""Files that are whole or not there."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Makes the file at `path` by `write`, which is given another path in the same folder.

    `path` changes only when `write` has returned, so that a run killed meanwhile leaves it as it
    was. The folder is made if missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes `text` to `path`, whole or not at all."""
    write_whole(path, lambda partial: partial.write_text(text))


def write_json(path: Path, value: Any) -> None:
    """Writes plain values as indented JSON, whole or not at all.

    Raises:
        ValueError: a number that JSON does not have (infinite or not a number).
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
