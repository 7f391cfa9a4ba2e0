"""All that a pre-training writes and shows of itself while it runs."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
from ml_collections import ConfigDict

from nsneg_jax.jobs.opening import Run
from nsneg_jax.jobs.pretraining.data import Data
from nsneg_jax.jobs.pretraining.measures import monitor
from nsneg_jax.jobs.pretraining.state import Training
from nsneg_jax.methods.shuffling import Batch
from nsneg_jax.parallel.watchdog import alive
from nsneg_jax.training.described import section_of
from nsneg_jax.training.health import collapse
from nsneg_jax.training.metrics import MetricWriter
from nsneg_jax.training.progress import Progress, Stopwatch
from nsneg_jax.training.unreadable import UnreadableImages


class Following:
    """Watches a training from step to step; nothing here changes what a step computes.

    Args:
        config: config of the job.
        run: the run.
        data: its images.
        training: its state; the figures of its steps are added to the window there.
        unreadable: collects the images that cannot be read.
        summary: what the run said of itself at its start.
    """

    def __init__(
        self,
        config: ConfigDict,
        run: Run,
        data: Data,
        training: Training,
        unreadable: UnreadableImages,
        summary: str,
    ) -> None:
        self._config, self._data, self._training = config, data, training
        self._start = training.start
        self._writer = MetricWriter(
            run.workdir, self._start, config.log.to, config.log.project, run.config
        )
        self._display = Progress(data.total, self._start)
        self._stopwatch = Stopwatch(config.batch_size)
        self._measure: Callable[[Any, Any], dict[str, float]] | None = None
        if data.measured is not None:
            encoder = training.method.encoder
            self._measure = monitor(config, data.measured, encoder, run.devices, unreadable)
        self._writer.text(self._start, "summary", _verbatim(summary))

    def __enter__(self) -> "Following":
        if self._start < self._data.total:
            self._display.compiling("the step")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._display.__exit__(kind, error, trace)
        self._writer.__exit__(kind, error, trace)

    def picture(self, path: Path) -> None:
        """Adds the picture of the first views."""
        self._writer.picture(self._start, "views", path)

    def sync(self) -> None:
        """Waits until the disk has all lines of metrics.jsonl, see `MetricWriter`."""
        self._writer.sync()

    def next(self, batches: Iterator[Batch], step: int) -> Batch | None:
        """Returns the batch of a step; None if the run is to stop while it waits."""
        alive(f"waiting for the batch of step {step}")
        with self._stopwatch.waiting():
            batch = next(batches, None)
        first = ", with its compilation" if step == self._start + 1 else ""
        alive(f"step {step}{first}")
        return batch

    def stepped(self, done: int, metrics: Mapping[str, jax.Array]) -> None:
        """Adds the metrics of a step, scalars on the devices."""
        if done == self._start + 1:
            self._display.first("step", f"loss {jax.device_get(metrics['loss']):.3f}")
            self._stopwatch.restart()  # do not count compilation as speed
        else:
            self._stopwatch.count_step()
        self._training.window.add(done, dict(metrics))
        self._display.advance(done)

    def report(self, done: int) -> bool:
        """Writes and shows the figures that are due; returns whether a collapse stops the run."""
        stop, config = False, self._config
        if done == self._data.total or done % config.log_every_steps == 0:
            figures = self._training.window.take() | self._stopwatch.take()
            self._training.replaced += figures["replaced_samples"]
            self._writer.write(done, "train", figures)
            self._display.show(done, *self._status(done, figures))
            if found := self._training.watch.add(done, figures):
                section = section_of(config.method)
                self._display.note(f"warning: {collapse(found, section)}")
                stop = config.on_collapse == "stop"
        elif self._display.is_due():
            figures = self._training.window.means() | self._stopwatch.figures()
            self._display.refresh(done, *self._status(done, figures))
        measured = self._data.measured
        if measured is not None and self._measure is not None and measured.is_due(done):
            with self._stopwatch.paused():
                alive(f"kNN, probe and rank after step {done}")
                state = self._training.state
                figures = self._measure(state.params_q, state.stats_q)
            self._writer.write(done, "val", figures)
            self._display.show(done, *accuracies(figures), in_bar=False)
        return stop

    def _status(self, done: int, figures: Mapping[str, float]) -> list[str]:
        epoch = 1 + (done - 1) // self._data.steps_per_epoch
        shown = [f"loss {figures['loss']:.3f}"]
        if "accuracy_top1" in figures:  # a method of the user's may have none
            shown.append(f"contrast {figures['accuracy_top1']:.1f} %")
        if "images_per_second" in figures:
            shown.append(speed(figures))
        return [*shown, f"epoch {epoch}/{self._config.epochs}"]


def speed(figures: Mapping[str, float]) -> str:
    """Returns the images per second of some figures as a text."""
    images = figures["images_per_second"]
    return f"{images:,.0f} images/s" if images >= 10 else f"{images:.2g} images/s"


def accuracies(figures: Mapping[str, float]) -> list[str]:
    """Returns the figures of a measurement as texts, the most important first."""
    known = {
        "knn_20": "kNN {:.1f} %",
        "probe_top1": "probe {:.1f} %",
        "rankme": "RankMe {:.1f}",
        "feature_std": "deviation {:.2f}",
    }
    return [text.format(figures[name]) for name, text in known.items() if name in figures]


def _verbatim(text: str) -> str:
    """Returns a text as Markdown that keeps its lines."""
    return "\n".join(f"    {line}" for line in text.splitlines())
