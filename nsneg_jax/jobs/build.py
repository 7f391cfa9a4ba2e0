"""Builds the parts of a pre-training from the fields of its config."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optax
from ml_collections import ConfigDict

from nsneg_jax import models
from nsneg_jax.errors import UsageError
from nsneg_jax.input.sources.protocol import Source, has_files
from nsneg_jax.input.sources.source import open_files
from nsneg_jax.input.splits import agree_on_files
from nsneg_jax.input.texture_pairs import MadeTextures, pair_folders
from nsneg_jax.methods import optimizer
from nsneg_jax.methods.batches import ViewMaker
from nsneg_jax.methods.contrast import InfoNCE
from nsneg_jax.methods.method import Method
from nsneg_jax.methods.moco import MoCo
from nsneg_jax.methods.negatives import scaled_patch_range
from nsneg_jax.methods.views import ViewRecipe
from nsneg_jax.models.encoder import Encoder
from nsneg_jax.registry import Registry
from nsneg_jax.training.step import Placement
from nsneg_jax.training.workdir import TEXTURES

# Builds a method from (config, encoder, views, learning rate by step).
Builder = Callable[[ConfigDict, Encoder, ViewMaker, optax.Schedule], Method]


def build_moco(
    config: ConfigDict, encoder: Encoder, views: ViewMaker, schedule: optax.Schedule
) -> MoCo:
    """Builds MoCo-v2 with the negatives of the config."""
    return MoCo(
        encoder=encoder,
        dim=config.model.dim,
        optimizer=build_optimizer(config, schedule),
        learning_rate=schedule,
        loss=InfoNCE(config.moco.temperature, negative_weights(config, views)),
        views=views,
        queue_size=config.moco.queue_size,
        momentum=config.moco.momentum,
        groups=config.model.bn_groups,
        merge_passes=config.moco.merge_passes,
    )


METHODS: Registry[Builder] = Registry("method", {"moco": build_moco})


def register(name: str, builder: Builder) -> None:
    """Registers a method under a name, which configs give as `method`.

    Args:
        name: a name that is not taken.
        builder: called with config, encoder, `ViewMaker` and the learning rate by step.

    Raises:
        ValueError: the package has one of this name.
    """
    METHODS.add(name, builder)


def build(config: ConfigDict, steps_per_epoch: int) -> tuple[Method, Any]:
    """Builds the method and its initial state from a validated config."""
    encoder, params, stats = models.build(**config.model, seed=config.seed)
    method = build_method(config, encoder, steps_per_epoch)
    return method, method.init(params, stats)


def build_method(config: ConfigDict, encoder: Encoder, steps_per_epoch: int) -> Method:
    """Builds the method from a validated config and an encoder."""
    schedule = build_schedule(config, config.optimizer.learning_rate, steps_per_epoch)
    return METHODS[config.method](config, encoder, build_views(config), schedule)


def build_views(config: ConfigDict) -> ViewMaker:
    """Builds the `ViewMaker` of a config."""
    kind = config.negatives.kind
    return ViewMaker(
        recipe=view_recipe(config),
        patches=config.negatives.num if "patch" in kind else 0,
        texture="texture" in kind,
        patch_range=scaled_patch_range(config.negatives.patch_size, config.data.image_size),
        dtype=config.model.dtype,
        seed=config.seed,
        patch_mode=config.negatives.patch_mode,
    )


def view_recipe(config: ConfigDict) -> ViewRecipe:
    """Builds the recipe from the `views` section, without the crops, which the host makes.

    Raises:
        UsageError: a value is out of range.
    """
    values = {name: value for name, value in config.views.items() if name != "crop_scale"}
    return ViewRecipe(**values)


def negative_weights(config: ConfigDict, views: ViewMaker) -> tuple[float, ...]:
    """Returns alpha per negative of `views`, patches first."""
    alpha = config.negatives.alpha
    textures = (config.negatives.texture_alpha or alpha,) * views.texture
    return (alpha,) * views.patches + textures


def open_textures(config: ConfigDict, images: Source, workdir: Path) -> tuple[Source, Source]:
    """Opens the textures of a pre-training; returns images and textures in the same order.

    Args:
        config: config of the job.
        images: the images of `data.source`; files unless `negatives.texture_source` is 'made'.
        workdir: folder that keeps generated textures.

    Raises:
        UsageError: see `pair_folders` and `MadeTextures`.
    """
    settings = config.negatives
    if settings.texture_source == "made":
        path = workdir / TEXTURES
        return images, MadeTextures(images, config.data.image_size, path, config.seed)
    textures = open_files(settings.texture_source, config.data.split, images.classes, partial=True)
    agree_on_files(textures)
    if not has_files(images):
        raise UsageError(
            f"The images of {images.name} are no files, by whose names textures are found. Set "
            "negatives.texture_source to 'made'."
        )
    return pair_folders(images, textures, settings.missing)


def build_schedule(
    config: ConfigDict, learning_rate: float, steps_per_epoch: int
) -> optax.Schedule:
    """Builds the learning rate by step of a pre-training config."""
    return optimizer.learning_rate_schedule(
        config.optimizer.schedule,
        learning_rate,
        steps_per_epoch,
        config.epochs,
        config.optimizer.milestones,
        config.optimizer.warmup_epochs,
    )


def build_optimizer(config: ConfigDict, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Builds the optimiser of a pre-training config."""
    return optimizer.make(
        config.optimizer.name,
        schedule,
        momentum=config.optimizer.momentum,
        weight_decay=config.optimizer.weight_decay,
    )


def placement(config: ConfigDict) -> Placement:
    """Builds the placement of a run's arrays."""
    return Placement(
        share_queue=config.moco.shard_queue,
        share_optimizer=config.optimizer.shard,
        # One group sees the whole batch in any order, so there is nothing to shuffle.
        arranged=config.moco.shuffle == "data" and config.model.bn_groups > 1,
    )
