"""Checks the config of a pre-training before any data or device is touched.

Here are the rules between fields, and those that depend on the number of devices.
"""

from ml_collections import ConfigDict

from nsneg_jax import models
from nsneg_jax.errors import UsageError
from nsneg_jax.input.sources.source import is_files
from nsneg_jax.jobs import build
from nsneg_jax.jobs.fields.checker import FEWEST_PER_GROUP, Checker
from nsneg_jax.methods import siamese
from nsneg_jax.methods.negatives import parse, scaled_patch_range, validate_alignment
from nsneg_jax.models.transformers import vit
from nsneg_jax.pretrained import UNTRAINED


def validate_pretraining(config: ConfigDict, devices: int) -> None:
    """Checks a pre-training job as far as possible without the data.

    Args:
        config: config of a pre-training job.
        devices: number of devices that share the batch.

    Raises:
        UsageError: a field is wrong; the message names the first one.
    """
    check = Checker(config, "pretrain")
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
        config.batch_size // config.model.bn_groups >= FEWEST_PER_GROUP,
        f"at most {config.batch_size // FEWEST_PER_GROUP}, so that each group has 2 images or "
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


def _check_start(check: Checker, config: ConfigDict) -> None:
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


def _check_accumulation(check: Checker, config: ConfigDict, devices: int) -> None:
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


def _check_two_views(check: Checker, config: ConfigDict) -> None:
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


def _check_transformer(check: Checker, config: ConfigDict) -> None:
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


def _check_negatives(check: Checker, config: ConfigDict) -> None:
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


def _check_loss(check: Checker, config: ConfigDict) -> None:
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
