"""Writes Orbax checkpoints in the background, and tries again where that fails."""

import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import jax
import orbax.checkpoint as ocp

from nsneg_jax.errors import RunError, paragraph
from nsneg_jax.files import without_nan
from nsneg_jax.training.checkpoints.digests import state_digests, values_digest

STATE, PROGRESS, DIGESTS = "state", "progress", "digests"
_RETRY_AFTER = 2.0  # seconds until a save that failed is tried again
_LONGEST = 200  # characters of a reason


class Saves:
    """Writes the checkpoints of a folder, one folder per step.

    Args:
        folder: folder of the checkpoints, made if missing.
        keep: number of latest checkpoints to keep.
        keep_every: all checkpoints after a multiple of this many steps are kept, too; 0 for none.

    Raises:
        OSError: the folder cannot be made.
    """

    def __init__(self, folder: Path, keep: int, keep_every: int = 0):
        self.folder = folder
        self._keep, self._keep_every = keep, keep_every
        self._step = 0  # of the save that is being written, or was
        self._starting = False
        self._failed = False  # the last save, and it has not been made good since
        self._broken: set[int] = set()  # steps of saves that failed
        _keep_quiet()
        self.folder.mkdir(parents=True, exist_ok=True)  # says in a line what is in the way
        self._manager = self._opened()

    def _opened(self) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=self._keep,
                keep_period=self._keep_every or None,
                cleanup_tmp_directories=True,
                enable_async_checkpointing=True,
                async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
            ),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        try:
            self._manager.close()
            self._remove_parts("[0-9]*")  # an earlier run's writers may have been late, too
        except Exception as failure:
            lost = self._given_up(failure)
            if error is None:
                raise lost from failure
            print(paragraph(lost), file=sys.stderr, flush=True)

    def latest_step(self) -> int | None:
        """Returns the steps done in the latest complete checkpoint; None if there is none."""
        return self._manager.latest_step()

    def save(
        self,
        step: int,
        state: Any,
        progress: Mapping[str, Any],
        *,
        last: bool = False,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        """Starts writing a checkpoint after `step` steps; `state` may be donated afterwards.

        A checkpoint of the same step stays as it is. A save that fails is tried once more: at once
        if that is noticed here, else by the next call, which `failed` asks for.

        Args:
            step: steps done.
            state: pytree of arrays.
            progress: plain values of the loop.
            last: whether to wait until the disk has the checkpoint.
            before: writes what must be on the disk before it; an error counts as one of the save.

        Raises:
            RunError: the second try failed too, or any with several processes.
        """
        again = self.failed()
        if self.latest_step() == step and not last:
            return
        self._step = step
        self._starting = True
        try:
            while True:
                try:
                    if self.latest_step() != step:
                        before()
                        self._start(step, state, progress)
                    if last or again:
                        self._manager.wait_until_finished()
                    self._failed = False
                    return
                except Exception as error:
                    if again or jax.process_count() > 1:
                        raise self._given_up(error) from error
                    self._report(error, "now")
                    again = True
        finally:
            self._starting = False

    def _start(self, step: int, state: Any, progress: Mapping[str, Any]) -> None:
        self._remove_parts_of_failed()
        plain = without_nan(progress)  # JSON has no NaN
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                progress=ocp.args.JsonSave(plain),
                digests=ocp.args.JsonSave(
                    {STATE: state_digests(state), PROGRESS: values_digest(plain)}
                ),
            ),
            force=True,
        )

    def failed(self, *, wait: bool = False) -> bool:
        """Returns whether a save failed in the background, so that the caller must save again.

        A failure is reported once, and what it left is removed. With `wait` the save that is
        being written is waited for.

        Raises:
            RunError: there are several processes, which cannot try again together.
        """
        if not wait and self._manager.is_saving_in_progress():
            return self._failed
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            if jax.process_count() > 1:
                raise self._given_up(error) from error
            self._report(error, "after this step")
        return self._failed

    def unfinished(self) -> str:
        """Returns the name of the save that is being written; '' if there is none."""
        writing = self._starting or self._manager.is_saving_in_progress()
        return f"the save of step {self._step}" if writing else ""

    def _report(self, error: Exception, when: str) -> None:
        self._failed = True
        print(
            f"warning: the checkpoint of step {self._step} cannot be written: {_reason(error)}. "
            f"The run tries once more {when}",
            file=sys.stderr,
            flush=True,
        )
        self._discard()
        time.sleep(_RETRY_AFTER)
        if self.folder.is_dir():  # else it would be made anew, where a mount is lost
            self._manager = self._opened()

    def _given_up(self, error: Exception) -> RunError:
        self._discard()
        try:
            steps = [int(path.name) for path in self.folder.iterdir() if path.name.isdecimal()]
            newest = f"The newest checkpoint is {self.folder / str(max(steps))}"
        except ValueError:
            newest = "There is no checkpoint yet"
        except OSError as unreadable:
            newest = f"{self.folder} cannot be read either: {unreadable.strerror}"
        return RunError(
            f"The checkpoint of step {self._step} cannot be written to {self.folder}: "
            f"{_reason(error)}. {newest}. Make room, or mend the storage, and run the same command "
            "again: it goes on from there."
        )

    def _discard(self) -> None:
        """Closes what failed, and removes the parts that it left on the disk."""
        with suppress(Exception):
            self._manager.close()
        self._broken.add(self._step)
        self._remove_parts_of_failed()

    def _remove_parts_of_failed(self) -> None:
        """Removes what failed saves left; writers that were not waited for may leave it late."""
        for step in self._broken:
            self._remove_parts(str(step))

    def _remove_parts(self, steps: str) -> None:
        if jax.process_count() == 1:
            for path in self.folder.glob(f"{steps}.*tmp*"):
                shutil.rmtree(path, ignore_errors=True)


def _keep_quiet() -> None:
    """Leaves out lines about saves that say nothing to users.

    The threads of a save that failed print a traceback each, which is reported in a line; a save
    that waits for the one before says so although nothing is wrong.
    """
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_is_for_users)
    if not isinstance(sys.unraisablehook, _Hook):
        sys.unraisablehook = _Hook(sys.unraisablehook)


class _Hook:
    """Drops errors of TensorStore's threads that end after orbax has given up on them."""

    def __init__(self, before: Callable[[Any], object]) -> None:
        self._before = before

    def __call__(self, unraisable: Any) -> None:
        error, frame = unraisable.exc_value, unraisable.exc_traceback
        late = frame is not None and frame.tb_frame.f_code.co_name == "call_soon_threadsafe"
        if not (late and isinstance(error, RuntimeError)):
            self._before(unraisable)


def _is_for_users(record: logging.LogRecord) -> bool:
    """Returns whether a line is to be logged."""
    # Only orbax uses asyncio here.
    of_save = "orbax" in record.pathname or "exception was never retrieved" in record.getMessage()
    waits = "orbax" in record.pathname and "Waiting for previous save" in record.msg
    return not (waits or (record.exc_info and of_save))


def _reason(error: Exception) -> str:
    """Returns what the system says in an error, or the beginning of its first line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error).strip()
    number = re.search(r"os_error_code='(\d+)'", text)  # TensorStore's
    if number:
        return os.strerror(int(number[1]))
    return text.partition("\n")[0][:_LONGEST].rstrip(".") or type(error).__name__
