"""Averages the metrics of a run over steps, and writes them to files and loggers."""

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax

from nsneg_jax.files import sync, without_nan, write_text
from nsneg_jax.training.loggers.board import Board
from nsneg_jax.training.loggers.services import Service, services_in
from nsneg_jax.training.progress import warn
from nsneg_jax.training.workdir import METRICS, TENSORBOARD, flatten

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
            if self._steps and name not in self._sums:
                continue  # an earlier version began this window, without this metric
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._steps += 1


class MetricWriter:
    """Writes metrics of a step to WORKDIR/metrics.jsonl, WORKDIR/tensorboard and services.

    metrics.jsonl has one object per line: `step`, `split`, then names and plain numbers; one that
    is not finite is null. Only process 0 writes. A file that cannot be written is reported once and
    does not stop the run, and neither does a service: lines of metrics.jsonl are kept until it can
    be written again.

    Args:
        workdir: workdir of the run.
        step: steps done so far. Later lines, left by a run that was killed after its last
            checkpoint, are dropped; so is an incomplete line.
        services: names of services to log to, with commas, see `loggers.services`.
        project: the services' project.
        config: config of the run; TensorBoard gets it as a table.
    """

    def __init__(
        self,
        workdir: Path,
        step: int,
        services: str = "",
        project: str = "",
        config: Mapping[str, Any] | None = None,
    ):
        self._writes = jax.process_index() == 0
        if self._writes:
            self._path = workdir / METRICS
            self._drop_after(step)
            self._waiting: list[str] = []
            self._written = self._path.stat().st_size if self._path.exists() else 0
            self._failed: OSError | None = None
            self._board = Board(workdir / TENSORBOARD, step)
            if config is not None:  # services have a place of their own for it
                self._board.text(step, "config", _table(config))
            about = workdir, project, config or {}
            self._services = [Service(each, *about) for each in services_in(services)]
            self._logs: list[Board | Service] = [self._board, *self._services]

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._writes:
            self._board.close()
            self._write_waiting()
            if self._waiting:
                warn(f"{len(self._waiting)} lines of {self._path} are lost: it cannot be written")
            for service in self._services:
                service.end(is_whole=kind is None)
            for service in self._services:
                service.close()

    def write(self, step: int, split: str, figures: Mapping[str, float]) -> None:
        """Adds the figures of `step`, plain numbers by name."""
        if not self._writes:
            return
        line = without_nan({"step": step, "split": split, **figures})
        self._waiting.append(json.dumps(line, allow_nan=False) + "\n")
        self._write_waiting()
        tagged = {f"{split}/{name}": value for name, value in figures.items()}
        for log in self._logs:
            log.write(step, tagged)

    def text(self, step: int, tag: str, text: str) -> None:
        """Adds a text in Markdown, which metrics.jsonl does not have."""
        for log in self._logs if self._writes else ():
            log.text(step, tag, text)

    def picture(self, step: int, tag: str, path: Path) -> None:
        """Adds a PNG file, which metrics.jsonl does not have."""
        for log in self._logs if self._writes else ():
            log.picture(step, tag, path)

    def sync(self) -> None:
        """Waits until the disk has all lines, so that a checkpoint is never ahead of them.

        Raises:
            OSError: the file cannot be written.
        """
        if self._writes:
            self._write_waiting()
            if self._failed is not None:
                raise self._failed
            if self._written:
                sync(self._path)

    def _write_waiting(self) -> None:
        if not self._waiting:
            return
        lines = "".join(self._waiting).encode()
        try:
            with self._path.open("ab") as file:
                file.write(lines)
        except OSError as error:
            with suppress(OSError):
                os.truncate(self._path, self._written)  # leaves no part of a line
            if self._failed is None:
                warn(f"{self._path} cannot be written now: {error}. The run goes on")
            self._failed = error
            return
        self._written += len(lines)
        self._waiting, self._failed = [], None

    def _drop_after(self, step: int) -> None:
        if not self._path.exists():
            return
        kept = []
        for line in self._path.read_text("utf-8", "replace").splitlines(keepends=True):
            try:
                if line.endswith("\n") and json.loads(line)["step"] <= step:
                    kept.append(line)
            except (ValueError, KeyError, TypeError):
                continue
        write_text(self._path, "".join(kept))


def _table(config: Mapping[str, Any]) -> str:
    """Returns a config as a table in Markdown."""
    rows = [f"| `{name}` | `{value!r}` |" for name, value in flatten(config).items()]
    return "\n".join(("| field | value |", "|---|---|", *rows))
