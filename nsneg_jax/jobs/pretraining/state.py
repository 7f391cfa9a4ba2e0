"""The state of a pre-training: built or restored, and what a checkpoint keeps besides."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict

from nsneg_jax import models
from nsneg_jax.errors import UsageError
from nsneg_jax.input.sources.identity import check_same_data
from nsneg_jax.jobs import build, opening
from nsneg_jax.jobs.opening import Resumption, Run
from nsneg_jax.jobs.pretraining.data import Data
from nsneg_jax.jobs.pretraining.starting import weights_of
from nsneg_jax.methods.method import Method
from nsneg_jax.parallel import mesh
from nsneg_jax.parallel.watchdog import alive
from nsneg_jax.pretrained import DATASET
from nsneg_jax.training.health import CollapseWatch
from nsneg_jax.training.metrics import Window
from nsneg_jax.training.step import Placement, state_sharding
from nsneg_jax.training.unreadable import listed


@dataclass
class Training:
    """The method, its state, and the metrics that are not yet written.

    `origin` says which weights the first start began with; '' for initial ones.
    """

    method: Method
    placement: Placement
    state: Any
    window: Window
    start: int
    replaced: float  # samples of another image than the order's, until the window
    watch: CollapseWatch
    origin: str


def build_or_restore(config: ConfigDict, run: Run, data: Data, resumption: Resumption) -> Training:
    """Builds the state of a new run, or restores it from the run's newest checkpoint.

    Raises:
        UsageError: the network or the images are not those of the checkpoint, or a new run cannot
            begin with the weights of `config.pretrained`.
        RunError: the checkpoint cannot be read.
    """
    checkpoints, resumed = resumption.checkpoints, resumption.step
    if resumption.progress is not None:
        opening.check_same_model(config.model, resumption.progress, run.workdir)
        _check_not_both(config, resumption.progress, run)
    encoder, params, stats = models.build(**config.model, seed=config.seed)
    origin = ""
    if resumed is None and config.pretrained:
        alive(f"reading the weights of {config.pretrained}")
        params, stats, origin = weights_of(config, params, stats)
    method = build.build_method(config, encoder, data.steps_per_epoch)
    state = method.init(params, stats)
    if origin and getattr(state, "params_p", {}):
        origin += " and a new prediction head"
    placement = build.placement(config, method)
    state = mesh.put(state, state_sharding(method, run.devices, placement, state))
    # Their weights let a query's own negatives win for long; five of them fill its top 5.
    choices = method.choices(config.batch_size) if method.views.num_negatives < 5 else 0
    if resumed is None:
        watch = CollapseWatch(config.collapse_steps, choices)
        return Training(method, placement, state, Window(), 0, 0, watch, origin)
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
    origin = progress.get("starts_from", "")
    return Training(method, placement, state, window, resumed, replaced, watch, origin)


def _check_not_both(config: ConfigDict, progress: Mapping[str, Any], run: Run) -> None:
    """Checks that a run which resumes an imported checkpoint asks for no other weights.

    Such a checkpoint has no config, which would tell them apart.

    Raises:
        UsageError: it does.
    """
    if "official" in progress and "config" not in progress and config.pretrained:
        raise UsageError(
            f"pretrained is {config.pretrained!r}, but the workdir {run.workdir} has an imported "
            "checkpoint, with which this run would go on instead. Leave --config.pretrained out to "
            "go on with that, or give another --workdir for a new run from these weights."
        )


def progress_of(fields: Mapping[str, Any], training: Training, data: Data) -> dict[str, Any]:
    """Returns what a checkpoint stores besides the state, so that it needs no config to be used.

    Args:
        fields: config of the run.
        training: its state.
        data: its images.
    """
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
        **({"starts_from": training.origin} if training.origin else {}),
    }
