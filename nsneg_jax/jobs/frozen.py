"""Reads the settings of the jobs with a frozen encoder from their configs."""

from collections.abc import Mapping
from dataclasses import Field, dataclass, fields
from typing import Any, ClassVar, Protocol, TypeVar

from ml_collections import ConfigDict

from nsneg_jax.errors import UsageError
from nsneg_jax.evaluation.passes import Reading
from nsneg_jax.evaluation.sets import EvaluationSet
from nsneg_jax.files import data_root


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


# Values of fields in the section `data`, and of test sets, that are left to the encoder's run.
FROM_RUN: dict[str, Any] = {"source": "", "image_size": 0, "resize": -1}

Section = TypeVar("Section", bound=_Dataclass)


@dataclass(frozen=True)
class Splits:
    """The data set of a `data` section.

    `split` is the training split or the bank, `eval_split` the evaluated split, `max_bad_fraction`
    the part of their images that may be unreadable; for the other fields see
    `nsneg_jax.input.splits.DataSet`.
    """

    source: str
    tfds_dir: str
    split: str
    eval_split: str
    classes: str
    labels: str
    image_size: int
    max_bad_fraction: float


@dataclass(frozen=True)
class Optimizer:
    """The `optimizer` section of a linear probe; see configs/linear.py."""

    schedule: str
    milestones: tuple[int, ...]
    momentum: float
    weight_decay: float


@dataclass(frozen=True, kw_only=True)
class _Frozen:
    """Settings that all these jobs share; see configs/linear.py and configs/evaluate.py."""

    pretrained: str
    dtype: str
    precision: str
    reading: Reading


@dataclass(frozen=True, kw_only=True)
class FeatureSettings(_Frozen):
    """Settings of the features job; `splits` comes from `features_splits` or the data."""

    data: Splits
    features_format: str
    splits: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class KnnSettings(_Frozen):
    """Settings of the kNN job; `k` and `temperature` come from its section `knn`."""

    data: Splits
    k: tuple[int, ...]
    temperature: float


@dataclass(frozen=True, kw_only=True)
class ProbeSettings(_Frozen):
    """Settings of the linear job."""

    data: Splits
    optimizer: Optimizer
    seed: int
    epochs: int
    learning_rates: tuple[float, ...]
    evaluate_only: bool
    crop_scale: tuple[float, float]
    flip_probability: float


@dataclass(frozen=True)
class EncoderOptimizer(Optimizer):
    """The `optimizer` section of fine-tuning; see configs/finetune.py."""

    name: str
    learning_rate: float
    classifier_factor: float
    warmup_epochs: int


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(_Frozen):
    """Settings of the finetune job."""

    data: Splits
    optimizer: EncoderOptimizer
    seed: int
    epochs: int
    crop_scale: tuple[float, float]
    flip_probability: float
    label_smoothing: float
    anchor: float
    bn_groups: int

    @property
    def learning_rates(self) -> tuple[float, ...]:
        """The rates that classifiers are trained with: one."""
        return (self.optimizer.learning_rate,)


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings(_Frozen):
    """Settings of the evaluate job; `tfds_dir` comes from its section `data`."""

    tfds_dir: str
    label: str
    csv: str
    classes: str
    only: tuple[str, ...]
    require_all: bool
    seed: int
    sets: dict[str, EvaluationSet]


