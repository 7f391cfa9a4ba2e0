"""The linear-probe job: trains classifiers on the features of a frozen encoder."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from nsneg_jax.errors import RunError, UsageError
from nsneg_jax.evaluation.outputs import Listed, check_finite, name_outputs
from nsneg_jax.evaluation.passes import Evaluation, means
from nsneg_jax.evaluation.protocols.finite import FEATURES, LOGITS, not_finite
from nsneg_jax.input import labelled
from nsneg_jax.input.loading import Steps, prefetch_to_devices
from nsneg_jax.input.sources.identity import check_same_data, identity
from nsneg_jax.input.sources.protocol import Source
from nsneg_jax.input.splits import check_pair, open_labelled, open_partial
from nsneg_jax.jobs.frozen import ProbeSettings, probe_settings
from nsneg_jax.jobs.opening import Run, open_frozen
from nsneg_jax.jobs.validation import total_steps, validate_linear
from nsneg_jax.methods import optimizer, probe
from nsneg_jax.models.encoder import Tree
from nsneg_jax.parallel import mesh
from nsneg_jax.pretrained import DATASET, Pretrained, load_pretrained
from nsneg_jax.report.rows import has_top5
from nsneg_jax.training.loggers.services import check_installed
from nsneg_jax.training.metrics import MetricWriter
from nsneg_jax.training.progress import Progress
from nsneg_jax.training.signals import stopped
from nsneg_jax.training.unreadable import UnreadableImages, listed

_PURPOSE = "A linear probe"


def linear(
    config: ConfigDict,
    workdir: Path,
    devices: Sequence[jax.Device] | None = None,
    on_stop: Callable[[str], None] = print,
) -> probe.ProbeState | None:
    """Trains (or, with `evaluate_only`, evaluates) the probe of `config` in `workdir`.

    Resumes from the workdir's latest checkpoint if there is one. metrics.jsonl gets a line per
    split and epoch, results.json the final figures.

    Args:
        config: config of the job; see configs/linear.py.
        workdir: folder for checkpoints, metrics.jsonl, results.json and TensorBoard events.
        devices: devices to split the batch over, by default all.
        on_stop: called with a message if a signal stopped the run before its end.

    Returns:
        The state at the end, or where a signal stopped the run; None with `evaluate_only`.

    Raises:
        UsageError: the config, the encoder, the data or the earlier run do not fit.
        RunError: a value of the backbone has changed, no classifier's loss is finite, features or
            logits of an evaluation are not finite, or a checkpoint cannot be read.
    """
    run, config = open_frozen(config, workdir, devices, validate_linear)
    check_installed(config.log.to)
    settings = probe_settings(config)
    reading = settings.reading
    validation = open_labelled(settings.data, settings.data.eval_split, _PURPOSE)
    if settings.evaluate_only:
        _evaluate(run, settings, validation)
        return None
    training = open_labelled(settings.data, settings.data.split, _PURPOSE)
    check_pair(training, validation)
    steps_per_epoch = labelled.steps_per_pass(len(training), reading.batch_size)
    total = total_steps(settings.epochs, steps_per_epoch)

    with run.resumable(keep=2) as resumption:
        checkpoints, signals, resumed = resumption.checkpoints, resumption.signals, resumption.step
        # The probe's checkpoint holds the encoder too; the run it came from may be gone by now.
        path = settings.pretrained if resumed is None else workdir
        pretrained = load_pretrained(path, run.dtype, run.precision)
        method, state = build(settings, pretrained, steps_per_epoch, len(training.classes))
        state = mesh.put(state, mesh.replicated(run.devices))
        progress: dict[str, Any] = {
            "config": run.config,
            "model": pretrained.model,
            "classes": list(training.classes),
            "encoder": pretrained.encoder_origin,
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
        frozen = jax.device_get(state.backbone)
        done = start = resumed or 0
        sizes = f"{len(training):,} training and {len(validation):,} validation images"
        print(f"encoder  {progress['encoder']}: {_described(pretrained.model)}, frozen")
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

        train_step, end_epoch = compile_steps(method, run.devices)
        evaluate = Evaluation(method, reading, validation, run.devices, unreadable)
        metrics = MetricWriter(workdir, start, config.log.to, config.log.project, run.config)
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
                    display.first("step", f"loss {_losses(means(state.sums))}")
                display.advance(done)
                stop = signals.stop_after(done)
                epoch, rest = divmod(done, steps_per_epoch)
                if rest == 0:
                    figures = {"train": means(state.sums)}
                    _check_some_finite(figures["train"]["loss"], settings, done, state, evaluate)
                    figures["val"] = means(evaluate(state.backbone, state.classifier))
                    _check_some_finite(figures["val"]["loss"], settings, done, state, evaluate)
                    accuracy = np.array(figures["val"]["accuracy_top1"])
                    state = end_epoch(state, accuracy, epoch)
                    progress["chosen"] = int(np.argmax(state.best_accuracy))
                    progress["last"] = figures["val"]
                    for split, values in figures.items():
                        by_rate = _by_rate(values, settings.learning_rates)
                        writer.write(done, split, {"epoch": epoch} | by_rate)
                    display.show(done, *_status(epoch, settings, figures))
                    if epoch in (1, settings.epochs):
                        check_frozen(state.backbone, frozen)
                elif display.is_due():
                    losses = _losses(means(state.sums))
                    display.refresh(done, f"loss {losses}", f"epoch {epoch + 1}/{settings.epochs}")
                if rest == 0 or stop or checkpoints.failed():
                    save(last=stop or done == total)
                if stop:
                    break
    if done < total:
        on_stop(stopped(signals.received, done, total))
        unreadable.check()
    else:
        results = _results(settings.learning_rates, state, progress)
        if len(unreadable):
            print(unreadable.summary(progress["replaced_samples"]))
        _finish(run, results | {"validation_images": len(validation)} | run.computation)
    return state


def build(
    settings: ProbeSettings, pretrained: Pretrained, steps_per_epoch: int, classes: int
) -> tuple[probe.Probe, probe.ProbeState]:
    """Builds the probe and its initial state."""
    sgd = settings.optimizer
    factor = optimizer.learning_rate_schedule(
        sgd.schedule, 1.0, steps_per_epoch, settings.epochs, sgd.milestones
    )
    make = partial(optimizer.sgd, momentum=sgd.momentum, weight_decay=sgd.weight_decay)
    method = probe.Probe(
        encoder=pretrained.encoder,
        optimizer=probe.classifier_optimizer(settings.learning_rates, make(factor)),
        flip_probability=settings.flip_probability,
        dtype=settings.dtype,
        seed=settings.seed,
    )
    backbone = {"params": pretrained.params, "stats": pretrained.stats}
    size = settings.reading.image_size
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)
    features = jax.eval_shape(
        partial(probe.frozen_features, pretrained.encoder, settings.dtype), backbone, image
    )
    rates = len(settings.learning_rates)
    return method, probe.init_state(method, backbone, rates, features.shape[1], classes)


def compile_steps(
    method: probe.Probe, devices: Mesh
) -> tuple[jax.stages.Wrapped, jax.stages.Wrapped]:
    """Compiles `probe.train_step` and `probe.end_epoch` for the devices; both donate the state."""
    whole, split = mesh.replicated(devices), mesh.split_batch(devices)
    train_step = jax.jit(
        partial(probe.train_step, method),
        in_shardings=(whole, split),
        out_shardings=whole,
        donate_argnums=0,
    )
    return train_step, jax.jit(probe.end_epoch, out_shardings=whole, donate_argnums=0)


def check_frozen(backbone: Tree, before: Tree) -> None:
    """Checks that every value of the backbone is unchanged, bit for bit.

    Raises:
        RunError: a value has changed; the message names the first such entry.
    """
    now = jax.tree.leaves(jax.device_get(backbone))
    for (path, old), new in zip(jax.tree_util.tree_leaves_with_path(before), now, strict=True):
        if np.asarray(old).tobytes() != np.asarray(new).tobytes():
            raise RunError(
                f"The backbone's entry {jax.tree_util.keystr(path, simple=True, separator='.')} "
                "changed while the probe was trained, but must stay frozen. The run stopped "
                "without saving its figures, which would be worth nothing."
            )


def _evaluate(run: Run, settings: ProbeSettings, validation: Source) -> None:
    pretrained = load_pretrained(settings.pretrained, run.dtype, run.precision)
    if pretrained.classifier is None:
        raise UsageError(
            f"{pretrained.origin} has no classifier to evaluate. Give the workdir of a linear "
            "probe with --config.pretrained=DIR, or leave out evaluate_only to train one."
        )
    check_finite(pretrained.classifier, pretrained.origin)
    outputs = len(pretrained.classifier["bias"])
    rule = ""
    if pretrained.classes is None:
        chosen = bool(settings.data.classes)
        listed = Listed(validation.classes, validation.name, chosen)
        option = "--config.data.classes=FILE"
        naming = name_outputs(pretrained.classifier, listed, pretrained.origin, option)
        rule = naming.rule
        if naming.classes != validation.classes:
            validation = open_partial(settings.data, settings.data.eval_split, naming.classes)
    elif pretrained.classes != validation.classes:
        raise UsageError(
            f"The classifier of {pretrained.origin} has {outputs} classes, but {validation.name} "
            f"has {len(validation.classes)}, or others. Choose the classifier's classes with "
            "--config.data.classes."
        )
    run.claim()
    if rule:
        print(f"outputs  {rule}")
    run.print_views(validation)
    method, state = build(settings, pretrained, 1, outputs)
    state = mesh.put(state, mesh.replicated(run.devices))
    unreadable = UnreadableImages(run.workdir, len(validation), settings.data.max_bad_fraction)
    evaluate = Evaluation(method, settings.reading, validation, run.devices, unreadable)
    classifier = jax.tree.map(lambda leaf: np.asarray(leaf)[None], pretrained.classifier)
    figures = means(evaluate(state.backbone, classifier))
    if not math.isfinite(figures["loss"][0]):
        stage = LOGITS if _gives_features(evaluate, state.backbone, classifier) else FEATURES
        raise not_finite(stage, f"some of the {len(validation):,} images of {validation.name}")
    results = {
        "job": "linear",
        "encoder": pretrained.encoder_origin,
        "encoder_seed": pretrained.encoder_seed,
        "classes": len(validation.classes),
        "validation_images": len(validation),
        **({"outputs": outputs, "output_rule": rule} if rule else {}),
        **{name: _plain(values[0]) for name, values in figures.items()},
        **run.computation,
    }
    _finish(run, results)


def _check_some_finite(
    losses: list[float],
    settings: ProbeSettings,
    done: int,
    state: probe.ProbeState,
    evaluate: Evaluation,
) -> None:
    if any(map(math.isfinite, losses)):
        return
    if not _gives_features(evaluate, state.backbone, state.classifier):
        raise not_finite(FEATURES, f"some images of the split {settings.data.eval_split!r}")
    raise RunError(
        f"After step {done} the loss is not finite at any learning rate "
        f"({', '.join(f'{rate:g}' for rate in settings.learning_rates)}), so the run stopped "
        "without saving it. Set lower ones with --config.learning_rates=..., and another --workdir."
    )


def _gives_features(evaluate: Evaluation, backbone: Tree, classifier: Tree) -> bool:
    """Returns whether the features of all validation images are finite."""
    # 0 times a feature is 0, unless that is no number.
    blank = jax.tree.map(jnp.zeros_like, classifier)
    return all(map(math.isfinite, means(evaluate(backbone, blank))["loss"]))


def _results(rates: Sequence[float], state: probe.ProbeState, progress: dict) -> dict:
    best = jax.device_get((state.best_accuracy, state.best_epoch))
    probes = [
        {
            "learning_rate": rate,
            **{name: _plain(values[i]) for name, values in progress["last"].items()},
            "best_accuracy_top1": round(float(best[0][i]), 4),
            "best_epoch": int(best[1][i]),
        }
        for i, rate in enumerate(rates)
    ]
    chosen = probes[progress["chosen"]]
    return {
        "job": "linear",
        "encoder": progress["encoder"],
        "encoder_seed": progress.get("encoder_seed"),
        "classes": len(progress["classes"]),
        "accuracy_top1": chosen["accuracy_top1"],
        "accuracy_top5": chosen["accuracy_top5"],
        "best_accuracy_top1": chosen["best_accuracy_top1"],
        "learning_rate": chosen["learning_rate"],
        "probes": probes,
    }


def _finish(run: Run, results: dict) -> None:
    path = run.write_results(results)
    for each in results.get("probes", [results]):
        rate = f"lr {each['learning_rate']:g}: " if "learning_rate" in each else ""
        best = ""
        if "best_epoch" in each:
            best = f", best {each['best_accuracy_top1']:.2f} % in epoch {each['best_epoch']}"
        top5 = f", top-5 {each['accuracy_top5']:.2f} %" if has_top5(results.get("classes")) else ""
        print(f"{rate}top-1 {each['accuracy_top1']:.2f} %{top5}{best}")
    print(f"done: {results['validation_images']:,} images counted; {path}")


def _by_rate(figures: dict[str, list[float]], rates: Sequence[float]) -> dict[str, float]:
    """Names figures for metrics.jsonl; with several rates, each name ends with its rate."""
    if len(rates) == 1:
        return {name: values[0] for name, values in figures.items()}
    return {
        f"{name}/lr_{rate:g}": value
        for name, values in figures.items()
        for rate, value in zip(rates, values, strict=True)
    }


def _status(
    epoch: int, settings: ProbeSettings, figures: dict[str, dict[str, list[float]]]
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


def _losses(figures: dict[str, list[float]]) -> str:
    """Formats the loss per learning rate."""
    return "/".join(f"{value:.3f}" for value in figures["loss"])


def _plain(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _described(model: dict) -> str:
    return model["arch"] + (f" of width {model['width']}" if model["width"] != 64 else "")
