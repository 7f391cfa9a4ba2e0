"""Builds the parts of a pre-training from the fields of its config."""

import inspect
from collections.abc import Callable
from dataclasses import replace
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
from nsneg_jax.methods import optimizer, siamese
from nsneg_jax.methods.accumulation import Parts
from nsneg_jax.methods.batches import ViewMaker
from nsneg_jax.methods.contrast import LOSSES, ContrastiveLoss
from nsneg_jax.methods.method import Method
from nsneg_jax.methods.moco import MoCo
from nsneg_jax.methods.negatives import NEGATIVES, Negative, Settings, parse, scaled_patch_range
from nsneg_jax.methods.negatives.mochi import MoCHi
from nsneg_jax.methods.siamese import momentum as target_momentum
from nsneg_jax.methods.siamese.method import Siamese
from nsneg_jax.methods.siamese.objectives import CosineLoss
from nsneg_jax.methods.siamese.symmetric_moco import SymmetricMoCo
from nsneg_jax.methods.views import ViewRecipe
from nsneg_jax.models.encoder import Encoder
from nsneg_jax.registry import Registry
from nsneg_jax.training.step import Placement
from nsneg_jax.training.workdir import TEXTURES

# Builds a method from (config, encoder, views, learning rate by step), see `register`.
Builder = Callable[..., Method]


def build_moco(
    config: ConfigDict, encoder: Encoder, views: ViewMaker, schedule: optax.Schedule
) -> MoCo:
    """Builds MoCo-v2 with the negatives of the config."""
    kind = SymmetricMoCo if config.moco.symmetric else MoCo
    return kind(
        encoder=encoder,
        dim=config.model.dim,
        optimizer=build_optimizer(config, schedule),
        learning_rate=schedule,
        loss=build_loss(config, views, config.moco.temperature),
        views=views,
        queue_size=config.moco.queue_size,
        momentum=config.moco.momentum,
        groups=config.model.bn_groups,
        merge_passes=config.moco.merge_passes,
        parts=build_parts(config),
    )


def build_byol(
    config: ConfigDict,
    encoder: Encoder,
    views: ViewMaker,
    schedule: optax.Schedule,
    *,
    steps_per_epoch: int,
) -> Siamese:
    """Builds BYOL with the negatives of the config."""
    return _siamese(
        config,
        encoder,
        views,
        schedule,
        predictor=_predictor(config, "byol"),
        loss=CosineLoss(negative_weights(config, views)),
        momentum=_momentum(config, steps_per_epoch),
    )


def build_simclr(
    config: ConfigDict, encoder: Encoder, views: ViewMaker, schedule: optax.Schedule
) -> Siamese:
    """Builds SimCLR with the negatives of the config."""
    return _siamese(
        config,
        encoder,
        views,
        schedule,
        loss=build_loss(config, views, config.siamese.temperature),
        candidates="both views",
        scale=0.5,
        joint=True,
        negative_gradient=config.siamese.negative_gradient,
    )


def build_mocov3(
    config: ConfigDict,
    encoder: Encoder,
    views: ViewMaker,
    schedule: optax.Schedule,
    *,
    steps_per_epoch: int,
) -> Siamese:
    """Builds MoCo-v3 with the negatives of the config."""
    head = config.model.head
    return _siamese(
        config,
        encoder,
        views,
        schedule,
        predictor=_predictor(config, head if head == "mocov3_vit" else "mocov3"),
        loss=build_loss(config, views, config.siamese.temperature),
        candidates="other view",
        scale=2 * config.siamese.temperature,
        momentum=_momentum(config, steps_per_epoch, ahead=1),
    )


def _siamese(
    config: ConfigDict,
    encoder: Encoder,
    views: ViewMaker,
    schedule: optax.Schedule,
    **parts: Any,
) -> Siamese:
    common: dict[str, Any] = {
        "predictor": None,
        "candidates": "none",
        "scale": 1.0,
        "momentum": None,
    }
    return Siamese(
        encoder=encoder,
        optimizer=build_optimizer(config, schedule),
        learning_rate=schedule,
        views=replace(views, of_both=True),
        groups=config.model.bn_groups,
        merge_passes=config.siamese.merge_passes,
        parts=build_parts(config),
        **(common | parts),
    )


def _predictor(config: ConfigDict, kind: str) -> models.Predictor:
    model = config.model
    return models.Predictor(
        kind=kind,
        dim=model.dim,
        hidden=model.head_hidden,
        running=model.bn_running,
        dtype=model.dtype,
        precision=model.precision,
        seed=config.seed,
    )


def _momentum(config: ConfigDict, steps_per_epoch: int, ahead: int = 0) -> optax.Schedule:
    base = config.siamese.momentum
    if config.siamese.momentum_schedule == "constant":
        return optax.constant_schedule(base)
    return target_momentum.cosine(base, config.epochs * steps_per_epoch, ahead)


METHODS: Registry[Builder] = Registry(
    "method",
    {
        "moco": build_moco,
        siamese.BYOL: build_byol,
        siamese.SIMCLR: build_simclr,
        siamese.MOCOV3: build_mocov3,
    },
)


