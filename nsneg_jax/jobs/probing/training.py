"""Trains classifiers on an encoder, frozen or not: the loop of the jobs linear and finetune."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from nsneg_jax.evaluation.passes import Evaluation, means
from nsneg_jax.input import labelled
from nsneg_jax.input.loading import Steps, prefetch_to_devices
from nsneg_jax.input.sources.identity import check_same_data, identity
from nsneg_jax.input.sources.protocol import Source
from nsneg_jax.input.splits import check_pair, open_labelled
from nsneg_jax.jobs.frozen import FinetuneSettings, ProbeSettings
from nsneg_jax.jobs.opening import Run
from nsneg_jax.jobs.probing import figures as report
from nsneg_jax.jobs.probing.checks import check_frozen, check_some_finite
from nsneg_jax.jobs.validation import total_steps
from nsneg_jax.methods import probe
from nsneg_jax.parallel import mesh
from nsneg_jax.pretrained import DATASET, Pretrained, load_pretrained
from nsneg_jax.training.metrics import MetricWriter
from nsneg_jax.training.progress import Progress
from nsneg_jax.training.signals import stopped
from nsneg_jax.training.unreadable import UnreadableImages, listed

Settings = ProbeSettings | FinetuneSettings


class Protocol(NamedTuple):
    """What differs between a linear probe and fine-tuning.

    Attributes:
        purpose: the job's name, to begin a message with.
        verb: what is done to the encoder.
        build: makes method and initial state from settings, encoder, steps per epoch and classes.
        compile_steps: compiles the training step and the end of an epoch.
        is_frozen: whether no value of the encoder may change.
    """

    purpose: str
    verb: str
    build: Callable[[Any, Pretrained, int, int], tuple[probe.Probe, probe.ProbeState]]
    compile_steps: Callable[[Any, Mesh], tuple[jax.stages.Wrapped, jax.stages.Wrapped]]
    is_frozen: bool


def train_classifiers(
    protocol: Protocol,
    run: Run,
    settings: Settings,
    validation: Source,
    on_stop: Callable[[str], None],
) -> probe.ProbeState:
    """Trains the classifiers of a run, and writes its files.

    Args:
        protocol: linear probe or fine-tuning.
        run: the run, opened.
        settings: its settings, with all values set.
        validation: images that are evaluated after each epoch.
        on_stop: called with a message if a signal stopped the run before its end.

    Returns:
        The state at the end, or where a signal stopped the run.

    Raises:
        UsageError: the encoder, the data or the earlier run do not fit.
        RunError: a value of a frozen encoder has changed, no classifier's loss is finite, features
            or logits of an evaluation are not finite, or a checkpoint cannot be read.
    """
    reading, workdir = settings.reading, run.workdir
    training = open_labelled(settings.data, settings.data.split, protocol.purpose)
    check_pair(training, validation)
    steps_per_epoch = labelled.steps_per_pass(len(training), reading.batch_size)
    total = total_steps(settings.epochs, steps_per_epoch)

    with run.resumable(keep=2) as resumption:
        checkpoints, signals, resumed = resumption.checkpoints, resumption.signals, resumption.step
        # The probe's checkpoint holds the encoder too; the run it came from may be gone by now.
        path = settings.pretrained if resumed is None else workdir
        pretrained = load_pretrained(path, run.dtype, run.precision)
        method, state = protocol.build(settings, pretrained, steps_per_epoch, len(training.classes))
        state = mesh.put(state, mesh.replicated(run.devices))
        progress: dict[str, Any] = {
            "config": run.config,
            "model": pretrained.model,
            "classes": list(training.classes),
            "encoder": report.encoder_name(settings, pretrained.encoder_origin),
            "encoder_seed": pretrained.encoder_seed,
            "images": len(training),
            "data": identity(training),
            "validation": identity(validation),
            "dataset": {name: getattr(settings.data, name) for name in DATASET},
            "image_size": reading.image_size,
            "resize": reading.resize,
            "chosen": 0,
            "last": {},
        }
        if resumed is not None:
            now = progress
            state, progress = checkpoints.restore(resumed, state)
            images = progress["images"]
            bad = listed(workdir)
            check_same_data(training, now["data"], progress.get("data"), images, workdir, bad)
            check_same_data(
                validation, now["validation"], progress.get("validation"), None, workdir, bad
            )
            progress |= {name: now[name] for name in ("config", "data", "validation", "dataset")}
        run.claim(resumption)
        before = jax.device_get(state.backbone) if protocol.is_frozen else {}
        done = start = resumed or 0
        sizes = f"{len(training):,} training and {len(validation):,} validation images"
        network = f"{report.described(pretrained.model)}, {protocol.verb}"
        print(f"encoder  {pretrained.encoder_origin}: {network}")
        print(f"data     {training.name}: {sizes}, {len(training.classes):,} classes")
        run.print_views(validation)
        print(f"steps    {total:,}, {steps_per_epoch:,} per epoch", flush=True)

        images, fraction = len(training) + len(validation), settings.data.max_bad_fraction
        unreadable = UnreadableImages(workdir, images, fraction, signals)
        loaded = labelled.training_batches(
            training,
            Steps(reading.batch_size, start, total),
            reading.loaders(),
            image_size=reading.image_size,
            crop_scale=settings.crop_scale,
            seed=settings.seed,
            on_unreadable=unreadable,
        )
        batches = prefetch_to_devices(
            loaded,
            mesh.split_batch(run.devices),
            (*labelled.FIELDS, "replaced"),
            give_up=signals.may_give_up,
        )
        count = jax.jit(jnp.sum, out_shardings=mesh.replicated(run.devices))
        replaced: Any = progress.get("replaced_samples", 0)

        def save(last: bool) -> None:
            progress["replaced_samples"] = int(replaced)
            checkpoints.save(done, state, progress, last=last, before=writer.sync)

        log = run.config["log"]
        train_step, end_epoch = protocol.compile_steps(method, run.devices)
        evaluate = Evaluation(method, reading, validation, run.devices, unreadable)
        metrics = MetricWriter(workdir, start, log["to"], log["project"], run.config)
        with metrics as writer, Progress(total, start) as display:
            if done < total:
                display.compiling("the step")
            while done < total:
                batch = next(batches, None)
                if batch is None:  # stopped while waiting
                    save(last=True)
                    break
                replaced = replaced + count(batch.pop("replaced"))
                state = train_step(state, batch)
                done += 1
                if done == start + 1:
                    display.first("step", report.lowest_loss(means(state.sums)))
                display.advance(done)
                stop = signals.stop_after(done)
                epoch, rest = divmod(done, steps_per_epoch)
                if rest == 0:
                    figures = {"train": means(state.sums)}
                    check_some_finite(figures["train"]["loss"], settings, done, state, evaluate)
                    figures["val"] = means(evaluate(state.backbone, state.classifier))
                    check_some_finite(figures["val"]["loss"], settings, done, state, evaluate)
                    accuracy = np.array(figures["val"]["accuracy_top1"])
                    state = end_epoch(state, accuracy, epoch)
                    progress["chosen"] = int(np.argmax(state.best_accuracy))
                    progress["last"] = figures["val"]
                    for split, values in figures.items():
                        by_rate = report.by_rate(values, settings.learning_rates)
                        writer.write(done, split, {"epoch": epoch} | by_rate)
                    display.show(done, *report.status(epoch, settings, figures))
                    if protocol.is_frozen and epoch in (1, settings.epochs):
                        check_frozen(state.backbone, before)
                elif display.is_due():
                    loss = report.lowest_loss(means(state.sums))
                    display.refresh(done, loss, f"epoch {epoch + 1}/{settings.epochs}")
                if rest == 0 or stop or checkpoints.failed():
                    save(last=stop or done == total)
                if stop:
                    break
    if done < total:
        on_stop(stopped(signals.received, done, total))
        unreadable.check()
    else:
        results = report.results_of(settings, state, progress)
        if len(unreadable):
            print(unreadable.summary(progress["replaced_samples"]))
        report.finish(run, results | {"validation_images": len(validation)} | run.computation)
    return state
