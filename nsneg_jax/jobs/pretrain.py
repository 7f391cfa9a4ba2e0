"""The pre-training job: open the data, build or restore, loop, finish."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from nsneg_jax.errors import RunError, UsageError
from nsneg_jax.input.loading import Loaders, Steps, prefetch_to_devices
from nsneg_jax.input.pipeline import pretrain_batches
from nsneg_jax.input.sources.identity import Identity, check_same_data, identity
from nsneg_jax.input.sources.protocol import Source, has_classes, has_files
from nsneg_jax.input.splits import open_split
from nsneg_jax.jobs import build, opening
from nsneg_jax.jobs.knn import monitor, monitored
from nsneg_jax.jobs.opening import Resumption, Run, open_run
from nsneg_jax.jobs.validation import total_steps, validate_pretraining
from nsneg_jax.methods.batches import ViewMaker
from nsneg_jax.methods.method import Method
from nsneg_jax.methods.shuffling import Batch
from nsneg_jax.parallel import mesh
from nsneg_jax.parallel.watchdog import alive
from nsneg_jax.pretrained import DATASET
from nsneg_jax.report.pictures import save_views
from nsneg_jax.training.health import CollapseWatch, collapse, divergence
from nsneg_jax.training.metrics import MetricWriter, Window
from nsneg_jax.training.progress import Progress, Stopwatch
from nsneg_jax.training.signals import stopped
from nsneg_jax.training.step import (
    Placement,
    compile_step,
    crop_fields,
    is_finite,
    shuffle_orders,
    state_sharding,
)
from nsneg_jax.training.unreadable import UnreadableImages, listed
from nsneg_jax.training.workdir import VIEWS

_PICTURED_SAMPLES = 8


@dataclass(frozen=True)
class _Data:
    """The images, and how long to train on them.

    `queries` are classified by kNN during training, None without kNN; `notes` are lines for the
    user; `identities` are stored to recognise the data on resume; `steps_per_kept` lie between
    checkpoints that are kept, 0 for none.
    """

    source: Source
    textures: Source | None
    queries: Source | None
    notes: tuple[str, ...]
    identities: Mapping[str, Identity]
    steps_per_epoch: int
    steps_per_kept: int
    total: int


@dataclass
class _Training:
    """The method, its state, and the metrics that are not yet written."""

    method: Method
    placement: Placement
    state: Any
    window: Window
    start: int
    replaced: float  # samples of another image than the order's, until the window
    watch: CollapseWatch


def pretrain(
    config: ConfigDict,
    workdir: Path,
    devices: Sequence[jax.Device] | None = None,
    on_stop: Callable[[str], None] = print,
) -> Any:
    """Runs the pre-training of `config` in `workdir`; resumes from its latest checkpoint if any.

    Args:
        config: config of the job; see configs/.
        workdir: folder for checkpoints, metrics.jsonl, TensorBoard events and pictures.
        devices: devices to split the batch over, by default all.
        on_stop: called with a message if a signal stopped the run before its end.

    Returns:
        The state at the end, or where a signal stopped the run; it is saved in either case.

    Raises:
        UsageError: the config, the data or the earlier run in `workdir` does not fit.
        RunError: the loss is not finite, a checkpoint cannot be read, or the embeddings have
            collapsed and `on_collapse` is 'stop'.
    """
    computed = {"dtype": config.model.dtype, "precision": config.model.precision}
    run = open_run(config, workdir, devices, validate_pretraining, **computed)
    data = _open_data(config, workdir)
    with run.resumable(config.checkpoint.keep, data.steps_per_kept) as resumption:
        training = _build_or_restore(config, run, data, resumption)
        # Only now: a refused run must not leave its config behind.
        run.claim(resumption)
        _stop_if_collapsed(config, run, training, training.start)
        run.remove_results()  # of a collapse, after which the run now goes on
        print(_summary(config, run, data, training), flush=True)
        images = len(data.source) * (1 if data.textures is None else 2)
        fraction = config.data.max_bad_fraction
        unreadable = UnreadableImages(workdir, images, fraction, resumption.signals)
        done = _train(config, run, data, training, resumption, unreadable)
        _stop_if_collapsed(config, run, training, done)
    if len(unreadable):
        print(unreadable.summary(round(training.replaced)))
    if done < data.total:
        on_stop(stopped(resumption.signals.received, done, data.total))
        unreadable.check()
    else:
        print(f"done: {done} steps; checkpoints, metrics.jsonl and pictures are in {workdir}")
    return training.state


def _open_data(config: ConfigDict, workdir: Path) -> _Data:
    source, textures = open_split(config.data, config.data.split), None
    if "texture" in config.negatives.kind:
        source, textures = build.open_textures(config, source, workdir)
    steps_per_epoch = _steps_per_epoch(source, config.batch_size)
    queries, note = monitored(config, source) if config.knn_every_epochs else (None, "")
    longer = opening.about_queue(config.moco.queue_size, len(source))
    identities = {"data": identity(source)}
    if textures is not None and has_files(textures):
        identities["textures"] = identity(textures)
    return _Data(
        source=source,
        textures=textures,
        queries=queries,
        notes=tuple(text for text in (note, longer) if text),
        identities=identities,
        steps_per_epoch=steps_per_epoch,
        steps_per_kept=config.checkpoint.keep_every_epochs * steps_per_epoch,
        total=total_steps(config.epochs, steps_per_epoch, config.total_steps),
    )


def _build_or_restore(
    config: ConfigDict, run: Run, data: _Data, resumption: Resumption
) -> _Training:
    checkpoints, resumed = resumption.checkpoints, resumption.step
    if resumption.progress is not None:
        opening.check_same_model(config.model, resumption.progress, run.workdir)
    method, state = build.build(config, data.steps_per_epoch)
    placement = build.placement(config)
    state = mesh.put(state, state_sharding(method, run.devices, placement))
    negatives = method.views.num_negatives
    # Their weights let a query's own negatives win for long; five of them fill its top 5.
    choices = 1 + config.moco.queue_size + negatives if negatives < 5 else 0
    if resumed is None:
        watch = CollapseWatch(config.collapse_steps, choices)
        return _Training(method, placement, state, Window(), 0, 0, watch)
    alive(f"restoring the checkpoint of step {resumed}")
    state, progress = checkpoints.restore(resumed, state)
    for name, source in (("data", data.source), ("textures", data.textures)):
        if source is not None and name in data.identities:
            images = progress["images"] if name == "data" else None
            now, before = data.identities[name], progress.get(name)
            check_same_data(source, now, before, images, run.workdir, listed(run.workdir))
    if "official" in progress:
        print(opening.about_import(progress, config.batch_size, data.steps_per_epoch))
    window, replaced = Window(**progress["window"]), progress.get("replaced_samples", 0)
    watched = progress.get("collapse", {"at": resumed})
    watch = CollapseWatch(config.collapse_steps, choices, **watched)
    return _Training(method, placement, state, window, resumed, replaced, watch)


def _train(
    config: ConfigDict,
    run: Run,
    data: _Data,
    training: _Training,
    resumption: Resumption,
    unreadable: UnreadableImages,
) -> int:
    """Trains until the end or a signal; returns the steps done."""
    total, start, window = data.total, training.start, training.window
    train_step = compile_step(training.method, run.devices, training.placement)
    finite = jax.jit(is_finite)
    steps_per_knn = config.knn_every_epochs * data.steps_per_epoch
    read = partial(_batches, config, run, data, training.method.views, unreadable)
    batches = read(training.placement, start, total, give_up=resumption.signals.may_give_up)
    count = jax.jit(jnp.sum, out_shardings=mesh.replicated(run.devices))
    if data.queries is not None:
        encoder = training.method.encoder
        knn = monitor(config, data.source, data.queries, encoder, run.devices, unreadable)
    if start == 0 and config.pictures:
        batches = _with_pictures(run.workdir, training, batches, read)
    done = start

    def save(done: int, last: bool = False) -> None:
        if not finite(training.state):  # a finite loss may have an infinite gradient
            raise FloatingPointError(f"Parameters after step {done} are not finite")
        alive(f"saving the checkpoint of step {done}")
        progress = _progress(run.config, training, data)
        saves = resumption.checkpoints
        saves.save(done, training.state, progress, last=last, before=writer.sync)

    try:
        with MetricWriter(run.workdir, start) as writer, Progress(total, start) as display:
            stopwatch = Stopwatch(config.batch_size)
            if done < total:
                display.compiling("the step")
            while done < total:
                alive(f"waiting for the batch of step {done + 1}")
                try:
                    with stopwatch.waiting():
                        batch = next(batches, None)
                except Exception:
                    if done > start and jax.process_count() == 1:  # the others cannot save now
                        save(done, last=True)
                    raise
                if batch is None:  # stopped while waiting
                    save(done, last=True)
                    break
                alive(f"step {done + 1}{', with its compilation' if done == start else ''}")
                replaced = count(batch.pop("replaced"))
                training.state, metrics = train_step(training.state, batch)
                done += 1
                if done == start + 1:
                    display.first("step", f"loss {jax.device_get(metrics['loss']):.3f}")
                    stopwatch.restart()  # do not count compilation as speed
                else:
                    stopwatch.count_step()
                window.add(done, metrics | {"replaced_samples": replaced})
                display.advance(done)

                last = done == total
                stop = resumption.signals.stop_after(done)
                if last or done % config.log_every_steps == 0:
                    figures = window.take() | stopwatch.take()
                    training.replaced += figures["replaced_samples"]
                    writer.write(done, "train", figures)
                    display.show(done, _status(done, data, config.epochs, figures))
                    if found := training.watch.add(done, figures):
                        display.note(f"warning: {collapse(found)}")
                        stop |= config.on_collapse == "stop"
                elif display.is_due():
                    figures = window.means() | stopwatch.figures()
                    display.show(done, _status(done, data, config.epochs, figures))
                if data.queries is not None and done % steps_per_knn == 0:
                    with stopwatch.paused():
                        alive(f"kNN after step {done}")
                        figures = knn(training.state.params_q, training.state.stats_q)
                    writer.write(done, "val", figures)
                    display.show(done, f"kNN {figures['knn_20']:.2f} %")
                kept = data.steps_per_kept and done % data.steps_per_kept == 0
                due = kept or done % config.checkpoint.every_steps == 0
                if last or stop or due or resumption.checkpoints.failed():
                    save(done, last or stop)
                if stop:
                    break
    except FloatingPointError as error:
        resumption.checkpoints.failed(wait=True)
        raise RunError(divergence(error, resumption.checkpoints)) from error
    return done


def _stop_if_collapsed(config: ConfigDict, run: Run, training: _Training, done: int) -> None:
    """Ends a run that found a collapse and has `on_collapse` 'stop'; everything is saved."""
    found = training.watch.found
    if found is None or config.on_collapse != "stop":
        return
    path = run.write_results(
        {"job": "pretrain", "stopped": "collapse", "step": done, "collapse": found}
    )
    raise RunError(
        f"{collapse(found)} The run stopped after step {done}, with everything saved, because "
        f"on_collapse is 'stop'; {path} has the figures. --config.on_collapse=warn goes on."
    )


def _batches(
    config: ConfigDict,
    run: Run,
    data: _Data,
    views: ViewMaker,
    unreadable: UnreadableImages,
    placement: Placement,
    start: int,
    total: int,
    give_up: Callable[[], bool] = lambda: False,
) -> Iterator[Batch]:
    """Yields the batches start .. total - 1 on the devices, with 'replaced' bool [batch_size]."""
    batches = pretrain_batches(
        data.source,
        Steps(config.batch_size, start, total),
        Loaders(config.data.threads, config.data.workers, jax.process_index(), jax.process_count()),
        image_size=config.data.image_size,
        crop_scale=config.views.crop_scale,
        seed=config.seed,
        textures=data.textures,
        shuffle=shuffle_orders(views, config.batch_size) if placement.arranged else None,
        on_unreadable=unreadable,
    )
    fields = (*crop_fields(views, placement), "replaced")
    return prefetch_to_devices(batches, mesh.split_batch(run.devices), fields, give_up=give_up)


def _with_pictures(
    workdir: Path,
    training: _Training,
    batches: Iterator[Batch],
    read: Callable[[Placement, int, int], Iterator[Batch]],
) -> Iterator[Batch]:
    """Yields the batches; writes a grid of the first batch's views before it."""
    for step, batch in enumerate(batches):
        if step == 0:
            pictured = batch
            if training.placement.arranged:  # one place then holds crops of different samples
                pictured = next(read(Placement(), 0, 1))
            crops = {name: crop for name, crop in pictured.items() if name != "replaced"}
            _save_first_views(training.method.views, crops, workdir)
        yield batch


