"""What a pre-training says of itself: at its start, with what to consider, and at its end."""

import math
import shlex
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from nsneg_jax import models
from nsneg_jax.files import json_lines
from nsneg_jax.input.sources.protocol import has_classes
from nsneg_jax.jobs import opening
from nsneg_jax.jobs.opening import Run
from nsneg_jax.jobs.pretraining.data import Data
from nsneg_jax.jobs.pretraining.following import accuracies, speed
from nsneg_jax.jobs.pretraining.state import Training
from nsneg_jax.methods import siamese
from nsneg_jax.methods.negatives import parse
from nsneg_jax.training.described import of_two_views
from nsneg_jax.training.workdir import CHECKPOINTS, METRICS, TENSORBOARD, VIEWS

_WIDTH = 80
_LABEL = 9  # columns of a line's first word

# Images of a batch-norm group below which its statistics are noisy: Wu and He (2018), figure 1,
# has the error of batch norm rise below 16 images.
_SMALL_GROUP = 16
# Batch sizes of the recipes by their learning rates.
_RECIPES = {0.8: 512, 0.03: 128, 0.12: 96}
_DEMO_STEPS = 1230  # of `make demo`
_FEW_STEPS = 500
_LEFT_OUT = 0.1  # part of the images that no batch of an epoch has
_LARGE_VIEW = 96  # pixels from which a CPU takes days


def at_start(config: ConfigDict, run: Run, data: Data, training: Training) -> str:
    """Returns what a run trains, on what and where, and what to consider, as lines."""
    devices = run.devices
    kind = devices.devices.flat[0].device_kind
    parameters = sum(leaf.size for leaf in jax.tree.leaves(training.state.params_q))
    source, batch, groups = data.source, config.batch_size, config.model.bn_groups
    classes = f"{len(source.classes):,} classes" if has_classes(source) else "no classes"
    sizes = f"{batch // groups} images in each of {groups}" if groups > 1 else f"{batch} images"
    norm = f", batch norm over {sizes}" if models.has_batch_norm(**config.model) else ""
    optimizer = config.optimizer
    parts = f", queries in {optimizer.accumulate} parts" if optimizer.accumulate > 1 else ""
    warmup = f", {optimizer.warmup_epochs} epochs of warm-up" if optimizer.warmup_epochs else ""
    before = f"; {training.start:,} done before" if training.start else ""
    lines = [
        ("data", f"{source.name}: {len(source):,} images, {classes}"),
        ("encoder", f"{config.model.arch}, {parameters:,} parameters, {config.model.dtype}"),
        *(
            [("started" if training.start else "starts", f"from {training.origin}")]
            if training.origin
            else []
        ),
        ("method", _method(config, training)),
        ("devices", f"{devices.size} x {kind}, batch {batch}{parts}{norm}"),
        ("rate", f"{optimizer.learning_rate:g}, {optimizer.schedule}{warmup}, {optimizer.name}"),
        ("steps", f"{data.total:,}, {data.steps_per_epoch:,} per epoch{before}"),
        ("measured", _measured(data)),
        ("files", str(run.workdir) + (f"; {config.log.to}" if config.log.to else "")),
    ]
    if data.measured is not None and data.measured.note:
        lines.append(("note", data.measured.note))
    lines += [("consider", text) for text in considerations(config, run, data)]
    return "\n".join(_line(label, text) for label, text in lines)


def considerations(config: ConfigDict, run: Run, data: Data) -> Iterator[str]:
    """Yields what is allowed, but often not meant, with the fields to change."""
    batch, groups, images = config.batch_size, config.model.bn_groups, len(data.source)
    if groups > 1 and batch // groups < _SMALL_GROUP and models.has_batch_norm(**config.model):
        most = _groups_of_size(batch, groups)
        yield (
            f"a batch-norm group has {batch // groups} images, whose statistics are noisy: "
            f"--config.model.bn_groups={most} gives {batch // most}"
        )
    rate = config.optimizer.learning_rate
    recipe = _RECIPES.get(rate)
    if config.pretrained and config.optimizer.name == "sgd" and recipe:
        yield (
            f"the learning rate {rate:g} is a recipe's, for initial weights: a tenth of it, "
            f"--config.optimizer.learning_rate={rate / 10:g}, keeps more of what trained ones hold"
        )
    elif config.optimizer.name == "sgd" and recipe not in (None, batch):
        yield (
            f"the learning rate {rate:g} is that of batches of {recipe}: scaled to {batch} it is "
            f"--config.optimizer.learning_rate={rate * batch / recipe:.3g}"
        )
    longer = opening.about_queue(config.moco.queue_size, images)
    if longer and config.method not in siamese.NAMES:  # these have no queue
        yield longer
    left = images % batch
    if left > _LEFT_OUT * images:
        yield (
            f"each epoch leaves out {left:,} of the {images:,} images, which fill no batch: a "
            "smaller --config.batch_size leaves out fewer"
        )
    steps = config.epochs * data.steps_per_epoch
    if not config.total_steps and steps < _FEW_STEPS:
        yield (
            f"{steps:,} steps are few (`make demo` has {_DEMO_STEPS:,}): with {images:,} images "
            f"--config.epochs={math.ceil(_DEMO_STEPS / data.steps_per_epoch):,} gives as many"
        )
    device = run.devices.devices.flat[0]
    if device.platform == "cpu" and config.data.image_size >= _LARGE_VIEW:
        yield (
            "JAX has found no GPU or TPU, and views of this size take long without: "
            "docs/launching.md says how to install JAX for one"
        )


