"""Saves Orbax checkpoints of a run, and restores them on any number of devices."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from nsneg_jax.errors import RunError, UsageError
from nsneg_jax.files import user_path
from nsneg_jax.training.workdir import CHECKPOINTS

_STATE, _PROGRESS = "state", "progress"


class Checkpoints:
    """The checkpoints in WORKDIR/checkpoints, one folder per step, written in the background.

    Each holds `state`, a pytree of arrays, and `progress`, plain values of the loop. A checkpoint
    appears under its step only when it is complete, so a killed run leaves no partial one.

    Args:
        workdir: workdir of the run.
        keep: number of latest checkpoints to keep.
    """

    def __init__(self, workdir: Path, keep: int):
        self.folder = (workdir / CHECKPOINTS).resolve()
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, cleanup_tmp_directories=True, enable_async_checkpointing=True
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    def latest_step(self) -> int | None:
        """Returns the steps done in the latest complete checkpoint; None if there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, progress: dict[str, Any]) -> None:
        """Starts writing a checkpoint after `step` steps; `state` may be donated afterwards.

        A checkpoint of the same step stays as it is.
        """
        if self.latest_step() == step:
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), progress=ocp.args.JsonSave(progress)
            ),
            force=True,
        )

    def restore(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        """Returns the state and progress of `step`.

        Args:
            step: a step that has a checkpoint.
            like: a state with the structure, shapes, dtypes and shardings of the result; any number
                of devices may have written the checkpoint.

        Raises:
            RunError: the checkpoint cannot be read.
            UsageError: its structure differs; the message names the first entry that does.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        try:
            difference = first_difference(_structure(self.folder / str(step)), abstract)
            if difference is None:
                restored = self._manager.restore(
                    step,
                    args=ocp.args.Composite(
                        state=ocp.args.StandardRestore(abstract), progress=ocp.args.JsonRestore()
                    ),
                )
        except Exception as error:
            raise self._unreadable(step, error) from error
        if difference is not None:
            raise UsageError(
                f"The checkpoint {self.folder / str(step)} does not fit this run: {difference}. "
                "Give the config it was written with, or another --workdir for a new run."
            )
        return restored["state"], restored["progress"]

    def progress(self, step: int) -> dict[str, Any]:
        """Returns only the progress of `step`.

        Raises:
            RunError: the checkpoint cannot be read.
        """
        try:
            return _read_progress(self.folder / str(step))
        except Exception as error:
            raise self._unreadable(step, error) from error

    def _unreadable(self, step: int, error: Exception) -> RunError:
        return RunError(
            f"The checkpoint {self.folder / str(step)} cannot be restored: {error}. If its "
            "files are damaged, move that folder away to resume from the checkpoint before it."
        )

    def wait(self) -> None:
        """Waits until everything saved is on disk."""
        self._manager.wait_until_finished()


def find_checkpoint(path: str | Path) -> Path:
    """Finds the checkpoint folder at `path`: `path` itself, or the latest one in a workdir.

    A leading '~' is the user's home.

    Raises:
        UsageError: there is no such folder, or it holds no checkpoint.
    """
    path = user_path(str(path))
    if not path.is_dir():
        raise UsageError(
            f"There is no folder {path}. Expected a run's workdir, or a checkpoint in it such as "
            f"WORKDIR/{CHECKPOINTS}/400."
        )
    if (path / _STATE).is_dir() and (path / _PROGRESS).is_dir():
        return path
    parent = path if path.name == CHECKPOINTS else path / CHECKPOINTS
    steps = [child for child in parent.glob("[0-9]*") if child.name.isdecimal()]
    if not steps:
        raise UsageError(
            f"{path} holds no checkpoint. Expected a run's workdir, with {CHECKPOINTS}/STEP in it, "
            f"or one such folder STEP, with {_STATE} and {_PROGRESS} in it."
        )
    return max(steps, key=lambda child: int(child.name))


def read_checkpoint(folder: Path, *entries: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads a checkpoint without the run's config, on any devices.

    Args:
        folder: a checkpoint folder, see `find_checkpoint`.
        entries: entries of the state to read, if it has them; all of it if none are given.

    Returns:
        The state as nested dicts and lists of NumPy arrays, and the progress.

    Raises:
        UsageError: the checkpoint cannot be read.
    """
    folder = folder.resolve()
    try:
        wanted = _structure(folder)
        if entries:
            wanted = {name: wanted[name] for name in entries if name in wanted}
        if not wanted:
            return {}, _read_progress(folder)
        to_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            state = checkpointer.restore(
                folder / _STATE,
                args=ocp.args.PyTreeRestore(wanted, to_numpy, partial_restore=True),
            )
        return state, _read_progress(folder)
    except Exception as error:
        raise _damaged(folder, error) from error


def read_progress(folder: Path) -> dict[str, Any]:
    """Reads only the progress of a checkpoint; raises like `read_checkpoint`."""
    try:
        return _read_progress(folder)
    except Exception as error:
        raise _damaged(folder, error) from error


def _damaged(folder: Path, error: Exception) -> UsageError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    reason = reason.partition(" [tensorstore_spec")[0]  # a long description of the driver
    return UsageError(
        f"The checkpoint {folder} cannot be read: {reason}. Its files are damaged or "
        "incomplete: copy it again, or give another checkpoint."
    )


def _structure(folder: Path) -> Any:
    """Returns the tree of the state with metadata (shape, dtype) as leaves."""
    tree = ocp.PyTreeCheckpointHandler().metadata(folder / _STATE).tree
    if not tree:
        raise ValueError(f"{folder / _STATE} has no entries")
    return tree


def _read_progress(folder: Path) -> dict[str, Any]:
    return json.loads((folder / _PROGRESS / "metadata").read_text())


def first_difference(
    stored: Any, like: Any, qualities: tuple[str, ...] = ("shape", "dtype")
) -> str | None:
    """Describes the first entry that differs between the tree of a checkpoint and `like`.

    Leaves are compared in `qualities`. Returns None if there is no difference.
    """

    def by_name(tree: Any) -> dict[str, Any]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {jax.tree_util.keystr(k, simple=True, separator="."): leaf for k, leaf in leaves}

    there, here = by_name(stored), by_name(like)
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
