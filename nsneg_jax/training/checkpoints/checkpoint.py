"""Saves Orbax checkpoints of a run, and restores them on any number of devices.

Each has digests of its values, which are compared whenever it is read.
"""

import copy
import functools
import json
import os
import sys
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore

from nsneg_jax.errors import RunError, UsageError
from nsneg_jax.files import user_path
from nsneg_jax.parallel import hosts
from nsneg_jax.training.checkpoints.digests import (
    kind,
    names_of_leaves,
    state_digests,
    values_digest,
)
from nsneg_jax.training.checkpoints.saving import DIGESTS, PROGRESS, STATE, Saves
from nsneg_jax.training.workdir import CHECKPOINTS, DAMAGED, step_folders

_AGAIN = "Copy it again, or give another checkpoint."


class DamagedError(RunError):
    """A checkpoint cannot be read, or its values are not those that were saved."""


class Checkpoints(Saves):
    """The checkpoints in WORKDIR/checkpoints, one folder per step, written in the background.

    Each holds `state`, a pytree of arrays; `progress`, plain values of the loop; and `digests` of
    both. A checkpoint appears under its step only when it is complete, so a killed run leaves no
    partial one.

    Args:
        workdir: workdir of the run.
        keep: number of latest checkpoints to keep.
        keep_every: all checkpoints after a multiple of this many steps are kept, too; 0 for none.
    """

    def __init__(self, workdir: Path, keep: int, keep_every: int = 0):
        _stop_leak()
        super().__init__((workdir / CHECKPOINTS).resolve(), keep, keep_every)
        # Step, state and progress that `newest_whole` has read, for the first `restore`.
        self._known: tuple[int, tuple[dict[str, Any], dict[str, Any]]] | None = None

    def restore(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        """Returns the state and progress of `step`.

        Args:
            step: a step that has a checkpoint.
            like: a state with the structure, shapes, dtypes and shardings of the result; any number
                of devices may have written the checkpoint.

        Raises:
            DamagedError: the checkpoint is damaged.
            UsageError: its structure differs; the message names the first entry that does.
        """
        folder = self.folder / str(step)
        known, self._known = self._known, None
        state, progress = known[1] if known and known[0] == step else _read(folder)
        difference = first_difference(state, like)
        if difference is not None:
            raise UsageError(
                f"The checkpoint {folder} does not fit this run: {difference}. "
                "Give the config it was written with, or another --workdir for a new run."
            )
        stored = names_of_leaves(state)
        names = list(names_of_leaves(like))
        leaves, structure = jax.tree.flatten(like)
        placed = [_placed(stored[name], leaf) for name, leaf in zip(names, leaves, strict=True)]
        return jax.tree.unflatten(structure, placed), progress

    def newest_whole(self) -> tuple[int, dict[str, Any]] | None:
        """Finds the newest checkpoint whose values are those that were saved.

        Damaged ones that are newer are reported and moved to WORKDIR/damaged-checkpoints, because
        the run will write their steps again. Every process must call it.

        Returns:
            The steps done in it, and its progress; None if there is no checkpoint.

        Raises:
            DamagedError: all are damaged; they stay where they are.
        """
        damaged: dict[int, DamagedError] = {}
        found = None
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                self._known = step, _read(self.folder / str(step))
                found = step, dict(self._known[1][1])
                break
            except DamagedError as error:
                damaged[step] = error
        found = hosts.of_first(found)
        if damaged and found is None:
            raise DamagedError(
                f"{next(iter(damaged.values()))} There is no whole checkpoint before it in "
                f"{self.folder}. Copy the workdir again, or give another --workdir for a new run."
            )
        if found is None:
            return None
        for step, reason in damaged.items():
            self._set_aside(step, found[0], reason)
        return found[0], found[1]

    def _set_aside(self, step: int, instead: int, reason: DamagedError) -> None:
        place = self.folder.parent / DAMAGED / str(step)
        if jax.process_index() == 0:
            while place.exists():
                place = place.with_name(f"{place.name}-again")
            place.parent.mkdir(exist_ok=True)
            os.replace(self.folder / str(step), place)
            print(
                f"{reason} The run goes on from step {instead}; the damaged checkpoint is now in "
                f"{place}.",
                file=sys.stderr,
            )
        hosts.wait_for_all()
        self._manager.reload()


@functools.cache
def _stop_leak() -> None:
    """Keeps tensorstore from leaking memory with each save: 0.1 MB per 50 arrays.

    It never frees what it returns as JSON (0.1.78 to 0.1.86). Per save orbax asks it for metrics,
    only to log them, and per array for one and the same description of the folder.
    """
    describe = tensorstore.KvStore.Spec.to_json
    known: deque[tuple[Any, Any]] = deque(maxlen=4)

    def to_json(spec: Any, *args: Any, **options: Any) -> Any:
        if args or options:
            return describe(spec, *args, **options)
        for other, description in tuple(known):
            if other == spec:
                return copy.deepcopy(description)
        known.append((spec, describe(spec)))
        return copy.deepcopy(known[-1][1])

    tensorstore.KvStore.Spec.to_json = to_json  # type: ignore[method-assign, assignment]
    tensorstore.experimental_collect_matching_metrics = lambda *_, **__: []


def find_checkpoint(path: str | Path) -> Path:
    """Finds the checkpoint folder at `path`: `path` itself, or the latest one in a workdir.

    A leading '~' is the user's home.

    Raises:
        UsageError: there is no such folder, or it holds no checkpoint.
    """
    return all_checkpoints(path)[-1]


def all_checkpoints(path: str | Path) -> list[Path]:
    """Finds all checkpoint folders at `path`, oldest first; see `find_checkpoint`."""
    path = user_path(str(path))
    if not path.is_dir():
        raise UsageError(
            f"There is no folder {path}. Expected a run's workdir, or a checkpoint in it such as "
            f"WORKDIR/{CHECKPOINTS}/400."
        )
    if (path / STATE).is_dir() and (path / PROGRESS).is_dir():
        return [path]
    parent = path if path.name == CHECKPOINTS else path / CHECKPOINTS
    folders = step_folders(parent)
    if not folders:
        raise UsageError(
            f"{path} holds no checkpoint. Expected a run's workdir, with {CHECKPOINTS}/STEP in it, "
            f"or one such folder STEP, with {STATE} and {PROGRESS} in it."
        )
    return folders


def check_checkpoint(folder: Path) -> None:
    """Reads a checkpoint and compares its values with its digests.

    Raises:
        DamagedError: the checkpoint is damaged.
    """
    _read(folder)


def read_checkpoint(folder: Path, *entries: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads a checkpoint without the run's config, on any devices.

    Args:
        folder: a checkpoint folder, see `find_checkpoint`.
        entries: entries of the state to read, if it has them; all of it if none are given.

    Returns:
        The state as nested dicts and lists of NumPy arrays, and the progress.

    Raises:
        UsageError: the checkpoint is damaged.
    """
    try:
        return _read(folder, *entries)
    except DamagedError as error:
        raise UsageError(f"{error} {_AGAIN}") from error


def _read(folder: Path, *entries: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Does `read_checkpoint`, but raises DamagedError."""
    folder = folder.resolve()
    try:
        wanted, digests = _structure(folder), _digests(folder)
        _check_kinds(wanted, digests)
        if entries:
            wanted = {name: wanted[name] for name in entries if name in wanted}
        progress = _read_progress(folder, digests)
        if not wanted:
            return {}, progress
        to_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            state = checkpointer.restore(
                folder / STATE,
                args=ocp.args.PyTreeRestore(wanted, to_numpy, partial_restore=True),
            )
        _check_values(state, digests)
        return state, progress
    except Exception as error:
        raise _damaged(folder, error) from error


def read_progress(folder: Path) -> dict[str, Any]:
    """Reads only the progress of a checkpoint; raises like `read_checkpoint`."""
    try:
        return _read_progress(folder, _digests(folder))
    except Exception as error:
        raise UsageError(f"{_damaged(folder, error)} {_AGAIN}") from error


def has_digests(folder: Path) -> bool:
    """Returns whether a checkpoint has digests; those of earlier versions have none."""
    return (folder / DIGESTS).exists()


def _structure(folder: Path) -> Any:
    """Returns the tree of the state with metadata (shape, dtype) as leaves."""
    tree = ocp.PyTreeCheckpointHandler().metadata(folder / STATE).tree
    if not tree:
        raise ValueError(f"{folder / STATE} has no entries")
    return tree


def _placed(array: np.ndarray, like: Any) -> Any:
    """Splits an array over devices as `like` is; returns it as it is for another NumPy array."""
    if not isinstance(like, jax.Array):
        return array
    return jax.make_array_from_callback(array.shape, like.sharding, lambda place: array[place])


def _digests(folder: Path) -> dict[str, Any] | None:
    """Returns the digests of a checkpoint; None if it was written without."""
    if not has_digests(folder):
        return None
    digests = json.loads((folder / DIGESTS / "metadata").read_text())
    if digests.keys() != {STATE, PROGRESS} or not isinstance(digests[STATE], dict):
        raise ValueError("its digests are damaged")
    return digests


def _check_kinds(stored: Any, digests: Mapping[str, Any] | None) -> None:
    """Checks names, dtypes and shapes of all entries, so that damage is not taken for another."""
    if digests is None:
        return
    there = {name: kind(leaf) for name, leaf in names_of_leaves(stored).items()}
    saved = {name: str(digest).partition(" ")[0] for name, digest in digests[STATE].items()}
    if there != saved:
        first = min(name for name, _ in there.items() ^ saved.items())
        raise ValueError(f"{first} is not as it was saved")


def _check_values(state: Any, digests: Mapping[str, Any] | None) -> None:
    if digests is None:
        return
    for name, digest in state_digests(state).items():
        if digests[STATE][name] != digest:
            raise ValueError(f"the values of {name} are not those that were saved")


def _read_progress(folder: Path, digests: Mapping[str, Any] | None) -> dict[str, Any]:
    progress = json.loads((folder / PROGRESS / "metadata").read_text())
    if digests is not None and values_digest(progress) != digests[PROGRESS]:
        raise ValueError("the values of its progress are not those that were saved")
    return progress


def _damaged(folder: Path, error: Exception) -> DamagedError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    # A long description of the driver, or of the place in its source.
    reason = reason.partition(" [tensorstore_spec")[0].partition(" [source locations")[0]
    return DamagedError(f"The checkpoint {folder} is damaged or incomplete: {reason.rstrip('.')}.")


def first_difference(
    stored: Any, like: Any, qualities: tuple[str, ...] = ("shape", "dtype")
) -> str | None:
    """Describes the first entry that differs between the tree of a checkpoint and `like`.

    Leaves are compared in `qualities`. Returns None if there is no difference.
    """

    there, here = names_of_leaves(stored), names_of_leaves(like)
    for name in sorted(there.keys() | here.keys()):
        if name not in there:
            return f"{name} is missing in the checkpoint"
        if name not in here:
            return f"{name} is in the checkpoint, but not in this run"
        for quality in qualities:
            before, now = (getattr(leaf, quality, None) for leaf in (there[name], here[name]))
            if before != now:
                return f"{name} has {quality} {before} in the checkpoint, {now} in this run"
    return None
