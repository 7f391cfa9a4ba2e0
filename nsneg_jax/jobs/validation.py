"""Checks the values of a config before any data or device is touched.

Each field alone is checked by its row in the tables of `nsneg_jax.jobs.fields`; here are the rules
between fields, and those that depend on the number of devices.
"""

import os

from ml_collections import ConfigDict

from nsneg_jax import models
from nsneg_jax.errors import UsageError
from nsneg_jax.evaluation.protocols.benchmarks import MADE_HERE
from nsneg_jax.input.labelled import scaled_resize
from nsneg_jax.input.sources.source import is_files
from nsneg_jax.jobs import build
from nsneg_jax.jobs.fields.field import wrong
from nsneg_jax.jobs.fields.rows.shared import COUNTED, MOST_STEPS
from nsneg_jax.jobs.fields.table import check_fields
from nsneg_jax.methods import siamese
from nsneg_jax.methods.negatives import parse, scaled_patch_range, validate_alignment
from nsneg_jax.models.transformers import vit
from nsneg_jax.pretrained import UNTRAINED
from nsneg_jax.training.workdir import flatten

_FEWEST_PER_GROUP = 2
_PROCESSES_PER_PROCESSOR = 16
_LARGEST_SIDE = 8192  # pixels of the shorter side of a resized picture


