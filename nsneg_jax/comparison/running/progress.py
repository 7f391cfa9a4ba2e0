"""Shows the progress of many runs, from the files that they write."""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from nsneg_jax.comparison.running.chains import Link
from nsneg_jax.files import json_objects
from nsneg_jax.training.progress import duration
from nsneg_jax.training.workdir import METRICS

_SHOW_EVERY = 20.0  # seconds between the lines of a log file
_LAST_BYTES = 4096  # bytes to read for the last lines of metrics.jsonl


class Stage(NamedTuple):
    """A command of a run, and how to measure its progress.

    Attributes:
        link: the command.
        workdir: folder that it writes into.
        share: fraction of the run's time.
        total: number of its steps or epochs; None if it has no metrics.jsonl.
    """

    link: Link
    workdir: Path
    share: float
    total: int | None

    def fraction(self) -> float:
        """Returns the finished fraction, 0 to 1."""
        if self.link.done():
            return 1.0
        latest = last_figures(self.workdir / METRICS)
        if self.total is None or not latest:
            return 0.0
        return min(1.0, latest.get("epoch", latest["step"]) / self.total)

    def status(self) -> str:
        """Returns its status in few words."""
        latest = last_figures(self.workdir / METRICS)
        words = [self.link.name]
        if latest and self.total is not None:
            words.append(f"{round(100 * self.fraction())} %")
        if "loss" in latest:
            words.append(f"loss {latest['loss']:.2f}")
        if "knn_20" in latest:
            words.append(f"kNN {latest['knn_20']:.1f} %")
        return " ".join(words)


def last_figures(path: Path) -> dict[str, Any]:
    """Returns the latest value by name in the last lines of a metrics.jsonl; {} if none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _LAST_BYTES))
            lines = file.read().decode(errors="replace")
    except FileNotFoundError:
        return {}
    figures: dict[str, Any] = {}
    for line in json_objects(lines):  # the first and the last line may be incomplete
        figures |= line
    return figures


class RunsProgress:
    """A progress bar over all runs on a terminal; elsewhere an occasional line.

    Args:
        stages: stages by name of the run.
        processes: runs at a time.
    """

    def __init__(self, stages: Mapping[str, Sequence[Stage]], processes: int) -> None:
        self._stages = stages
        self._processes = processes
        self._start = time.monotonic()
        self._before = self._fraction()
        self._shown = self._start
        self._bar = None
        if sys.stderr.isatty():
            form = "{percentage:3.0f}% |{bar}| {postfix}"
            self._bar = tqdm(total=1.0, bar_format=form, dynamic_ncols=True)

    def __enter__(self) -> "RunsProgress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def look(self) -> None:
        """Shows the progress, if it was last shown long enough ago."""
        now = time.monotonic()
        if now - self._shown < (1.0 if self._bar is not None else _SHOW_EVERY):
            return
        self._shown = now
        fraction = self._fraction()
        text = "; ".join(stage.status() for stage in self._running())
        gained = fraction - self._before
        if gained > 0.002:
            left = (now - self._start) * (1 - fraction) / gained
            text = f"{duration(left)} left  {text}"
        if self._bar is not None:
            self._bar.n = fraction
            self._bar.set_postfix_str(text)
            return
        print(f"{100 * fraction:.0f} %  {text}", flush=True)

    def _running(self) -> list[Stage]:
        begun = [
            next(stage for stage in stages if not stage.link.done())
            for stages in self._stages.values()
            if not all(stage.link.done() for stage in stages)
        ]
        return begun[: self._processes]

    def _fraction(self) -> float:
        shares = [
            sum(stage.share * stage.fraction() for stage in stages)
            for stages in self._stages.values()
        ]
        return sum(shares) / len(shares)
