"""Checks the values of a config before any data or device is touched."""

import math

from ml_collections import ConfigDict

from nsneg_jax.errors import UsageError
from nsneg_jax.evaluation.protocols.benchmarks import BENCHMARKS, IMAGENET_C
from nsneg_jax.evaluation.protocols.imagenet import CLASS_LISTS
from nsneg_jax.evaluation.sets import PROTOCOLS
from nsneg_jax.input.sources.source import is_files
from nsneg_jax.jobs.build import METHODS, view_recipe
from nsneg_jax.methods.negatives import MODES, scaled_patch_range
from nsneg_jax.methods.optimizer import OPTIMIZERS
from nsneg_jax.models import NETWORKS
from nsneg_jax.models.encoder import PRECISIONS
from nsneg_jax.models.resnet import STEMS
from nsneg_jax.parallel.mesh import DTYPES
from nsneg_jax.training.workdir import flatten


class _Checker:
    """Raises UsageError for the first field with an unexpected value."""

    def __init__(self, config: ConfigDict):
        self.fields = flatten(config.to_dict())

    def expect(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise UsageError(
                f"{name} is {self.fields[name]!r}, but must be {expected}. "
                f"Set it with --config.{name}=VALUE."
            )

    def positive(self, *names: str) -> None:
        for name in names:
            self.expect(name, all(v > 0 for v in self._values(name)), "greater than 0")

    def not_negative(self, *names: str) -> None:
        for name in names:
            self.expect(name, all(v >= 0 for v in self._values(name)), "0 or greater")

    def _values(self, name: str) -> tuple:
        value = self.fields[name]
        return value if isinstance(value, tuple) else (value,)

    def image_size(self) -> None:
        size = self.fields["data.image_size"]
        self.expect("data.image_size", size >= 8, "at least 8 pixels")

    def views_or_of_run(self) -> None:
        """Checks sizes that may be left to the encoder's run, see `frozen.FROM_RUN`."""
        size = self.fields["data.image_size"]
        expected = "at least 8 pixels, or 0 for the encoder's"
        self.expect("data.image_size", size >= 8 or size == 0, expected)
        for name, value in self.fields.items():
            if name.endswith(".resize"):
                self.expect(name, value >= -1, "0 or greater, or -1 for the encoder's")

    def loaders(self) -> None:
        """Checks the threads and processes of the input, and how many images may be unreadable."""
        for name, least in (("data.threads", 1), ("data.workers", 0)):
            value = self.fields[name]
            self.expect(name, value >= least or value == -1, f"at least {least}, or -1")
        name = "data.max_bad_fraction"
        if name in self.fields:  # evaluations count what is unreadable
            self.expect(name, 0 <= self.fields[name] <= 1, "between 0 and 1")

    def watchdog(self) -> None:
        minutes = self.fields["watchdog_minutes"]
        self.expect("watchdog_minutes", 0 <= minutes < math.inf, "0 or greater, and finite")

    def divisible_batch(self, devices: int) -> None:
        self.expect(
            "batch_size",
            self.fields["batch_size"] % devices == 0,
            f"a multiple of the number of devices, {devices}",
        )

    def one_of(self, name: str, choices) -> None:
        self.expect(name, self.fields[name] in choices, "one of " + ", ".join(map(repr, choices)))

    def pair(self, name: str, low: float, high: float) -> None:
        value = self.fields[name]
        numbers = len(value) == 2 and all(isinstance(v, int | float) for v in value)
        self.expect(
            name,
            numbers and low < value[0] <= value[1] <= high,
            f"two numbers (smallest, largest) with {low} < smallest <= largest <= {high}",
        )


def validate_linear(config: ConfigDict, devices: int) -> None:
    """Checks a linear job as far as possible without the encoder and the data.

    Args:
        config: config of a linear job.
        devices: number of devices that share the batch.

    Raises:
        UsageError: a field is wrong; the message names the first one.
    """
    check = _check_frozen_encoder(config, devices)
    check.positive("epochs", "learning_rates")
    check.not_negative("optimizer.weight_decay")
    check.one_of("optimizer.schedule", ("cosine", "step"))
    check.pair("crop_scale", 0, 1)
    for name in ("flip_probability", "optimizer.momentum"):
        check.expect(name, 0 <= check.fields[name] <= 1, "between 0 and 1")
    check.expect(
        "learning_rates",
        len(set(config.learning_rates)) == len(config.learning_rates) > 0,
        "one learning rate or more, all different",
    )


def validate_knn(config: ConfigDict, devices: int) -> None:
    """Like `validate_linear`, for the kNN job."""
    check = _check_frozen_encoder(config, devices)
    check.positive("knn.k", "knn.temperature")
    check.expect("knn.k", len(config.knn.k) > 0, "one number of neighbours or more")


def validate_evaluate(config: ConfigDict, devices: int) -> None:
    """Like `validate_linear`, for the evaluate job."""
    check = _check_frozen_encoder(config, devices, "linear probe (such as runs/linear)")
    for name in config.sets:
        check.one_of(f"sets.{name}.protocol", PROTOCOLS)
        check.one_of(f"sets.{name}.answers", ("all", "present", *CLASS_LISTS))
        check.one_of(f"sets.{name}.names", ("class", "index"))
        check.one_of(f"sets.{name}.benchmark", tuple(BENCHMARKS))
        check.not_negative(f"sets.{name}.border")
        if config.sets[name].generate:
            check.expect(
                f"sets.{name}.benchmark",
                config.sets[name].benchmark == IMAGENET_C,
                f"{IMAGENET_C!r} while sets.{name}.generate is set (others are not made here)",
            )


def validate_features(config: ConfigDict, devices: int) -> None:
    """Like `validate_linear`, for the features job."""
    check = _check_frozen_encoder(config, devices)
    check.one_of("features_format", ("npz", "safetensors"))


def _check_frozen_encoder(
    config: ConfigDict, devices: int, run: str = "run (such as runs/patch)"
) -> _Checker:
    """Checks the fields that every job with a frozen encoder reads."""
    check = _Checker(config)
    check.expect(
        "pretrained",
        bool(config.pretrained),
        f"the workdir of a {run} or a checkpoint folder in it",
    )
    check.positive("batch_size")
    check.not_negative("seed")
    check.watchdog()
    check.loaders()
    check.one_of("dtype", DTYPES)
    check.one_of("precision", PRECISIONS)
    check.views_or_of_run()
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
    check = _Checker(config)
    check.positive(
        "batch_size", "epochs", "log_every_steps", "model.dim", "model.width",
        "model.bn_groups", "moco.queue_size", "moco.temperature", "optimizer.learning_rate",
        "checkpoint.every_steps", "checkpoint.keep", "collapse_steps",
    )  # fmt: skip
    check.not_negative(
        "total_steps", "seed", "data.resize", "optimizer.weight_decay",
        "knn_every_epochs", "checkpoint.keep_every_epochs",
    )  # fmt: skip
    check.one_of("on_collapse", ("warn", "stop"))
    check.watchdog()
    check.one_of("method", tuple(METHODS))
    check.one_of("optimizer.name", tuple(OPTIMIZERS))
    check.not_negative("optimizer.warmup_epochs")
    check.one_of("model.arch", tuple(NETWORKS))
    check.one_of("model.stem", STEMS)
    check.one_of("model.bn_running", ("first", "mean"))
    check.one_of("model.dtype", DTYPES)
    check.one_of("model.precision", PRECISIONS)
    check.one_of("optimizer.schedule", ("cosine", "step"))
    check.pair("views.crop_scale", 0, 1)
    view_recipe(config)
    for name in ("moco.momentum", "optimizer.momentum"):
        check.expect(name, 0 <= check.fields[name] < 1, "at least 0 and less than 1")
    check.image_size()
    check.loaders()

    _check_negatives(check, config)
    check.expect(
        "model.bn_groups",
        config.batch_size % config.model.bn_groups == 0,
        f"a divisor of batch_size, {config.batch_size}",
    )
    check.divisible_batch(devices)
    check.expect(
        "moco.queue_size",
        config.moco.queue_size >= config.batch_size,
        f"at least batch_size, {config.batch_size}, so that a step's keys fit in",
    )
    check.one_of("moco.shuffle", ("device", "data"))
    if config.moco.shard_queue:
        check.expect(
            "moco.queue_size",
            config.moco.queue_size % devices == 0,
            f"a multiple of the {devices} devices that share it (moco.shard_queue)",
        )


def _check_negatives(check: _Checker, config: ConfigDict) -> None:
    check.one_of("negatives.kind", ("none", "patch", "texture", "patch+texture"))
    check.one_of("negatives.missing", ("error", "skip"))
    check.one_of("negatives.patch_mode", MODES)
    check.not_negative("negatives.texture_alpha")
    kind = config.negatives.kind
    if "patch" not in kind:
        check.expect(
            "negatives.patch_mode",
            config.negatives.patch_mode == "crops",
            f"'crops' while negatives.kind is {kind!r}, which has no patches",
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
        return
    check.positive("negatives.alpha", "negatives.num")
    sizes = config.negatives.patch_size
    check.expect("negatives.patch_size", len(sizes) == 2, "two integers, (smallest, largest)")
    scaled_patch_range(sizes, config.data.image_size)
    if kind == "texture":
        check.expect(
            "negatives.num", config.negatives.num == 1, "1 of kind 'texture', which has one texture"
        )
    if "texture" in kind:
        textures = config.negatives.texture_source
        of_files = textures.startswith(("folder:", "arrayrecord:"))
        check.expect(
            "negatives.texture_source",
            of_files if is_files(config.data.source) else textures == "made",
            "'folder:PATH' or 'arrayrecord:PATH' for image files, and 'made' for the built-in ones",
        )
