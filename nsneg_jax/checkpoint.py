"""Orbax checkpoints of a run: save, restore on any number of devices, and stop on a signal."""

import signal
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import orbax.checkpoint as ocp

from nsneg_jax.errors import RunError

FOLDER = "checkpoints"


class Checkpoints:
    """The checkpoints in WORKDIR/checkpoints, one folder a step, written in the background.

    Each holds `state`, a pytree of arrays, and `progress`, plain values of the loop. A checkpoint
    appears under its step only when it is whole, so a killed run leaves no half of one.

    Args:
        workdir: of the run.
        keep: how many of the latest stay.
    """

    def __init__(self, workdir: Path, keep: int):
        self.folder = (workdir / FOLDER).resolve()
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
        """Steps done in the latest whole checkpoint; None without one."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, progress: dict[str, Any]) -> None:
        """Starts to write the checkpoint of `step` steps done; `state` may be donated after."""
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), progress=ocp.args.JsonSave(progress)
            ),
            force=True,
        )

    def restore(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        """The state and progress of `step`.

        Args:
            step: a step that has a checkpoint.
            like: a state whose structure, shapes, dtypes and shardings the result takes, whatever
                number of devices wrote it.

        Raises:
            RunError: the checkpoint cannot be read, or is of another structure.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        try:
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(abstract), progress=ocp.args.JsonRestore()
                ),
            )
        except Exception as error:
            raise RunError(
                f"The checkpoint {self.folder / str(step)} cannot be restored: {error}. If its "
                "files are damaged, move that folder away to go on from the checkpoint before it."
            ) from error
        return restored["state"], restored["progress"]

    def wait(self) -> None:
        """Returns when everything saved is on disk."""
        self._manager.wait_until_finished()

    def preempted(self, step: int) -> bool:
        """Whether the platform asked all hosts to stop (needs `jax.distributed`)."""
        return jax.process_count() > 1 and self._manager.reached_preemption(step)


class StopSignals:
    """While entered, SIGTERM and the first SIGINT set `received` instead of ending the process.

    Without `jax.distributed` JAX does not see SIGTERM, which is how schedulers announce a
    preemption; with several processes they must stop at the same step, which
    `Checkpoints.preempted` sees to.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        signals = [signal.SIGINT]
        if jax.process_count() == 1:
            signals.append(signal.SIGTERM)
        self._before = {number: signal.signal(number, self._receive) for number in signals}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name


def stopped(received: str | None, done: int, total: int) -> str:
    """What a run says that stopped before its end; `received` as of `StopSignals`."""
    return (
        f"stopped by {received or 'preemption'} after step {done} of {total}, with everything "
        "saved; the same command goes on from there"
    )
