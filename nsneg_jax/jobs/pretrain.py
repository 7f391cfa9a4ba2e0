"""The pre-training job: build, restore, loop, finish."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from nsneg_jax.errors import RunError, UsageError
from nsneg_jax.input.pipeline import prefetch_to_devices, pretrain_batches
from nsneg_jax.input.shuffle import ShuffleOrders
from nsneg_jax.input.sources.source import Source, check_same_data
from nsneg_jax.input.splits import open_split
from nsneg_jax.input.texture_pairs import open_textures
from nsneg_jax.jobs.knn import monitor
from nsneg_jax.jobs.opening import to_json
from nsneg_jax.jobs.pictures import save_views
from nsneg_jax.jobs.validation import validate_pretraining, view_recipe
from nsneg_jax.methods import moco
from nsneg_jax.methods.negatives import scaled_patch_range
from nsneg_jax.methods.optimizer import learning_rate_schedule, sgd
from nsneg_jax.models.encoder import Encoder, build_encoder
from nsneg_jax.parallel import hosts, mesh
from nsneg_jax.training.checkpoint import Checkpoints
from nsneg_jax.training.metrics import MetricWriter, Window
from nsneg_jax.training.progress import Progress, Stopwatch
from nsneg_jax.training.signals import StopSignals, stopped
from nsneg_jax.training.workdir import VIEWS, check_workdir, claim_workdir

_PICTURED_SAMPLES = 8


def pretrain(
    config: ConfigDict, workdir: Path, devices: Sequence[jax.Device] | None = None
) -> moco.TrainState:
    """Runs the pre-training of `config` in `workdir`, from its latest checkpoint if it has one.

    Args:
        config: of the job; see configs/.
        workdir: for checkpoints, metrics.jsonl, TensorBoard events and pictures.
        devices: to split the batch over, by default all there are.

    Returns:
        The state at the end, or where a signal stopped the run; it is saved in either case.

    Raises:
        UsageError: the config, the data or the earlier run in `workdir` do not fit.
        RunError: the loss is not finite, or a checkpoint cannot be read.
    """
    mesh.use_dtype(config.model.dtype)
    devices = mesh.data_mesh(devices)
    validate_pretraining(config, devices.size)
    source = open_split(config.data, config.data.split)
    textures = None
    if "texture" in config.negatives.kind:
        source, textures = open_textures(config, source, workdir)
    steps_per_epoch = _steps_per_epoch(source, config.batch_size)
    total = config.total_steps or config.epochs * steps_per_epoch

    with Checkpoints(workdir, config.checkpoint.keep) as checkpoints, StopSignals() as signals:
        resumed = hosts.of_first(checkpoints.latest_step())
        if resumed is not None:
            check_workdir(to_json(config), workdir)
            _check_same_model(config, checkpoints.progress(resumed), workdir)
        method, state = build(config, steps_per_epoch)
        state = mesh.put(state, state_sharding(method, devices))
        window = Window()
        if resumed is not None:
            state, progress = checkpoints.restore(resumed, state)
            window = Window(**progress["window"])
            check_same_data(source, progress["images"], workdir)
            if "official" in progress:
                print(_about_import(progress, config.batch_size, steps_per_epoch))
        # only now: the config of a run that was refused must not stay behind
        first = jax.process_index() == 0
        claim_workdir(to_json(config), workdir, resuming=resumed is not None, write=first)
        start = resumed or 0
        print(_summary(config, source, devices, state.params_q, start, total), flush=True)

        load = partial(
            pretrain_batches,
            source,
            textures=textures,
            batch_size=config.batch_size,
            image_size=config.data.image_size,
            crop_scale=config.views.crop_scale,
            seed=config.seed,
            threads=config.data.threads,
            workers=config.data.workers,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

        def put(batches: Iterator, method: moco.MoCo) -> Iterator[moco.Batch]:
            return prefetch_to_devices(batches, mesh.split_batch(devices), crop_fields(method))

        orders = shuffle_orders(method, config.batch_size) if method.loads_shuffled else None
        batches = put(load(shuffle=orders, start_step=start, total_steps=total), method)
        train_step = compile_step(method, devices)
        is_finite = jax.jit(moco.is_finite)
        steps_per_knn = config.knn_every_epochs * steps_per_epoch
        if steps_per_knn:
            knn = monitor(config, source, method.encoder, devices)
        done = start
        try:
            with MetricWriter(workdir, start) as writer, Progress(total, start) as display:
                stopwatch = Stopwatch(config.batch_size)
                if done < total:
                    display.compiling("the step")
                while done < total:
                    with stopwatch.waiting():
                        batch = next(batches)
                    if done == 0 and config.pictures:
                        # one sample's crops side by side, which `loads_shuffled` does not have
                        plain = dataclasses.replace(method, loads_shuffled=False)
                        pictured = batch
                        if method.loads_shuffled:
                            pictured = next(put(load(start_step=0, total_steps=1), plain))
                        _save_first_views(plain, pictured, workdir)
                    state, metrics = train_step(state, batch)
                    done += 1
                    if done == start + 1:
                        display.first("step", f"loss {jax.device_get(metrics['loss']):.3f}")
                        stopwatch.restart()  # compilation is no part of the speed
                    else:
                        stopwatch.count_step()
                    window.add(done, metrics)
                    display.advance(done)

                    last = done == total
                    stop = signals.stop_after(done)
                    if last or done % config.log_every_steps == 0:
                        figures = window.take() | stopwatch.take()
                        writer.write(done, "train", figures)
                        display.show(done, _status(done, steps_per_epoch, config.epochs, figures))
                    elif display.is_due():
                        figures = window.means() | stopwatch.figures()
                        display.show(done, _status(done, steps_per_epoch, config.epochs, figures))
                    if steps_per_knn and done % steps_per_knn == 0:
                        with stopwatch.paused():
                            figures = knn(state.params_q, state.stats_q)
                        writer.write(done, "val", figures)
                        display.show(done, f"kNN {figures['knn_20']:.2f} %")
                    if last or stop or done % config.checkpoint.every_steps == 0:
                        if not is_finite(state):  # a finite loss says nothing of its update
                            raise FloatingPointError(f"Parameters after step {done} are not finite")
                        checkpoints.save(done, state, _progress(config, window, source))
                    if stop:
                        break
        except FloatingPointError as error:
            checkpoints.wait()
            raise RunError(_divergence(error, checkpoints)) from error
    if done < total:
        print(stopped(signals.received, done, total))
    else:
        print(f"done: {total} steps; checkpoints, metrics.jsonl and pictures are in {workdir}")
    return state


def build(config: ConfigDict, steps_per_epoch: int) -> tuple[moco.MoCo, moco.TrainState]:
    """The method and its initial state for a validated config."""
    encoder, params, stats = build_encoder(config.model, config.seed)
    method = build_method(config, encoder, steps_per_epoch)
    return method, moco.init_state(method, params, stats, config.model.dim)


def build_method(config: ConfigDict, encoder: Encoder, steps_per_epoch: int) -> moco.MoCo:
    """The method around an encoder."""
    schedule = learning_rate_schedule(
        config.optimizer, config.optimizer.learning_rate, steps_per_epoch, config.epochs
    )
    return moco.MoCo(
        encoder=encoder,
        optimizer=sgd(config.optimizer, schedule),
        learning_rate=schedule,
        queue_size=config.moco.queue_size,
        momentum=config.moco.momentum,
        temperature=config.moco.temperature,
        alphas=negative_weights(config.negatives),
        texture="texture" in config.negatives.kind,
        groups=config.model.bn_groups,
        merge_passes=config.moco.merge_passes,
        patch_range=scaled_patch_range(config.negatives.patch_size, config.data.image_size),
        recipe=view_recipe(config),
        dtype=config.model.dtype,
        seed=config.seed,
        shard_queue=config.moco.shard_queue,
        # a single group has nothing to shuffle
        loads_shuffled=config.moco.shuffle == "data" and config.model.bn_groups > 1,
    )


def negative_weights(config: ConfigDict) -> tuple[float, ...]:
    """alpha of each negative of a config's `negatives` section, patches first."""
    patches = config.num if "patch" in config.kind else 0
    weights = (config.alpha,) * patches
    if "texture" in config.kind:
        weights += (config.texture_alpha or config.alpha,)
    return weights


