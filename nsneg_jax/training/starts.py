"""Records each start of a run: when, where, and with which versions of the code."""

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

_PACKAGES = ("nsneg_jax", "jax", "jaxlib", "flax", "optax", "numpy")
_PATIENCE = 5  # seconds for git, which may have to look at a slow file system


def record(path: Path, step: int, devices: Iterable[jax.Device]) -> None:
    """Adds a line to the JSON lines at `path`; call it in process 0.

    A line holds 'time' (UTC, ISO 8601), 'step' (steps done before), 'command', 'host', 'processes',
    'devices' (their number), 'device' (their kind), 'cpus', 'system', 'versions' by package, and
    'git': 'commit', 'branch' and 'changed', the number of tracked files that differ from it; None
    outside a repository. A file that cannot be written is left out: no run depends on it.
    """
    kinds = [device.device_kind for device in devices]
    entry = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "step": step,
        "command": shlex.join(sys.orig_argv),
        "host": platform.node(),
        "processes": jax.process_count(),
        "devices": len(kinds),
        "device": kinds[0],
        "cpus": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version()} | _versions(),
        "git": git_state(),
    }
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
    except OSError:
        return


def git_state() -> dict[str, Any] | None:
    """Returns the state of the repository that holds this code, else of the working folder's."""
    for folder in (Path(__file__).parent, Path()):
        found = (_git(folder, "rev-parse", "HEAD", "--abbrev-ref", "HEAD") or "").split()
        if len(found) == 2:
            changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
            count = None if changed is None else len(changed.splitlines())
            return {"commit": found[0], "branch": found[1], "changed": count}
    return None


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # a checkout that is not installed
            continue
    return found


def _git(folder: Path, *arguments: str) -> str | None:
    """Returns what git prints; None if it fails or takes too long."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
