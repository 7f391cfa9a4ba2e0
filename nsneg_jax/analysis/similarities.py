"""Measures how similar the queries of a trained run are to their keys and to all negatives.

The paper's claim is about these similarities: with non-semantic negatives in the loss, an image is
less similar to a picture of its own textures.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from nsneg_jax.errors import UsageError
from nsneg_jax.files import read_json
from nsneg_jax.input.loading import Loaders, Steps, prefetch_to_devices
from nsneg_jax.input.pipeline import pretrain_batches
from nsneg_jax.input.splits import open_split
from nsneg_jax.jobs import build, defaults
from nsneg_jax.methods.batches import ViewMaker
from nsneg_jax.methods.contrast import histogram
from nsneg_jax.methods.moco import MoCo
from nsneg_jax.methods.shuffling import Batch
from nsneg_jax.methods.siamese.method import Siamese
from nsneg_jax.methods.siamese.symmetric_moco import SymmetricMoCo
from nsneg_jax.parallel import mesh
from nsneg_jax.training.checkpoints.checkpoint import (
    find_checkpoint,
    first_difference,
    read_checkpoint,
)
from nsneg_jax.training.step import crop_fields, state_sharding
from nsneg_jax.training.workdir import CONFIG

BINS = 200


def measure(run: Path, batches: int = 8) -> dict[str, Any]:
    """Measures the similarities in the steps that a run would take next, without taking them.

    Batches, views, negatives, batch norm, key encoder and queue are those of the training, so the
    first batch's means are the metrics of the next step.

    Args:
        run: workdir of a pre-training, for its latest checkpoint, or a checkpoint folder in it.
        batches: number of batches.

    Returns:
        'step'; 'images', number of queries; 'bins', number of bins over [-1, 1]; and 'kinds', by
        name ('positive', 'queue', then `ViewMaker.names`; without a queue 'others', the other
        images of the batch, if the method compares with these): 'counts' [bins], 'mean', 'std', and
        'above_positive', the part of these similarities in % that are greater than the query's
        similarity to its key.

    Raises:
        UsageError: the run has no checkpoint or config.json, its method has no such similarities,
            or its data do not fit.
    """
    folder = find_checkpoint(run)
    config = config_of(folder)
    mesh.use_dtype(config.model.dtype)
    # As many devices as share a batch evenly.
    count = math.gcd(config.batch_size, jax.device_count())
    devices = mesh.data_mesh(jax.devices()[:count])
    source, textures = open_split(config.data, config.data.split), None
    if build.build_views(config).reads_texture:
        source, textures = build.open_textures(config, source, folder.parent.parent)
    method, state = build.build(config, max(1, len(source) // config.batch_size))
    if not isinstance(method, MoCo | Siamese):
        raise UsageError(
            f"The method of {run} is {config.method!r}, which is none of nsneg_jax, so that its "
            "similarities are not known. Leave this run out of the report."
        )
    state = mesh.put(_restored(folder, state), state_sharding(method, devices))
    start = int(state.step)
    loaded = pretrain_batches(
        source,
        Steps(config.batch_size, start, start + batches),
        Loaders(config.data.threads, config.data.workers, 0, 1),
        image_size=config.data.image_size,
        crop_scale=config.views.crop_scale,
        seed=config.seed,
        textures=textures,
    )
    of_step = _compiled(method, devices)
    crops = prefetch_to_devices(loaded, mesh.split_batch(devices), crop_fields(method.views))
    found = [jax.device_get(of_step(state, start + i, batch)) for i, batch in enumerate(crops)]
    queries = config.batch_size * (2 if isinstance(method, Siamese | SymmetricMoCo) else 1)
    return {
        "step": start,
        "images": queries * len(found),
        "bins": BINS,
        "kinds": _kinds(found, method.views),
    }


def config_of(folder: Path) -> ConfigDict:
    """Returns the config of the run that wrote a checkpoint."""
    path = folder.parent.parent / CONFIG
    if not path.exists():
        raise UsageError(
            f"There is no {path}, which says what data {folder} was trained on. Give the workdir "
            "of a pre-training, or a checkpoint folder in it."
        )
    stored = read_json(path, "Start the run again, which writes it anew.")
    config = defaults.pretraining().unlock()  # fields that earlier versions had not
    config.update(_with_tuples(stored))
    return config.lock()


def _with_tuples(value: Any) -> Any:
    """Returns values read from JSON with tuples, which are hashable, for lists."""
    if isinstance(value, dict):
        return {name: _with_tuples(inner) for name, inner in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _restored(folder: Path, state: Any) -> Any:
    """Returns `state` with the arrays of a checkpoint, except those of the optimiser."""
    names = [field.name for field in dataclasses.fields(state) if field.name != "opt_state"]
    stored, _ = read_checkpoint(folder, *names)
    difference = first_difference(stored, {name: getattr(state, name) for name in names})
    if difference is not None:
        raise UsageError(
            f"The checkpoint {folder} does not fit the config.json of its run: {difference}. Give "
            "a workdir with both as the run left them."
        )
    leaves = {
        name: jax.tree.unflatten(
            jax.tree.structure(getattr(state, name)), jax.tree.leaves(stored[name])
        )
        for name in names
    }
    return dataclasses.replace(state, **leaves)


class _Figures(NamedTuple):
    """Of one kind of similarity in one step: see `measure`; `counts` is int32 [bins]."""

    counts: jax.Array
    mean: jax.Array
    square: jax.Array
    above: jax.Array


def _compiled(method: MoCo | Siamese, devices: Mesh) -> Callable[..., dict[str, _Figures]]:
    """Compiles the figures of a step by kind: key, others, then each non-semantic negative."""
    whole = mesh.replicated(devices)

    def of_step(state: Any, step: jax.Array, batch: Batch) -> dict[str, _Figures]:
        with jax.sharding.use_abstract_mesh(devices.abstract_mesh):
            s = method.similarities(
                dataclasses.replace(state, step=jnp.asarray(step, jnp.int32)), batch
            )
        kinds = {"positive": s.positive[:, None]}
        if s.queue.shape[1]:
            kinds["queue" if method.queue_fields else "others"] = s.queue
        names = method.views.names
        kinds |= {name: s.nonsemantic[:, m, None] for m, name in enumerate(names)}
        return {kind: _figures(x, s.positive[:, None]) for kind, x in kinds.items()}

    state = state_sharding(method, devices)
    return jax.jit(
        of_step, in_shardings=(state, whole, mesh.split_batch(devices)), out_shardings=whole
    )


def _figures(x: jax.Array, positive: jax.Array) -> _Figures:
    """Returns the figures of similarities [N, K], of which those that are -inf do not count."""
    counted = jnp.isfinite(x)
    number = counted.sum()
    counts = histogram(x, BINS)
    values = jnp.where(counted, x, 0)
    return _Figures(
        counts.at[0].add(number - x.size),
        values.sum() / number,
        jnp.square(values).sum() / number,
        (x > positive).sum() / number,
    )


def _kinds(steps: Sequence[dict[str, _Figures]], views: ViewMaker) -> dict[str, dict[str, Any]]:
    kinds = {}
    # JAX sorts the keys of a dict.
    for name in ("positive", "queue", "others", *views.names):
        if name not in steps[0]:
            continue
        of_kind = [figures[name] for figures in steps]
        mean, square, above = (
            float(np.mean([getattr(figures, field) for figures in of_kind], dtype=float))
            for field in ("mean", "square", "above")
        )
        kinds[name] = {
            "counts": np.sum([figures.counts for figures in of_kind], axis=0, dtype=int).tolist(),
            "mean": mean,
            "std": math.sqrt(max(0.0, square - mean**2)),
            "above_positive": 100 * above,
        }
    return kinds