def _steps_per_epoch(source: Source, batch_size: int) -> int:
    if len(source) < batch_size:
        raise UsageError(
            f"{source.name} has {len(source)} images, fewer than one batch of {batch_size}. "
            "Set a smaller --config.batch_size or use more images."
        )
    return len(source) // batch_size


def _progress(fields: Mapping[str, Any], training: _Training, data: _Data) -> dict[str, Any]:
    """Returns what a checkpoint stores besides the state, so that it needs no config to be used."""
    return {
        "config": fields,
        "window": training.window.totals(),
        "replaced_samples": training.replaced,
        "collapse": training.watch.totals(),
        "images": len(data.source),
        **data.identities,
        "dataset": {name: fields["data"][name] for name in DATASET},
        "image_size": fields["data"]["image_size"],
        "resize": fields["data"]["resize"],
        "seed": fields["seed"],
        "model": fields["model"],
        "batch_size": fields["batch_size"],
        "negatives": training.method.views.num_negatives,
        "optimizer": fields["optimizer"],
    }


def _save_first_views(make_views: ViewMaker, batch: Batch, workdir: Path) -> None:
    if jax.process_index() != 0:
        return
    # Process 0 holds the first places of the global batch, so a short batch gets the same draws.
    first = {
        name: jnp.asarray(crops.addressable_shards[0].data[:_PICTURED_SAMPLES])
        for name, crops in batch.items()
    }
    views = jax.jit(make_views)(0, first)
    save_views(jax.device_get(views), workdir / VIEWS)


