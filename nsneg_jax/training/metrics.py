"""Averages the metrics of a run over steps, and writes them to files."""

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path

import jax

from nsneg_jax.files import without_nan, write_text
from nsneg_jax.training.workdir import METRICS, TENSORBOARD

# Counts are added up instead of averaged.
_COUNTS = ("replaced_samples",)


class Window:
    """Averages the metrics of steps until `take`; checkpoints store it in their progress.

    Metrics are fetched one step late, so that the devices always have work queued.
    """

    def __init__(self, sums: Mapping[str, float] | None = None, steps: int = 0):
        self._sums = dict(sums or {})
        self._steps = steps
        self._pending: tuple[int, dict[str, jax.Array]] | None = None

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Adds the metrics of `step`, scalars on the devices.

        Raises:
            FloatingPointError: the loss of the previous step is not finite. The other methods raise
                it for this step.
        """
        self._settle()
        self._pending = (step, metrics)

    def take(self) -> dict[str, float]:
        """Returns the means and empties the window."""
        means = self.means()
        self._sums, self._steps = {}, 0
        return means

    def means(self) -> dict[str, float]:
        """Returns the means so far."""
        self._settle()
        return {
            name: total if name in _COUNTS else total / self._steps
            for name, total in self._sums.items()
        }

    def totals(self) -> dict:
        """Returns arguments with which `Window(**totals)` continues this one."""
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
    """Writes metrics of a step to WORKDIR/metrics.jsonl and WORKDIR/tensorboard.

    metrics.jsonl has one object per line: `step`, `split`, then names and plain numbers, null for
    NaN and infinities. Only process 0 writes.

    Args:
        workdir: workdir of the run.
        step: steps done so far. Later lines, left by a run that was killed after its last
            checkpoint, are dropped; so is an incomplete line.
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
        """Adds the figures of `step`, plain numbers by name."""
        if not self._writes:
            return
        line = without_nan({"step": step, "split": split, **figures})
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
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
    """Imports tensorboardX's writer, and keeps it from importing PyTorch."""
    # None makes the import fail; one that is there stays
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    try:
        from tensorboardX import SummaryWriter
    finally:
        if sys.modules["torch"] is None:
            del sys.modules["torch"]
    return SummaryWriter
