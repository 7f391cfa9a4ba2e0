"""The pre-training job: open the data, build or restore, loop, finish."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from nsneg_jax.errors import RunError
from nsneg_jax.jobs.opening import Resumption, Run, open_run
from nsneg_jax.jobs.pretraining import summary
from nsneg_jax.jobs.pretraining.data import Data, batches, open_data
from nsneg_jax.jobs.pretraining.following import Following
from nsneg_jax.jobs.pretraining.pictures import with_pictures
from nsneg_jax.jobs.pretraining.state import Training, build_or_restore, progress_of
from nsneg_jax.jobs.pretraining.validation import validate_pretraining
from nsneg_jax.parallel import mesh
from nsneg_jax.parallel.watchdog import alive
from nsneg_jax.training.described import section_of
from nsneg_jax.training.health import collapse, divergence
from nsneg_jax.training.loggers.services import check_installed
from nsneg_jax.training.signals import stopped
from nsneg_jax.training.step import compile_step, is_finite
from nsneg_jax.training.unreadable import UnreadableImages


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
    check_installed(config.log.to)
    data = open_data(config, workdir)
    with run.resumable(config.checkpoint.keep, data.steps_per_kept) as resumption:
        training = build_or_restore(config, run, data, resumption)
        # Only now: a refused run must not leave its config behind.
        run.claim(resumption)
        _stop_if_collapsed(config, run, training, training.start)
        run.remove_results()  # of a collapse, after which the run now goes on
        said = summary.at_start(config, run, data, training)
        print(said, flush=True)
        images = len(data.source) * (1 if data.textures is None else 2)
        fraction = config.data.max_bad_fraction
        unreadable = UnreadableImages(workdir, images, fraction, resumption.signals)
        with Following(config, run, data, training, unreadable, said) as following:
            done = _train(config, run, data, training, resumption, unreadable, following)
        _stop_if_collapsed(config, run, training, done)
    if len(unreadable):
        print(unreadable.summary(round(training.replaced)))
    if done < data.total:
        on_stop(stopped(resumption.signals.received, done, data.total))
        unreadable.check()
    else:
        print(summary.at_end(config, workdir, done), flush=True)
    return training.state


def _train(
    config: ConfigDict,
    run: Run,
    data: Data,
    training: Training,
    resumption: Resumption,
    unreadable: UnreadableImages,
    following: Following,
) -> int:
    """Trains until the end or a signal; returns the steps done."""
    total, start = data.total, training.start
    views, placement = training.method.views, training.placement
    train_step = compile_step(training.method, run.devices, placement, training.state)
    finite = jax.jit(is_finite)
    count = jax.jit(jnp.sum, out_shardings=mesh.replicated(run.devices))
    read = partial(batches, config, run, data, views, unreadable)
    loaded = read(placement, start, total, give_up=resumption.signals.may_give_up)
    if start == 0 and config.pictures:
        loaded = with_pictures(loaded, views, placement, read, run.workdir, following.picture)
    done = start

    def save(last: bool = False) -> None:
        if not finite(training.state):  # a finite loss may have an infinite gradient
            raise FloatingPointError(f"Parameters after step {done} are not finite")
        alive(f"saving the checkpoint of step {done}")
        progress = progress_of(run.config, training, data)
        saves = resumption.checkpoints
        saves.save(done, training.state, progress, last=last, before=following.sync)

    try:
        while done < total:
            try:
                batch = following.next(loaded, done + 1)
            except Exception:
                if done > start and jax.process_count() == 1:  # the others cannot save now
                    save(last=True)
                raise
            if batch is None:  # stopped while waiting
                save(last=True)
                break
            replaced = count(batch.pop("replaced"))
            training.state, metrics = train_step(training.state, batch)
            done += 1
            following.stepped(done, metrics | {"replaced_samples": replaced})
            stop = resumption.signals.stop_after(done)
            stop |= following.report(done)
            kept = data.steps_per_kept and done % data.steps_per_kept == 0
            due = kept or done % config.checkpoint.every_steps == 0
            last = stop or done == total
            if last or due or resumption.checkpoints.failed():
                save(last)
            if stop:
                break
    except FloatingPointError as error:
        resumption.checkpoints.failed(wait=True)
        raise RunError(divergence(error, resumption.checkpoints)) from error
    return done


def _stop_if_collapsed(config: ConfigDict, run: Run, training: Training, done: int) -> None:
    """Ends a run that found a collapse and has `on_collapse` 'stop'; everything is saved."""
    found = training.watch.found
    if found is None or config.on_collapse != "stop":
        return
    path = run.write_results(
        {"job": "pretrain", "stopped": "collapse", "step": done, "collapse": found}
    )
    about = collapse(found, section_of(config.method))
    raise RunError(
        f"{about} The run stopped after step {done}, with everything saved, because "
        f"on_collapse is 'stop'; {path} has the figures. --config.on_collapse=warn goes on."
    )