def _summary(config: ConfigDict, run: Run, data: _Data, training: _Training) -> str:
    source, devices = data.source, run.devices
    parameters = sum(leaf.size for leaf in jax.tree.leaves(training.state.params_q))
    kind = devices.devices.flat[0].device_kind
    classes = f"{len(source.classes):,} classes" if has_classes(source) else "no classes"
    lines = [
        f"data     {source.name}: {len(source):,} images, {classes}",
        f"encoder  {config.model.arch}, {parameters:,} parameters, {config.model.dtype}",
        f"devices  {devices.size} x {kind}, batch {config.batch_size} in "
        f"{config.model.bn_groups} batch-norm groups",
        f"steps    {data.total:,}, {data.steps_per_epoch:,} per epoch"
        + (f"; {training.start:,} done before" if training.start else ""),
        *(f"note     {note}" for note in data.notes),
    ]
    return "\n".join(lines)


def _status(done: int, data: _Data, epochs: int, figures: dict[str, float]) -> str:
    text = (
        f"epoch {1 + (done - 1) // data.steps_per_epoch}/{epochs}"
        f"  loss {figures['loss']:.3f}"
        f"  contrast top-1 {figures['accuracy_top1']:.1f} %"
    )
    if "images_per_second" in figures:
        text += f"  {figures['images_per_second']:.3g} images/s"
    return text
