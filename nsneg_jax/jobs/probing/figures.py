"""What a linear probe reports: lines of progress, metrics and results."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from nsneg_jax.jobs.frozen import FinetuneSettings, ProbeSettings
from nsneg_jax.jobs.opening import Run
from nsneg_jax.methods import probe
from nsneg_jax.report.rows import has_top5

Figures = dict[str, list[float]]  # a figure per learning rate, by name


def described(model: dict[str, Any]) -> str:
    """Names a network and its width if that is not the usual one."""
    return model["arch"] + (f" of width {model['width']}" if model["width"] != 64 else "")


def encoder_name(settings: ProbeSettings | FinetuneSettings, origin: str) -> str:
    """Names the encoder of a run's results: where it came from, and what was done to it."""
    if isinstance(settings, FinetuneSettings):
        return f"{origin}, fine-tuned on {settings.data.split}"
    return origin


def by_rate(figures: Figures, rates: Sequence[float]) -> dict[str, float]:
    """Names figures for metrics.jsonl; with several rates, each name ends with its rate."""
    if len(rates) == 1:
        return {name: values[0] for name, values in figures.items()}
    return {
        f"{name}/lr_{rate:g}": value
        for name, values in figures.items()
        for rate, value in zip(rates, values, strict=True)
    }


def status(
    epoch: int, settings: ProbeSettings | FinetuneSettings, figures: dict[str, Figures]
) -> tuple[str, ...]:
    """Returns the figures of an epoch, of the best learning rate if there are several."""
    train, val = figures["train"], figures["val"]
    best = int(np.argmax(val["accuracy_top1"]))
    rates = settings.learning_rates
    return (
        f"loss {train['loss'][best]:.3f}",
        f"validation top-1 {val['accuracy_top1'][best]:.1f} %",
        f"epoch {epoch}/{settings.epochs}",
        *([f"at learning rate {rates[best]:g}"] if len(rates) > 1 else []),
    )


def lowest_loss(figures: Figures) -> str:
    """Formats the lowest loss of all learning rates, for a line between two epochs."""
    return f"loss {np.nanmin([*figures['loss'], math.inf]):.3f}"


def results_of(
    settings: ProbeSettings | FinetuneSettings, state: probe.ProbeState, progress: dict[str, Any]
) -> dict[str, Any]:
    """Returns the contents of results.json of a finished training.

    Args:
        settings: settings of the job.
        state: state at the end.
        progress: what the checkpoint keeps beside the state.
    """
    best = jax.device_get((state.best_accuracy, state.best_epoch))
    probes = [
        {
            "learning_rate": rate,
            **{name: plain(values[i]) for name, values in progress["last"].items()},
            "best_accuracy_top1": round(float(best[0][i]), 4),
            "best_epoch": int(best[1][i]),
        }
        for i, rate in enumerate(settings.learning_rates)
    ]
    chosen = probes[progress["chosen"]]
    about = {
        "job": "finetune" if isinstance(settings, FinetuneSettings) else "linear",
        "encoder": progress["encoder"],
        "encoder_seed": progress.get("encoder_seed"),
        "classes": len(progress["classes"]),
    }
    if isinstance(settings, FinetuneSettings):
        names = ("accuracy_top1", "accuracy_top5", "learning_rate")
        return about | {name: chosen[name] for name in names}
    return {
        **about,
        "accuracy_top1": chosen["accuracy_top1"],
        "accuracy_top5": chosen["accuracy_top5"],
        "best_accuracy_top1": chosen["best_accuracy_top1"],
        "learning_rate": chosen["learning_rate"],
        "probes": probes,
    }


def finish(run: Run, results: dict[str, Any]) -> None:
    """Writes results.json and prints the figures."""
    path = run.write_results(results)
    for each in results.get("probes", [results]):
        rate = f"lr {each['learning_rate']:g}: " if "learning_rate" in each else ""
        best = ""
        if "best_epoch" in each:
            best = f", best {each['best_accuracy_top1']:.2f} % in epoch {each['best_epoch']}"
        top5 = f", top-5 {each['accuracy_top5']:.2f} %" if has_top5(results.get("classes")) else ""
        print(f"{rate}top-1 {each['accuracy_top1']:.2f} %{top5}{best}")
    print(f"done: {results['validation_images']:,} images counted; {path}")


def plain(value: float | None) -> float | None:
    """Returns a number that JSON has; None for infinity and NaN."""
    return value if value is not None and math.isfinite(value) else None
