"""Keeps compiled programs on disk, so that the next start loads what this one compiles.

JAX's persistent compilation cache does the work. How JAX 0.10 to 0.12 behave, and what follows:

* The key of a program covers its text, the versions of jaxlib and of the backend, the compiler's
  options, XLA_FLAGS and a description of the devices. On CPUs the description changes with the
  instruction set (tried with --xla_cpu_max_isa). It must: XLA runs a program compiled for other
  instructions after a mere message on standard error, and dies of SIGILL. It is not documented that
  the key distinguishes processors that differ only in tuning, and XLA's extra files for GPUs
  (autotuning) leave versions to the caller. So the folder's name contains the version of jaxlib and
  a digest of the processor.
* Files are written in place. After a full disk, a killed process, or while another process writes,
  a reader finds the damage by a checksum, warns and compiles, but keeps the file. Here the first
  warning removes it, and one note replaces all warnings.
* `jax_compilation_cache_max_size` checks all files per added program, under a lock: 35 ms with
  1,000 files on a local disk, longer on a network's. Here one check at the start bounds the folder,
  without a lock.
* Of the processes of one run, only the first writes. On CPUs the description of the devices differs
  between processes, so the others find nothing. On GPUs processes share the work of autotuning, so
  a process that loads a program might make those that compile it wait. A run of several processes
  keeps programs only on request, in a folder that has the same name on all hosts.
"""

import glob
import hashlib
import platform
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jaxlib

from nsneg_jax.errors import UsageError
from nsneg_jax.files import user_cache, user_path

MOST_BYTES = 2**30
MOST_FILES = 4000  # about 60 programs per config, most of them a few kB
_KEPT = 0.75  # fraction of the limits that is kept once one is exceeded
_FOLDERS = "jaxlib-*"
_FAILURE = re.compile(r"Error (?:reading|writing) persistent compilation cache entry for '(.+?)': ")


def keep_programs(where: str = "", alone: bool = True) -> Path | None:
    """Makes JAX keep the programs that it compiles; call it before the first compilation.

    If JAX already has a folder (JAX_COMPILATION_CACHE_DIR), that folder and its settings stay.

    Args:
        where: a folder, or 'off' to keep nothing; '' for the user's cache folder.
        alone: whether this is the only process of its run; with several there is no default folder.

    Returns:
        The folder with the programs; None if none are kept.

    Raises:
        UsageError: `where` cannot be written. If the default folder cannot, the run reports it and
            compiles.
    """
    if where == "off":
        jax.config.update("jax_enable_compilation_cache", False)
        return None
    # the types of JAX before 0.11 lack its options
    existing = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined, unused-ignore]
    if not where and existing:
        return Path(existing)
    if not where and not alone:
        return None
    if "://" in where:
        raise UsageError(
            f"--compilation_cache is {where!r}, but must be a local folder or 'off'. For an object "
            "store set the environment variable JAX_COMPILATION_CACHE_DIR."
        )
    root = user_path(where).absolute() if where else user_cache() / "compiled"
    folder = root / f"jaxlib-{jaxlib.__version__}{f'-{_processor()}' if alone else ''}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"room for this")
        limit(root)
    except OSError as error:
        if where:
            raise UsageError(
                f"--compilation_cache is {where!r}, which cannot be written to: {error}. Give "
                "another folder, or 'off'."
            ) from error
        _note(f"compiled programs are not kept: {error}. Set --compilation_cache=DIR or =off.")
        return None
    # A start has about 60 programs, most of them small.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    warnings.filterwarnings("always", _FAILURE.pattern)  # by default not twice for one name
    warnings.showwarning = _Mender(folder, warnings.showwarning)
    return folder


def limit(root: Path, most_bytes: int = MOST_BYTES, most_files: int = MOST_FILES) -> None:
    """Removes the least recently used files in the folders of `keep_programs` below `root`.

    Does nothing within the limits. Other processes may use the files meanwhile; they compile again
    what is gone.
    """
    files = sorted(_files(root))
    count, size = len(files), sum(size for _, size, _ in files)
    if count <= most_files and size <= most_bytes:
        return
    for _, size_of_file, path in files:
        if count <= _KEPT * most_files and size <= _KEPT * most_bytes:
            return
        path.unlink(missing_ok=True)
        count -= 1
        size -= size_of_file


def _files(root: Path) -> Iterator[tuple[float, int, Path]]:
    """Yields last use (seconds since the epoch), size in bytes and path of each file."""
    for folder in root.glob(_FOLDERS):
        for path in folder.rglob("*"):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue  # another process removed it
            if path.is_file():
                # File systems mounted with noatime do not record reads; there, age decides.
                yield max(status.st_atime, status.st_mtime), status.st_size, path


class _Mender:
    """Replaces `warnings.showwarning`: removes the files that JAX warns about."""

    def __init__(self, folder: Path, show: Any) -> None:
        self._folder = folder
        self._show = show
        self._has_spoken = False

    def __call__(self, message: Any, *others: Any, **named: Any) -> None:
        failure = _FAILURE.match(str(message))
        if failure is None:
            self._show(message, *others, **named)
            return
        # The warning has only the program's name, so others of that name are compiled again too.
        for path in self._folder.glob(f"{glob.escape(failure[1])}-*-cache"):
            try:
                path.unlink(missing_ok=True)
            except OSError:
                break  # the folder has become read-only
        if not self._has_spoken:
            self._has_spoken = True
            reason = str(message)[failure.end() :]
            _note(f"{self._folder} failed ({reason}); the run compiles what it cannot load.")


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr, flush=True)


def _processor() -> str:
    """Hashes the architecture, model and flags of the processor."""
    known = {platform.machine()}
    try:
        with open("/proc/cpuinfo") as lines:
            # x86, then Arm
            names = ("vendor_id", "cpu family", "model", "flags", "CPU", "Features")
            known |= {line for line in lines if line.startswith(names)}
    except OSError:
        pass  # not Linux: use only the architecture
    return hashlib.sha256("\n".join(sorted(known)).encode()).hexdigest()[:8]