def abstract_batch(method: moco.MoCo, batch_size: int, size: int) -> dict:
    """Shapes and dtypes of the batch that a step of `method` takes."""
    batch = {}
    for name in crop_fields(method):
        passes = (len(method.alphas),) if name == "negatives" else ()
        batch[name] = jax.ShapeDtypeStruct((batch_size, *passes, size, size, 3), jnp.uint8)
    return batch


def crop_fields(method: moco.MoCo) -> tuple[str, ...]:
    """The entries of a batch that a step of `method` takes."""
    if method.loads_shuffled:
        return ("query", "key", "negatives") if method.alphas else ("query", "key")
    return ("query", "key", "texture") if method.texture else ("query", "key")


def shuffle_orders(method: moco.MoCo, batch_size: int) -> ShuffleOrders:
    """The orders that `moco.draw_permutations` draws, for the host."""
    root = jax.random.key_data(jax.random.key(method.seed))
    high, low = (int(word) for word in root)
    return ShuffleOrders((high, low), moco.SHUFFLE, 1 + len(method.alphas), batch_size)


def compile_step(method: moco.MoCo, devices: Mesh) -> Callable:
    """`moco.train_step` as one program over the devices; it takes over the state's memory."""
    state = state_sharding(method, devices)
    method = dataclasses.replace(method, devices=devices)

    def train_step(state: moco.TrainState, batch: moco.Batch):
        with jax.sharding.use_abstract_mesh(devices.abstract_mesh):
            return moco.train_step(method, state, batch)

    return jax.jit(
        train_step,
        in_shardings=(state, mesh.split_batch(devices)),
        out_shardings=(state, mesh.replicated(devices)),
        donate_argnums=0,
    )


