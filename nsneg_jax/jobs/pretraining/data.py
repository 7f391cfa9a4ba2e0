"""The images of a pre-training: opened, and read in batches."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
from ml_collections import ConfigDict

from nsneg_jax.errors import UsageError
from nsneg_jax.input.loading import Loaders, Steps, prefetch_to_devices
from nsneg_jax.input.pipeline import pretrain_batches
from nsneg_jax.input.sources.identity import Identity, identity
from nsneg_jax.input.sources.protocol import Source, has_files
from nsneg_jax.input.splits import open_split
from nsneg_jax.jobs import build
from nsneg_jax.jobs.opening import Run
from nsneg_jax.jobs.pretraining.measures import Measured, open_measured
from nsneg_jax.jobs.validation import total_steps
from nsneg_jax.methods.batches import ViewMaker
from nsneg_jax.methods.shuffling import Batch
from nsneg_jax.parallel import mesh
from nsneg_jax.training.step import Placement, crop_fields, shuffle_orders
from nsneg_jax.training.unreadable import UnreadableImages


@dataclass(frozen=True)
class Data:
    """The images, and how long to train on them.

    Attributes:
        source, textures: the images and their textures, None without these.
        measured: what is measured during the training, None for nothing.
        identities: stored to recognise the data on resume.
        steps_per_epoch: steps per epoch.
        steps_per_kept: steps between checkpoints that are kept, 0 for none.
        total: steps of the run.
    """

    source: Source
    textures: Source | None
    measured: Measured | None
    identities: Mapping[str, Identity]
    steps_per_epoch: int
    steps_per_kept: int
    total: int


def open_data(config: ConfigDict, workdir: Path) -> Data:
    """Opens the images of a pre-training.

    Raises:
        UsageError: they cannot be used.
    """
    source, textures = open_split(config.data, config.data.split), None
    if build.build_views(config).reads_texture:
        source, textures = build.open_textures(config, source, workdir)
    if len(source) < config.batch_size:
        raise UsageError(
            f"{source.name} has {len(source)} images, fewer than one batch of "
            f"{config.batch_size}. Set a smaller --config.batch_size or use more images."
        )
    steps_per_epoch = len(source) // config.batch_size
    identities = {"data": identity(source)}
    if textures is not None and has_files(textures):
        identities["textures"] = identity(textures)
    return Data(
        source=source,
        textures=textures,
        measured=open_measured(config, source, steps_per_epoch),
        identities=identities,
        steps_per_epoch=steps_per_epoch,
        steps_per_kept=config.checkpoint.keep_every_epochs * steps_per_epoch,
        total=total_steps(config.epochs, steps_per_epoch, config.total_steps),
    )


def batches(
    config: ConfigDict,
    run: Run,
    data: Data,
    views: ViewMaker,
    unreadable: UnreadableImages,
    placement: Placement,
    start: int,
    total: int,
    give_up: Callable[[], bool] = lambda: False,
) -> Iterator[Batch]:
    """Yields the batches start .. total - 1 on the devices, with 'replaced' bool [batch_size]."""
    loaded = pretrain_batches(
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
    return prefetch_to_devices(loaded, mesh.split_batch(run.devices), fields, give_up=give_up)