# Methods whose queries may be divided into parts, because nothing else has a gradient.
ACCUMULATING = ("moco", siamese.BYOL, siamese.MOCOV3)


def register(name: str, builder: Builder) -> None:
    """Registers a method under a name, which configs give as `method`.

    Args:
        name: a name that is not taken.
        builder: called with config, encoder, `ViewMaker` and the learning rate by step; and by
            name with `steps_per_epoch`, if it has such an argument.

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
    builder = METHODS[config.method]
    wanted = inspect.signature(builder).parameters
    extra = {"steps_per_epoch": steps_per_epoch} if "steps_per_epoch" in wanted else {}
    method = builder(config, encoder, build_views(config), schedule, **extra)
    return _with_mixing(method, config, steps_per_epoch)


def _with_mixing(method: Method, config: ConfigDict, steps_per_epoch: int) -> Method:
    """Adds the mixed negatives of the config, if there are any, to a method.

    Raises:
        UsageError: the method has no queue whose keys could be mixed.
    """
    settings = config.mochi
    if not settings.pairs and not settings.with_query:
        return method
    if not isinstance(method, MoCo) or isinstance(method, SymmetricMoCo):
        raise UsageError(
            f"mochi.pairs is {settings.pairs} and mochi.with_query is {settings.with_query}, but "
            f"both must be 0 with the method {config.method!r} and with moco.symmetric: they mix "
            "keys of MoCo's queue for one direction."
        )
    mochi = MoCHi(
        hardest=settings.hardest,
        pairs=settings.pairs,
        with_query=settings.with_query,
        warmup_steps=settings.warmup_epochs * steps_per_epoch,
    )
    return replace(method, mochi=mochi)


def build_views(config: ConfigDict) -> ViewMaker:
    """Builds the `ViewMaker` of a config."""
    kind = config.negatives.kind
    settings = negative_settings(config)
    return ViewMaker(
        recipe=view_recipe(config),
        patches=config.negatives.num if "patch" in kind else 0,
        texture="texture" in kind,
        patch_range=settings.patch_range,
        dtype=config.model.dtype,
        seed=config.seed,
        patch_mode=settings.patch_mode,
        patch_align=settings.patch_align,
        more=tuple(negative for negative, _ in _more_negatives(config, settings)),
    )


def negative_settings(config: ConfigDict) -> Settings:
    """Returns the settings of the negatives, with lengths in pixels of the views."""
    fields, side = config.negatives, config.data.image_size
    return Settings(
        image_size=side,
        patch_range=scaled_patch_range(fields.patch_size, side),
        patch_mode=fields.patch_mode,
        patch_align=fields.patch_align,
        low_pass_sigma=fields.low_pass_sigma * side / 224,
        high_pass_sigma=fields.high_pass_sigma * side / 224,
    )


def _more_negatives(config: ConfigDict, settings: Settings) -> list[tuple[Negative, float]]:
    """Returns the negatives of `negatives.more` with an alpha each, the texture last."""
    made = [
        (NEGATIVES[part.name](settings), part.alpha or config.negatives.alpha)
        for part in parse(config.negatives.more)
        for _ in range(part.count)
    ]
    return sorted(made, key=lambda pair: pair[0].reads == "texture")


def view_recipe(config: ConfigDict) -> ViewRecipe:
    """Builds the recipe from the `views` section, without the crops, which the host makes.

    Raises:
        UsageError: a value is out of range.
    """
    values = {name: value for name, value in config.views.items() if name != "crop_scale"}
    return ViewRecipe(**values)


def build_loss(config: ConfigDict, views: ViewMaker, temperature: float) -> ContrastiveLoss:
    """Builds the loss, with alpha per negative of `views`."""
    loss = LOSSES[config.loss.name]
    return loss(temperature, negative_weights(config, views), epsilon=config.loss.epsilon)


def negative_weights(config: ConfigDict, views: ViewMaker) -> tuple[float, ...]:
    """Returns alpha per negative of `views`: of patches, then of `more`, then of the texture."""
    alpha = config.negatives.alpha
    more = tuple(alpha for _, alpha in _more_negatives(config, negative_settings(config)))
    textures = (config.negatives.texture_alpha or alpha,) * views.texture
    return (alpha,) * views.patches + more + textures


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


def build_parts(config: ConfigDict) -> Parts:
    """Builds the parts of a pre-training's queries that take turns."""
    return Parts(config.optimizer.accumulate, config.model.bn_running)


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
    """Builds the optimiser of a pre-training config, with its anchor if there is one."""
    made = optimizer.make(
        config.optimizer.name,
        schedule,
        momentum=config.optimizer.momentum,
        weight_decay=config.optimizer.weight_decay,
    )
    anchor = config.optimizer.anchor
    return optimizer.anchored(made, anchor) if anchor else made


def placement(config: ConfigDict, method: Method) -> Placement:
    """Builds the placement of a run's arrays."""
    return Placement(
        share_queue=config.moco.shard_queue,
        share_optimizer=config.optimizer.shard,
        arranged=config.moco.shuffle == "data" and method.shuffles,
    )