def state_sharding(method: moco.MoCo, devices: Mesh) -> moco.TrainState:
    """Where the state lives: the prefix of a tree of shardings."""
    whole = mesh.replicated(devices)
    fields = dict.fromkeys((field.name for field in dataclasses.fields(moco.TrainState)), whole)
    if method.shard_queue:
        fields["queue"] = mesh.split_batch(devices)
    return moco.TrainState(**fields)


def _steps_per_epoch(source: Source, batch_size: int) -> int:
    if len(source) < batch_size:
        raise UsageError(
            f"{source.name} has {len(source)} images, fewer than one batch of {batch_size}. "
            "Set a smaller --config.batch_size or use more images."
        )
    return len(source) // batch_size


def _progress(config: ConfigDict, window: Window, source: Source) -> dict[str, Any]:
    """What a checkpoint says besides the state, so that it can be used without the config."""
    fields = to_json(config)
    return {
        "window": window.totals(),
        "images": len(source),
        "seed": fields["seed"],
        "model": fields["model"],
        "batch_size": fields["batch_size"],
        "negatives": fields["negatives"]["num"],
        "optimizer": fields["optimizer"],
    }


def _check_same_model(config: ConfigDict, progress: dict[str, Any], workdir: Path) -> None:
    """For a checkpoint that was imported, and so has no config.json to compare with."""
    before = progress.get("model", {})
    differences = [
        f"model.{name} is {before[name]!r} there and {config.model[name]!r} in this run"
        for name in ("arch", "dim", "mlp", "width", "stem")
        if name in before and before[name] != config.model[name]
    ]
    if differences:
        raise UsageError(
            f"The checkpoint in {workdir} holds another network: "
            + "; ".join(differences)
            + ". Set these fields with --config.model.FIELD=VALUE to go on with it, or give "
            "another --workdir for a new run."
        )


def _about_import(progress: dict[str, Any], batch_size: int, steps_per_epoch: int) -> str:
    """What a run that goes on from an imported checkpoint starts with."""
    origin = progress["official"]
    text = f"goes on from {origin['file']}, epoch {origin['epoch']}"
    before = origin["images"] // progress["batch_size"]
    if (before, progress["batch_size"]) != (steps_per_epoch, batch_size):
        text += (
            f"\nnote: it was imported as of {before:,} steps an epoch in batches of "
            f"{progress['batch_size']}, here there are {steps_per_epoch:,} in batches of "
            f"{batch_size}; import it with --images and --batch_size to keep its epoch"
        )
    return text


def _save_first_views(method: moco.MoCo, batch: moco.Batch, workdir: Path) -> None:
    if jax.process_index() != 0:
        return
    # process 0 holds the first places of the global batch, whose draws a short batch repeats
    first = {
        name: jnp.asarray(crops.addressable_shards[0].data[:_PICTURED_SAMPLES])
        for name, crops in batch.items()
    }
    views = jax.jit(partial(moco.make_views, method))(0, first)
    save_views(jax.device_get(views), workdir / VIEWS)


def _divergence(error: FloatingPointError, checkpoints: Checkpoints) -> str:
    last = checkpoints.latest_step()
    good = (
        f"The last good checkpoint is {checkpoints.folder / str(last)}"
        if last is not None
        else "There is no checkpoint yet"
    )
    return (
        f"{error}, so the run stopped without saving it. {good}. Usual causes are a learning rate "
        "that is too high (--config.optimizer.learning_rate) and bfloat16 "
        "(--config.model.dtype=float32); a changed config needs a new --workdir."
    )


def _summary(
    config: ConfigDict, source: Source, devices: Mesh, params: dict, start: int, total: int
) -> str:
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    kind = devices.devices.flat[0].device_kind
    lines = [
        f"data     {source.name}: {len(source):,} images, {len(source.classes):,} classes",
        f"encoder  {config.model.arch}, {parameters:,} parameters, {config.model.dtype}",
        f"devices  {devices.size} x {kind}, batch {config.batch_size} in "
        f"{config.model.bn_groups} batch-norm groups",
        f"steps    {total:,}, {_steps_per_epoch(source, config.batch_size):,} an epoch"
        + (f"; {start:,} done before" if start else ""),
    ]
    return "\n".join(lines)


def _status(done: int, steps_per_epoch: int, epochs: int, figures: dict[str, float]) -> str:
    text = (
        f"epoch {1 + (done - 1) // steps_per_epoch}/{epochs}"
        f"  loss {figures['loss']:.3f}"
        f"  contrast top-1 {figures['accuracy_top1']:.1f} %"
    )
    if "images_per_second" in figures:
        text += f"  {figures['images_per_second']:.3g} images/s"
    return text
