"""A run's figures: their means over steps, and the files that they go to."""

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path

import jax

from nsneg_jax.files import write_text
from nsneg_jax.training.workdir import METRICS, TENSORBOARD


class Window:
    """Means of the steps' metrics since they were last taken; part of a checkpoint's progress.

    Metrics come from the devices one step late, so that these always have work queued.
    """

    def __init__(self, sums: Mapping[str, float] | None = None, steps: int = 0):
        self._sums = dict(sums or {})
        self._steps = steps
        self._pending: tuple[int, dict[str, jax.Array]] | None = None

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Adds the metrics of `step`, scalars on the devices.

        Raises:
            FloatingPointError: a loss is not finite (that of the step before, or, from the other
                methods, of this one).
        """
        self._settle()
        self._pending = (step, metrics)

    def take(self) -> dict[str, float]:
        """The means; the window is empty after."""
        means = self.means()
        self._sums, self._steps = {}, 0
        return means

    def means(self) -> dict[str, float]:
        """The means so far."""
        self._settle()
        return {name: total / self._steps for name, total in self._sums.items()}

    def totals(self) -> dict:
        """What `Window(**totals)` goes on from."""
        self._settle()
        return {"sums": dict(self._sums), "steps": self._steps}

    def _settle(self) -> None:
        if self._pending is None:
            return
        step, metrics = self._pending
        self._pending = None
        figures = {name: float(value) for name, value in jax.device_get(metrics).items()}
        if not math.isfinite(figures["loss"]):
            raise FloatingPointError(f"The loss of step {step} is {figures['loss']}")
        for name, value in figures.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._steps += 1


class MetricWriter:
    """Writes figures of a step to WORKDIR/metrics.jsonl and WORKDIR/tensorboard.

    metrics.jsonl has one object a line: `step`, `split`, then names and plain numbers. Of several
    processes the first writes for all.

    Args:
        workdir: of the run.
        step: steps done so far. Lines past it, left by a run that was killed after its last
            checkpoint, are dropped; so is a line that was cut off.
    """

    def __init__(self, workdir: Path, step: int):
        self._writes = jax.process_index() == 0
        if not self._writes:
            return
        self._path = workdir / METRICS
        self._drop_after(step)
        self._file = self._path.open("a")
        self._board = _summary_writer()(str(workdir / TENSORBOARD), purge_step=step + 1)

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._writes:
            self._file.close()
            self._board.close()

    def write(self, step: int, split: str, figures: Mapping[str, float]) -> None:
        """Adds the figures of `step`, which are plain numbers."""
        if not self._writes:
            return
        self._file.write(json.dumps({"step": step, "split": split, **figures}) + "\n")
        self._file.flush()
        for name, value in figures.items():
            self._board.add_scalar(f"{split}/{name}", value, step)

    def _drop_after(self, step: int) -> None:
        if not self._path.exists():
            return
        kept = []
        for line in self._path.read_text().splitlines(keepends=True):
            try:
                if line.endswith("\n") and json.loads(line)["step"] <= step:
                    kept.append(line)
            except (ValueError, KeyError, TypeError):
                continue
        write_text(self._path, "".join(kept))


def _summary_writer() -> type:
    """tensorboardX's writer, without PyTorch, which it would import where it is installed."""
    # None makes the import fail; one that is there stays
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    try:
        from tensorboardX import SummaryWriter
    finally:
        if sys.modules["torch"] is None:
            del sys.modules["torch"]
    return SummaryWriter
