"""Lowers the programs of the jobs from shapes alone: no array is made, no data is opened.

Each program comes from the function that its job uses.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from nsneg_jax import corruptions
from nsneg_jax.errors import RunError, UsageError
from nsneg_jax.evaluation import classifier, features
from nsneg_jax.evaluation import neighbours as knn
from nsneg_jax.evaluation import passes as evaluation
from nsneg_jax.input.texture_pairs import EXEMPLARS, is_photograph, made_at_once, small_recipe
from nsneg_jax.jobs.frozen import completed, finetune_settings, probe_settings
from nsneg_jax.jobs.probing import finetuning
from nsneg_jax.jobs.probing import program as probing
from nsneg_jax.jobs.validation import (
    validate_evaluate,
    validate_features,
    validate_finetune,
    validate_knn,
    validate_linear,
)
from nsneg_jax.methods import probe
from nsneg_jax.parallel import mesh
from nsneg_jax.planning.apart import run_apart
from nsneg_jax.planning.compile import trace_step
from nsneg_jax.planning.cost import Cost, compile_and_read
from nsneg_jax.planning.targets import Target
from nsneg_jax.pretrained import Pretrained, backbone_structure
from nsneg_jax.textures.recipe import canvas_side
from nsneg_jax.textures.synthesis import compiled_synthesis, photographs_at_once

# Program -> jobs whose configs have its settings, and the check of these configs.
_JOBS = {
    "step": ("pretrain",),
    "texture": ("pretrain",),
    "probe": ("linear",),
    "finetune": ("finetune",),
    "knn": ("linear", "knn", "features"),
    "features": ("linear", "knn", "features"),
    "evaluate": ("evaluate",),
}
_CHECKS = {
    "probe": validate_linear,
    "finetune": validate_finetune,
    "knn": validate_knn,
    "features": validate_features,
    "evaluate": validate_evaluate,
}
PROGRAMS = tuple(_JOBS)

Lowered = Iterator[tuple[str, jax.stages.Lowered]]


def costs(
    program: str, config: ConfigDict, target: Target, model: Mapping[str, Any], classes: int
) -> Iterator[tuple[str, int, Cost]]:
    """Compiles a job's programs for accelerators, in a separate process.

    Args:
        program: one of `PROGRAMS`.
        config: config of the job.
        target: accelerators to compile for.
        model: `model` section of the encoder's pre-training; unused for a step or textures.
        classes: number of the classifier's classes; unused for a step or textures.

    Yields:
        (name, number of devices, cost) per program, as soon as it is compiled.

    Raises:
        UsageError: the config belongs to another job or cannot run on the target, or the compiler
            is not installed.
        RunError: the compiler fails.
    """
    if config.job not in _JOBS[program]:
        raise UsageError(
            f"The program {program} belongs to the job {' or '.join(_JOBS[program])}, but job is "
            f"{config.job!r}. Give another --config or another --program."
        )
    target.check_installed()
    arguments = program, config, target, dict(model), classes
    name = program
    try:
        for result in run_apart(_costs_here, *arguments, environment=target.environment()):
            if isinstance(result, str):
                name = result
            else:
                yield name, *result
    except RunError as error:
        raise RunError(f"{name}, for {target}: {error}") from error


def _costs_here(
    program: str, config: ConfigDict, target: Target, model: Mapping[str, Any], classes: int
) -> Iterator[str | tuple[int, Cost]]:
    devices = mesh.data_mesh(target.devices())
    for name, lowered in lower(program, config, devices, model, classes):
        yield name  # first, because the compiler may end the process
        yield devices.size, compile_and_read(lowered)


def lower(
    program: str, config: ConfigDict, devices: Mesh, model: Mapping[str, Any], classes: int
) -> Lowered:
    """Lowers the programs of a job over the devices, by name; see `costs`."""
    if program == "step":
        yield "step", trace_step(config, devices).traced.lower()
        return
    if program == "texture":
        yield "texture", _lower_synthesis(config, devices)
        return
    mesh.use_dtype(config.dtype)
    config = config.copy_and_resolve_references()
    config.pretrained = config.pretrained or "any"  # only shapes matter here
    _CHECKS[program](config, devices.size)
    config = completed(config, {})
    encoder, params, stats = backbone_structure(model, config.dtype, config.precision)
    untrained = Pretrained(
        encoder=encoder,
        params=params,
        stats=stats,
        model=dict(model),
        dtype=config.dtype,
        origin="",
        encoder_origin="",
    )
    yield from _LOWER[program](config, untrained, devices, classes)


def _lower_probe(
    config: ConfigDict, pretrained: Pretrained, devices: Mesh, classes: int
) -> Lowered:
    method, state = probing.build(probe_settings(config), pretrained, 1, classes)
    steps = probing.compile_steps(method, devices)
    yield from _lower_training("probe", method, state, steps, _batch(config), devices)


def _lower_finetuning(
    config: ConfigDict, pretrained: Pretrained, devices: Mesh, classes: int
) -> Lowered:
    method, state = finetuning.build(finetune_settings(config), pretrained, 1, classes)
    steps = finetuning.compile_steps(method, devices)
    yield from _lower_training("finetune", method, state, steps, _batch(config), devices)


def _lower_training(
    name: str,
    method: probe.Probe,
    state: probe.ProbeState,
    steps: tuple[jax.stages.Wrapped, jax.stages.Wrapped],
    batch: dict[str, jax.ShapeDtypeStruct],
    devices: Mesh,
) -> Lowered:
    """Lowers the training of a classifier, alone or with its encoder, and its evaluation."""
    state = _shapes(state)
    train_step, end_epoch = steps
    yield f"{name}: train step", train_step.lower(state, batch)
    accuracy = state.best_accuracy
    yield f"{name}: end of an epoch", end_epoch.lower(state, accuracy, 1)
    evaluation_step = evaluation.compile_evaluation_step(method, devices)
    (rates,) = accuracy.shape
    sums = jax.eval_shape(lambda: probe.zero_sums(rates, state.classifier["bias"].dtype))
    lowered = evaluation_step.lower(state.backbone, state.classifier, sums, batch)
    yield f"{name}: evaluation step", lowered


def _lower_search(
    config: ConfigDict, pretrained: Pretrained, devices: Mesh, classes: int
) -> Lowered:
    k, width = max(config.knn.k), _features(config, pretrained, devices).shape[1]
    queries, bank = knn.query_block(devices), knn.BANK_BLOCK
    found = (
        jax.ShapeDtypeStruct((queries, k), jnp.float32),
        jax.ShapeDtypeStruct((queries, k), jnp.int32),
    )
    yield (
        "knn: search",
        knn.compile_search(k, devices).lower(
            jax.ShapeDtypeStruct((queries, width), jnp.float32),
            jax.ShapeDtypeStruct((bank, width), jnp.float32),
            jax.ShapeDtypeStruct((bank,), jnp.int32),
            found,
        ),
    )


def _lower_features(
    config: ConfigDict, pretrained: Pretrained, devices: Mesh, classes: int
) -> Lowered:
    program = features.compile_features(pretrained.encoder, config.dtype, devices)
    images = _batch(config)["image"]
    yield "features", program.lower(pretrained.params, pretrained.stats, images)


def _lower_evaluation(
    config: ConfigDict, pretrained: Pretrained, devices: Mesh, classes: int
) -> Lowered:
    batch, split = _batch(config), mesh.split_batch(devices)
    image, label = batch["image"], batch["label"]
    images = jax.ShapeDtypeStruct(image.shape, image.dtype, sharding=split)
    keys = jax.eval_shape(lambda indices: corruptions.image_keys(0, indices), label)
    keys = jax.ShapeDtypeStruct(keys.shape, keys.dtype, sharding=split)
    for name, severity in corruptions.programs(config.data.image_size):
        lowered = corruptions.lower(images, name, severity, keys)
        yield f"evaluate: {name} {severity}", lowered
    width = _features(config, pretrained, devices).shape[1]
    dtype = jax.tree.leaves(pretrained.params)[0].dtype
    head = {
        "kernel": jax.ShapeDtypeStruct((width, classes), dtype),
        "bias": jax.ShapeDtypeStruct((classes,), dtype),
    }
    backbone = {"params": pretrained.params, "stats": pretrained.stats}
    program = classifier.compile_classifier(pretrained.encoder, config.dtype, devices)
    yield (
        "evaluate: classifier",
        program.lower(
            (backbone, head),
            jax.ShapeDtypeStruct((classes,), bool),
            batch["image"],
            jax.ShapeDtypeStruct((len(label), classes), bool, sharding=split),
            batch["valid"],
        ),
    )


_LOWER = {
    "probe": _lower_probe,
    "finetune": _lower_finetuning,
    "knn": _lower_search,
    "features": _lower_features,
    "evaluate": _lower_evaluation,
}


def _lower_synthesis(config: ConfigDict, devices: Mesh) -> jax.stages.Lowered:
    recipe, side = small_recipe(config.data.image_size)
    count = made_at_once(devices)
    if is_photograph(side):
        count = devices.size * photographs_at_once(devices.devices.flat[0].platform)
    coarsest = canvas_side(recipe) >> (len(recipe.passes) - 1)
    return compiled_synthesis(recipe, devices).lower(
        jax.ShapeDtypeStruct((count, EXEMPLARS, side, side, 3), jnp.uint8),
        jax.ShapeDtypeStruct((count, coarsest, coarsest), jnp.int32),
    )


def _batch(config: ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a batch of a job that reads labelled images."""
    n, size = config.batch_size, config.data.image_size
    return {
        "image": jax.ShapeDtypeStruct((n, size, size, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct((n,), jnp.int32),
        "valid": jax.ShapeDtypeStruct((n,), bool),
    }


def _features(config: ConfigDict, pretrained: Pretrained, devices: Mesh) -> jax.ShapeDtypeStruct:
    program = features.compile_features(pretrained.encoder, config.dtype, devices)
    return jax.eval_shape(program, pretrained.params, pretrained.stats, _batch(config)["image"])


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)