def _groups_of_size(batch: int, groups: int) -> int:
    """Returns the most groups, up to a number, that are not small; 1 if there are none."""
    fit = (n for n in range(groups, 1, -1) if batch % n == 0 and batch // n >= _SMALL_GROUP)
    return next(fit, 1)


def at_end(config: ConfigDict, workdir: Path, done: int) -> str:
    """Returns what a run has reached, where its files are and what to do next, as lines."""
    last = _last_figures(workdir / METRICS)
    results = []
    if "loss" in last:
        results.append(f"loss {last['loss']:.3f}")
    if "accuracy_top1" in last:
        results.append(f"contrast {last['accuracy_top1']:.1f} %")
    results += accuracies(last)
    if "images_per_second" in last:
        results.append(speed(last))
    files = [f"{CHECKPOINTS}/{done}", METRICS, TENSORBOARD]
    files += [VIEWS] if (workdir / VIEWS).exists() else []
    lines = [f"done: {done} steps; checkpoints, {METRICS} and pictures are in {workdir}"]
    if results:
        lines.append(_line("results", ", ".join(results)))
    lines.append(_line("files", ", ".join(files)))
    lines += [f"{'next' if i == 0 else '':{_LABEL}}{command}"
              for i, command in enumerate(_next_commands(config, workdir))]  # fmt: skip
    return "\n".join(lines)


def _method(config: ConfigDict, training: Training) -> str:
    if config.method not in ("moco", *siamese.NAMES):
        return config.method
    negatives, kind = config.negatives, config.negatives.kind
    more = sum(part.count for part in parse(negatives.more))
    count = training.method.views.num_negatives - more
    own = []
    if count:
        own.append(f"{count} {kind} negative{'s' * (count > 1)} per image")
        own.append(f"alpha {negatives.alpha:g}")
    own += [f"negatives {negatives.more}"] if more else []
    loss = f", {config.loss.name}" if config.loss.name != "infonce" else ""
    mixing = config.mochi
    if mixing.pairs or mixing.with_query:
        loss += f", MoCHi ({mixing.hardest}, {mixing.pairs}, {mixing.with_query})"
    settings = of_two_views(config) or (
        f"queue {config.moco.queue_size:,}, momentum {config.moco.momentum:g}, temperature "
        f"{config.moco.temperature:g}"
    )
    return f"{config.method}, {', '.join(own) or 'no non-semantic negatives'}; {settings}{loss}"


def _measured(data: Data) -> str:
    measured = data.measured
    if measured is None:
        return "nothing during the training (knn_every_epochs=0)"
    epochs = measured.every // data.steps_per_epoch
    of = measured.queries.name if measured.bank is not None else "training images"
    few = len(measured.queries)
    when = f"every {epochs} epochs and after the last one" if epochs > 1 else "after each epoch"
    return f"{measured.names} of {few:,} images ({of}) {when}"


def _last_figures(path: Path) -> dict[str, float]:
    """Returns the last value of each figure in metrics.jsonl; {} if it cannot be read."""
    found: dict[str, float] = {}
    for line in json_lines(path):
        found |= {k: v for k, v in line.items() if isinstance(v, int | float)}
    return found


def _next_commands(config: Mapping[str, Any], workdir: Path) -> Iterator[str]:
    """Yields the commands that follow a pre-training, in the form of this one."""
    program = Path(sys.argv[0]).name
    run, probe = shlex.quote(str(workdir)), shlex.quote(f"{workdir}-linear")
    built_in = str(config["data"]["source"]).startswith("shapes")
    variant = ":tiny" if built_in else ""
    if program == "main.py":
        job, command = f"python main.py --config=configs/linear.py{variant}", "python -m nsneg_jax"
    else:
        command = "nsneg" if program == "nsneg" else "python -m nsneg_jax"
        job = f"{command} linear --config=linear{variant}"
    yield f"{job} --config.pretrained={run} --workdir={probe}"
    yield f"{command} report {run} --html {shlex.quote(str(workdir / 'report.html'))}"


def _line(label: str, text: str) -> str:
    """Returns a labelled line, folded at the width of a terminal."""
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=f"{label:{_LABEL}}",
        subsequent_indent=" " * _LABEL,
        break_on_hyphens=False,
        break_long_words=False,
    )