def completed(config: ConfigDict, record: Mapping[str, Any]) -> ConfigDict:
    """Returns the config with all values set that it leaves to the encoder's run.

    Args:
        config: config of a job with a frozen encoder.
        record: what the run was trained on, see `pretrained.trained_on`; for what is unknown the
            values of the published runs are taken.
    """
    config = config.copy_and_resolve_references()
    data, sets = config.data, list(config.get("sets", {}).values())
    published = {"source": f"folder:{data_root()}/imagenet100", "image_size": 224, "resize": 256}
    of_run = published | {name: value for name, value in record.items() if value is not None}
    for section in (data, *sets):
        is_own = section.get("source") == FROM_RUN["source"]
        for name in ("source", "classes", "labels") if is_own else ():
            if name in section and not section[name]:
                section[name] = of_run.get(name, "")
        if is_own and not data.tfds_dir:
            data.tfds_dir = of_run.get("tfds_dir", "")
        if section.get("image_size") == FROM_RUN["image_size"]:
            section.image_size = of_run["image_size"]
        if section.get("resize") == FROM_RUN["resize"]:
            # A run on small files may crop only, which says nothing about the files of other sets.
            fits = section is data or is_own or of_run["resize"]
            section.resize = of_run["resize"] if fits else published["resize"]
    return config


def difference(config: ConfigDict, record: Mapping[str, Any]) -> str:
    """Says which values that are set differ from those of the encoder's run; '' if none do.

    Args:
        config: config of a job with a frozen encoder.
        record: see `completed`.
    """
    data = config.data
    given = {name: data[name] for name in FROM_RUN if name in data}
    found = [
        f"data.{name} is {value!r} here and {record[name]!r} in the encoder's run"
        for name, value in given.items()
        if value != FROM_RUN[name] and record.get(name, value) != value
    ]
    return "; ".join(found)


def feature_settings(config: ConfigDict) -> FeatureSettings:
    """Reads the settings of a features job."""
    return _section(
        FeatureSettings,
        config,
        data=_section(Splits, config.data),
        reading=reading_of(config),
        splits=_listed(config.features_splits) or (config.data.eval_split,),
    )


def knn_settings(config: ConfigDict) -> KnnSettings:
    """Reads the settings of a kNN job."""
    return _section(
        KnnSettings,
        config,
        data=_section(Splits, config.data),
        reading=reading_of(config),
        k=tuple(config.knn.k),
        temperature=config.knn.temperature,
    )


def probe_settings(config: ConfigDict) -> ProbeSettings:
    """Reads the settings of a linear job."""
    return _section(
        ProbeSettings,
        config,
        data=_section(Splits, config.data),
        reading=reading_of(config),
        optimizer=_section(Optimizer, config.optimizer),
    )


def finetune_settings(config: ConfigDict) -> FinetuneSettings:
    """Reads the settings of a finetune job."""
    return _section(
        FinetuneSettings,
        config,
        data=_section(Splits, config.data),
        reading=reading_of(config),
        optimizer=_section(EncoderOptimizer, config.optimizer),
    )


def evaluation_settings(config: ConfigDict) -> EvaluationSettings:
    """Reads the settings of an evaluate job.

    Raises:
        UsageError: the fields of a set are not those of `EvaluationSet`.
    """
    for name, section in config.sets.items():
        odd = set(section) ^ {field.name for field in fields(EvaluationSet)}
        if odd:
            raise UsageError(
                f"The set {name} lacks these fields, or should not have them: "
                f"{', '.join(sorted(odd))}. Make sets with `test_set` in configs/evaluate.py."
            )
    return _section(
        EvaluationSettings,
        config,
        reading=reading_of(config, resize=0),
        tfds_dir=config.data.tfds_dir,
        only=_listed(config.only),
        sets={name: _section(EvaluationSet, section) for name, section in config.sets.items()},
    )


def reading_of(config: ConfigDict, **given: int) -> Reading:
    """Reads how a job reads its images; `given` replaces fields of its section `data`."""
    return _section(Reading, config.data, batch_size=config.batch_size, **given)


def _listed(text: str) -> tuple[str, ...]:
    """Returns the names in a text with commas, each once, in their order."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _section(kind: type[Section], section: ConfigDict, **given: Any) -> Section:
    """Makes a `kind` from the `given` fields, and the others from `section`."""
    values = {field.name: section[field.name] for field in fields(kind) if field.name not in given}
    return kind(**values, **given)
