"""A disk of a few MB that can be filled, where this user may mount one."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """Mounts a file system of `size` bytes in memory at `folder`; skips the test without rights."""
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.which("mount") is None:
        pytest.skip("there is no program `mount`")
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, leave: int = 0) -> Path:
    """Fills the disk of `folder` up to `leave` bytes with one file, and returns its path."""
    ballast = folder / "ballast"
    ballast.touch()
    free = shutil.disk_usage(folder).free - leave
    try:
        with ballast.open("ab", buffering=0) as file:
            while free > 0:
                free -= file.write(bytes(min(free, 1 << 20)))
    except OSError:
        pass
    return ballast