class _Checker:
    """Raises UsageError for the first field with an unexpected value."""

    def __init__(self, config: ConfigDict, job: str | None = None):
        check_fields(config, job)
        self.fields = flatten(config.to_dict())

    def expect(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise wrong(name, self.fields[name], expected)

    def divisible_batch(self, devices: int) -> None:
        self.expect(
            "batch_size",
            self.fields["batch_size"] % devices == 0,
            f"a multiple of the number of devices, {devices}",
        )


def check_reading(config: ConfigDict) -> None:
    """Checks that the input asks for no more than a machine can do.

    Args:
        config: config of any job; sizes that it leaves to another run are not checked.

    Raises:
        UsageError: it asks for far too many processes on this machine, or too large pictures.
    """
    size = config.data.image_size
    for name, value in flatten(config.to_dict()).items():
        if name.endswith("resize") and scaled_resize(max(value, 0), size) > _LARGEST_SIDE:
            most = _LARGEST_SIDE * 224 // size
            raise wrong(
                name,
                value,
                f"at most {most} for data.image_size {size}, so that pictures have no more than "
                f"{_LARGEST_SIDE:,} pixels on their shorter side",
            )
    most = _PROCESSES_PER_PROCESSOR * (os.cpu_count() or 1)
    if config.data.workers > most:
        expected = f"at most {most}, {_PROCESSES_PER_PROCESSOR} per processor of this machine"
        raise wrong("data.workers", config.data.workers, expected)


def validate_linear(config: ConfigDict, devices: int) -> None:
    """Checks a linear job as far as possible without the encoder and the data.

    Args:
        config: config of a linear job.
        devices: number of devices that share the batch.

    Raises:
        UsageError: a field is wrong; the message names the first one.
    """
    _check_frozen_encoder(config, devices, "linear")


def validate_finetune(config: ConfigDict, devices: int) -> None:
    """Like `validate_linear`, for the finetune job."""
    check = _check_frozen_encoder(config, devices, "finetune")
    warmup = config.optimizer.warmup_epochs
    check.expect(
        "optimizer.warmup_epochs", warmup < config.epochs, f"less than epochs, {config.epochs}"
    )
    check.expect(
        "bn_groups",
        not config.bn_groups or config.batch_size % config.bn_groups == 0,
        f"0 or a divisor of batch_size, {config.batch_size}",
    )
    check.expect(
        "bn_groups",
        not config.bn_groups or config.batch_size // config.bn_groups >= _FEWEST_PER_GROUP,
        f"0 or at most {config.batch_size // _FEWEST_PER_GROUP}, so that each group has 2 images "
        f"or more of batch_size, {config.batch_size}",
    )


def validate_knn(config: ConfigDict, devices: int) -> None:
    """Like `validate_linear`, for the kNN job."""
    _check_frozen_encoder(config, devices, "knn")


def validate_features(config: ConfigDict, devices: int) -> None:
    """Like `validate_linear`, for the features job."""
    _check_frozen_encoder(config, devices, "features")


def validate_evaluate(config: ConfigDict, devices: int) -> None:
    """Like `validate_linear`, for the evaluate job."""
    check = _check_frozen_encoder(config, devices, "evaluate", "linear probe (such as runs/linear)")
    only = [name.strip() for name in config.only.split(",")] if config.only else []
    check.expect(
        "only",
        set(only) <= set(config.sets) and len(set(only)) == len(only),
        f"names of sets with commas, each once, among {', '.join(config.sets)} (or more in a "
        "config file of your own)",
    )
    for name in config.sets:
        if config.sets[name].generate:
            check.expect(
                f"sets.{name}.benchmark",
                config.sets[name].benchmark in MADE_HERE,
                f"one of {', '.join(map(repr, MADE_HERE))} while sets.{name}.generate is set "
                "(others are not made here)",
            )


def total_steps(epochs: int, steps_per_epoch: int, given: int = 0) -> int:
    """Returns the steps of a training.

    Args:
        epochs, steps_per_epoch: its length.
        given: another number of steps; 0 for none.

    Raises:
        UsageError: there are more steps than can be counted.
    """
    total = given or epochs * steps_per_epoch
    if total > MOST_STEPS:
        most = MOST_STEPS // steps_per_epoch
        raise wrong(
            "epochs", epochs, f"at most {most:,} with {steps_per_epoch:,} steps ({COUNTED})"
        )
    return total


def _check_frozen_encoder(
    config: ConfigDict, devices: int, job: str, run: str = "run (such as runs/patch)"
) -> _Checker:
    """Checks the fields that every job with a frozen encoder reads."""
    check = _Checker(config, job)
    check.expect(
        "pretrained",
        bool(config.pretrained.removeprefix(UNTRAINED)),
        f"the workdir of a {run} or a checkpoint folder in it",
    )
    check.divisible_batch(devices)
    return check


def validate_pretraining(config: ConfigDict, devices: int) -> None:
    """Checks a pre-training job as far as possible without the data.

    Args:
        config: config of a pre-training job.
        devices: number of devices that share the batch.

    Raises:
        UsageError: a field is wrong; the message names the first one.
    """
    check = _Checker(config, "pretrain")
    _check_start(check, config)
    warmup, largest = config.optimizer.warmup_epochs, config.views.blur_sigma[1]
    check.expect(
        "optimizer.warmup_epochs", warmup < config.epochs, f"less than epochs, {config.epochs}"
    )
    check.expect(
        "views.blur_sigma",
        not config.views.blur_probability or largest < config.data.image_size / 2,
        f"less than half of data.image_size, {config.data.image_size}",
    )
    _check_negatives(check, config)
    _check_loss(check, config)
    if config.model.arch in vit.ARCHS:
        _check_transformer(check, config)
    check.expect(
        "model.bn_groups",
        config.batch_size % config.model.bn_groups == 0,
        f"a divisor of batch_size, {config.batch_size}",
    )
    check.expect(
        "model.bn_groups",
        config.batch_size // config.model.bn_groups >= _FEWEST_PER_GROUP,
        f"at most {config.batch_size // _FEWEST_PER_GROUP}, so that each group has 2 images or "
        f"more of batch_size, {config.batch_size}: batch norm would give each image statistics of "
        "its own",
    )
    check.divisible_batch(devices)
    if config.optimizer.accumulate > 1:
        _check_accumulation(check, config, devices)
    if config.method in siamese.NAMES:
        _check_two_views(check, config)
        return
    keys = config.batch_size * (2 if config.moco.symmetric else 1)
    of = "2 batch_size" if config.moco.symmetric else "batch_size"
    check.expect(
        "moco.queue_size",
        config.moco.queue_size >= keys,
        f"at least {of}, {keys}, so that a step's keys fit in",
    )
    check.expect(
        "moco.shuffle",
        config.moco.shuffle == "device" or not config.moco.symmetric,
        "'device' while moco.symmetric is set, because a process loads the crops of one direction",
    )
    if config.moco.shard_queue:
        check.expect(
            "moco.queue_size",
            config.moco.queue_size % devices == 0,
            f"a multiple of the {devices} devices that share it (moco.shard_queue)",
        )


def _check_start(check: _Checker, config: ConfigDict) -> None:
    """Checks the weights that a run starts from, and how it is held to them."""
    check.expect(
        "pretrained",
        not config.pretrained.startswith(UNTRAINED),
        "the workdir of a run or a checkpoint folder in it, or '' for initial weights, which are "
        "drawn from the seed",
    )
    anchor = config.optimizer.anchor
    check.expect(
        "optimizer.anchor",
        not anchor or bool(config.pretrained),
        "0 while pretrained is '': it holds the backbone to the weights of that run, and initial "
        "ones are worth nothing. Give them with --config.pretrained=RUN, or leave the anchor out",
    )
    if config.optimizer.name == "sgd":
        # Where gradient descent with momentum begins to swing wider with every step.
        most = 2 * (1 + config.optimizer.momentum) / config.optimizer.learning_rate
        check.expect(
            "optimizer.anchor",
            anchor < most,
            f"less than {most:.3g}, which is 2 (1 + momentum) / learning_rate, because the steps "
            "of 'sgd' would carry the backbone beyond its start, further each time",
        )


def _check_accumulation(check: _Checker, config: ConfigDict, devices: int) -> None:
    """Checks that the parts of the queries give the gradient of the whole batch."""
    name, parts = "optimizer.accumulate", config.optimizer.accumulate
    check.expect(
        name,
        config.method != siamese.SIMCLR,
        "1 with the method 'simclr': its loss has gradients through both sides of every pair of "
        "the batch, so that all activations are needed at once (model.remat=True saves memory)",
    )
    check.expect(
        name,
        config.method in build.ACCUMULATING,
        f"1 with the method {config.method!r}: only {', '.join(map(repr, build.ACCUMULATING))} "
        "divide a batch",
    )
    groups, share = config.model.bn_groups, config.batch_size // devices
    has_predictor = config.method in siamese.NAMES
    if has_predictor or models.has_batch_norm(**config.model):
        check.expect(
            name,
            groups % devices == 0,
            f"1 with {groups} batch-norm groups (model.bn_groups) on {devices} devices: a part has "
            "whole groups on each device, so that their number must be a multiple of "
            f"{devices}; model.remat=True saves memory too",
        )
        share = groups // devices
        check.expect(
            name,
            share % parts == 0,
            f"{_divisors(share)}: a part has whole batch-norm groups on each device, and each has "
            f"{share} of the {groups} (model.bn_groups; another number of them is another run)",
        )
        return
    check.expect(
        name,
        share % parts == 0,
        f"{_divisors(share)}: a part has equally many images of each device, and batch_size "
        f"{config.batch_size} on {devices} gives each {share}",
    )


def _divisors(number: int) -> str:
    """Returns the divisors of a number in words; of many only the first."""
    found = [str(each) for each in range(1, min(number, 1024) + 1) if number % each == 0]
    if len(found) == 1:
        return found[0]
    most = 8
    return f"one of {', '.join(found[:most])}" + (", ..." if len(found) > most else "")


def _check_two_views(check: _Checker, config: ConfigDict) -> None:
    """Checks BYOL, SimCLR and MoCo-v3."""
    if config.method == siamese.BYOL:
        check.expect(
            "loss.name",
            config.loss.name == "infonce",
            "'infonce' with the method 'byol', which has a loss of its own",
        )
        check.expect(
            "negatives.alpha",
            sum(build.negative_weights(config, build.build_views(config))) < 1,
            "so small that the negatives of an image weigh less than 1 together, because its other "
            "view weighs 1: 'byol' subtracts alpha times their similarity",
        )
    check.expect("batch_size", config.batch_size > 1, "at least 2, so that there are other images")


def _check_transformer(check: _Checker, config: ConfigDict) -> None:
    model, side = config.model, config.data.image_size
    check.expect(
        "model.token_size", side % model.token_size == 0, f"a divisor of data.image_size, {side}"
    )
    factor, heads, _ = vit.ARCHS[model.arch]
    features = factor * model.width
    check.expect(
        "model.attention_heads",
        features % (model.attention_heads or heads) == 0,
        f"a divisor of the {features} features of {model.arch!r} with model.width {model.width} "
        f"(0 is {heads})",
    )
    check.expect(
        "model.positions",
        model.positions != "sincos" or features % 4 == 0,
        f"'learnable', since 'sincos' needs a multiple of 4 features and {model.arch!r} with "
        f"model.width {model.width} has {features}",
    )


def _check_negatives(check: _Checker, config: ConfigDict) -> None:
    kind = config.negatives.kind
    try:
        more = parse(config.negatives.more)
    except UsageError as error:
        raise UsageError(f"negatives.more cannot be used. {error}") from error
    if "patch" not in kind and not any(part.name == "patch" for part in more):
        check.expect(
            "negatives.patch_mode",
            config.negatives.patch_mode == "crops",
            f"'crops' while negatives.kind is {kind!r}, which has no patches",
        )
        check.expect(
            "negatives.patch_align",
            config.negatives.patch_align == 0,
            f"0 while negatives.kind is {kind!r}, which has no patches",
        )
    if kind != "patch+texture":
        check.expect(
            "negatives.texture_alpha",
            config.negatives.texture_alpha == 0,
            f"0 while negatives.kind is {kind!r} (it is for the textures of 'patch+texture'; a "
            "single kind uses negatives.alpha)",
        )
    if kind == "none":
        for name in ("negatives.alpha", "negatives.num"):
            check.expect(
                name,
                check.fields[name] == 0,
                "0 while negatives.kind is 'none' (use configs/moco.py for a run without "
                "negatives, or kind 'patch')",
            )
    else:
        for name in ("negatives.alpha", "negatives.num"):
            check.expect(
                name, check.fields[name] > 0, f"greater than 0 while negatives.kind is {kind!r}"
            )
        sides = scaled_patch_range(config.negatives.patch_size, config.data.image_size)
        validate_alignment(*sides, config.negatives.patch_align)
    if kind == "texture":
        check.expect(
            "negatives.num", config.negatives.num == 1, "1 of kind 'texture', which has one texture"
        )
    for part in more:
        check.expect(
            "negatives.more",
            bool(part.alpha or config.negatives.alpha),
            f"a text with an alpha for {part.name!r}, such as '{part.name}:{part.count}@1', while "
            "negatives.kind is 'none'",
        )
    if "texture" in kind or (more and build.build_views(config).reads_texture):
        textures = config.negatives.texture_source
        of_files = textures.startswith(("folder:", "arrayrecord:"))
        check.expect(
            "negatives.texture_source",
            of_files if is_files(config.data.source) else textures == "made",
            "'folder:PATH' or 'arrayrecord:PATH' for image files, and 'made' for the built-in ones",
        )


def _check_loss(check: _Checker, config: ConfigDict) -> None:
    name, epsilon = config.loss.name, config.loss.epsilon
    if name == "ifm":
        check.expect("loss.epsilon", epsilon > 0, "greater than 0 while loss.name is 'ifm'")
    if name == "infonce":
        check.expect(
            "loss.epsilon", epsilon == 0, "0 while loss.name is 'infonce' (set loss.name to 'ifm')"
        )
    if config.mochi.pairs or config.mochi.with_query:
        size, warmup = config.moco.queue_size, config.mochi.warmup_epochs
        check.expect("mochi.hardest", config.mochi.hardest <= size, f"at most the queue's {size}")
        check.expect(
            "mochi.warmup_epochs", warmup < config.epochs, f"less than epochs, {config.epochs}"
        )
