"""Where a run's figures go: the terminal, metrics.jsonl and TensorBoard."""

import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import jax
from tqdm import tqdm

from nsneg_jax.files import write_text

FILE_NAME = "metrics.jsonl"
_SILENCE = 60.0  # seconds at most without a line


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


class Stopwatch:
    """The speed of the steps since it was last read, and the part of the time without input."""

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        self.restart()

    def restart(self) -> None:
        self._start = time.monotonic()
        self._waited = 0.0
        self._steps = 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Encloses the wait for a batch."""
        start = time.monotonic()
        yield
        self._waited += time.monotonic() - start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Encloses work that is none of the steps'."""
        start = time.monotonic()
        yield
        self._start += time.monotonic() - start

    def count_step(self) -> None:
        self._steps += 1

    def take(self) -> dict[str, float]:
        """As `figures`; starts anew."""
        figures = self.figures()
        self.restart()
        return figures

    def figures(self) -> dict[str, float]:
        """images_per_second and input_wait_fraction so far; nothing if no step was counted."""
        if not self._steps:
            return {}
        elapsed = time.monotonic() - self._start
        return {
            "images_per_second": self._steps * self._batch_size / elapsed,
            "input_wait_fraction": self._waited / elapsed,
        }


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
        self._path = workdir / FILE_NAME
        self._drop_after(step)
        self._file = self._path.open("a")
        self._board = _summary_writer()(str(workdir / "tensorboard"), purge_step=step + 1)

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
    sys.modules.setdefault("torch", None)  # None makes the import fail; one that is there stays
    try:
        from tensorboardX import SummaryWriter
    finally:
        if sys.modules["torch"] is None:
            del sys.modules["torch"]
    return SummaryWriter


class Progress:
    """A progress bar on a terminal; elsewhere (a log file) a line each time figures come.

    A loop that asks `is_due` in each turn is never silent for longer than a minute and a turn.

    Args:
        total: steps of the whole run.
        done: steps done before this start.
        unit: what a step is called.
    """

    def __init__(self, total: int, done: int, unit: str = "step"):
        self._total = total
        self._unit = unit
        self._first: tuple[int, float] | None = None
        self._said = self._begun = time.monotonic()
        self._bar = None
        if sys.stderr.isatty() and jax.process_index() == 0:
            # of a bar within another nothing is left
            options = {"dynamic_ncols": True, "leave": None}
            self._bar = tqdm(total=total, initial=done, unit=unit, **options)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, step: int) -> None:
        """Step `step` is done."""
        # the first step is mostly compilation and says nothing of the time left
        self._first = self._first or (step, time.monotonic())
        if self._bar is not None:
            self._bar.update()

    def compiling(self, what: str) -> None:
        """Says why nothing will be seen for a while; `first` ends it."""
        self.note(f"compiling {what} ...")
        self._begun = time.monotonic()

    def first(self, what: str, figures: str = "") -> None:
        """Says that the first `what` since `compiling` is done, and its figures."""
        seconds = time.monotonic() - self._begun
        self.note(f"first {what} after {seconds:.1f} s" + (f": {figures}" if figures else ""))

    def is_due(self) -> bool:
        """Whether nothing was said for a minute."""
        return time.monotonic() - self._said >= _SILENCE

    def note(self, text: str) -> None:
        """Says something that belongs to no step."""
        self._said = time.monotonic()
        if self._bar is not None:
            self._bar.write(text)
        else:
            print(text, flush=True)

    def show(self, step: int, text: str) -> None:
        """Shows the figures of `step`."""
        self._said = time.monotonic()
        if self._bar is not None:
            self._bar.set_postfix_str(text)
            return
        if self._first and step > self._first[0]:
            elapsed = time.monotonic() - self._first[1]
            left = elapsed / (step - self._first[0]) * (self._total - step)
            text += f"  {duration(left)} left"
        print(f"{self._unit} {step}/{self._total}  {text}", flush=True)


def duration(seconds: float) -> str:
    """Hours, minutes and seconds."""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}"
