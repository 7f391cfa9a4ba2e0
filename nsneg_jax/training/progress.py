"""How far a run is and how fast: the line on the terminal, and a stopwatch of its steps."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import jax
from tqdm import tqdm

_SILENCE = 60.0  # seconds at most without a line


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
