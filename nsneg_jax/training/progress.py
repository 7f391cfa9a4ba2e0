"""Shows how far and how fast a run is: a line on the terminal, and a stopwatch for its steps."""

import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import jax
from tqdm import tqdm

from nsneg_jax.parallel.watchdog import alive

_SILENCE = 60.0  # seconds at most without a line
_WIDTH = 80  # columns of a line at most


class Stopwatch:
    """Measures the speed of steps since the last `take`, and the fraction of time without input."""

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        self.restart()

    def restart(self) -> None:
        self._start = time.monotonic()
        self._waited = 0.0
        self._steps = 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the enclosed time as waiting for a batch."""
        start = time.monotonic()
        yield
        self._waited += time.monotonic() - start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the enclosed work out of the time of the steps."""
        start = time.monotonic()
        yield
        self._start += time.monotonic() - start

    def count_step(self) -> None:
        self._steps += 1

    def take(self) -> dict[str, float]:
        """Returns `figures` and restarts."""
        figures = self.figures()
        self.restart()
        return figures

    def figures(self) -> dict[str, float]:
        """Returns images_per_second and input_wait_fraction (0..1) so far; {} before any step."""
        if not self._steps:
            return {}
        elapsed = time.monotonic() - self._start
        return {
            "images_per_second": self._steps * self._batch_size / elapsed,
            "input_wait_fraction": self._waited / elapsed,
        }


class Progress:
    """Says how far a loop is: a line per `show`, and on a terminal a bar below these lines.

    No line is longer than 80 columns, or the terminal if that is narrower. Without a terminal, as
    in a log file, there is no bar. A loop that checks `is_due` per step is silent for at most a
    minute and one step.

    Args:
        total: steps of the whole run.
        done: steps done before this start.
        unit: name of a step.
    """

    def __init__(self, total: int, done: int, unit: str = "step"):
        self._total = total
        self._unit = unit
        self._first: tuple[int, float] | None = None
        self._said = self._begun = time.monotonic()
        self._bar = None
        if sys.stderr.isatty() and jax.process_index() == 0:
            self._bar = tqdm(
                total=total,
                initial=done,
                unit=unit,
                dynamic_ncols=True,
                leave=None,  # clears a bar nested in another
                # What does not fit is cut on the right, so the figures come first.
                bar_format=f"{unit} {{n_fmt}}/{{total_fmt}}{{postfix}} {{bar}} {{remaining}} left",
            )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, step: int) -> None:
        """Reports that step `step` is done."""
        alive(f"what follows {self._unit} {step} of {self._total}")
        # The first step is mostly compilation, so it does not count towards the time left.
        self._first = self._first or (step, time.monotonic())
        if self._bar is not None:
            self._bar.update()

    def compiling(self, what: str) -> None:
        """Reports a compilation, during which nothing else is shown; `first` ends it."""
        self.note(f"compiling {what} ...")
        alive(f"compiling {what}")
        self._begun = time.monotonic()

    def first(self, what: str, figures: str = "") -> None:
        """Reports that the first `what` since `compiling` is done, with its time and figures."""
        seconds = time.monotonic() - self._begun
        self.note(f"first {what} after {seconds:.1f} s" + (f": {figures}" if figures else ""))

    def is_due(self) -> bool:
        """Returns whether nothing was shown for a minute."""
        return time.monotonic() - self._said >= _SILENCE

    def note(self, text: str) -> None:
        """Shows a line that belongs to no step."""
        self._said = time.monotonic()
        if self._bar is not None:
            self._bar.write(text)
        else:
            print(text, flush=True)

    def show(self, step: int, *figures: str, in_bar: bool = True) -> None:
        """Adds a line with the figures of `step`.

        Args:
            step: the step.
            figures: texts, the most important first; the last ones are left out if there is no
                room, the first never.
            in_bar: whether the bar takes the first one.
        """
        line = self._line(step, figures)
        if self._bar is not None and in_bar:
            self._bar.set_postfix_str(figures[0], refresh=False)
        self.note(line)

    def refresh(self, step: int, *figures: str) -> None:
        """Does `show` for figures that need no line of their own where there is a bar."""
        if self._bar is None:
            self.show(step, *figures)
            return
        self._said = time.monotonic()
        self._bar.set_postfix_str(figures[0])

    def _line(self, step: int, figures: Sequence[str]) -> str:
        head = f"{self._unit} {step}/{self._total}"
        left = []
        if self._first and step > self._first[0]:
            elapsed = time.monotonic() - self._first[1]
            seconds = elapsed / (step - self._first[0]) * (self._total - step)
            left = [f"{duration(seconds)} left"]
        shown = list(figures)
        while True:
            line = "  ".join((head, *shown, *left))
            if len(line) <= _columns() or len(shown) <= 1:
                return line
            shown.pop()


def warn(text: str) -> None:
    """Prints a warning on standard error, above the bar if there is one. Thread-safe."""
    tqdm.write(f"warning: {text}", file=sys.stderr)
    sys.stderr.flush()


def duration(seconds: float) -> str:
    """Formats seconds as H:MM:SS."""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}"


def _columns() -> int:
    if not sys.stdout.isatty():
        return _WIDTH
    return min(_WIDTH, shutil.get_terminal_size((_WIDTH, 24)).columns)
