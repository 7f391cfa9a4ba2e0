"""The settings of the jobs with a frozen encoder, out of their configs."""

from dataclasses import Field, dataclass, fields
from typing import Any, ClassVar, Protocol, TypeVar

from ml_collections import ConfigDict

from nsneg_jax.errors import UsageError
from nsneg_jax.evaluation.passes import Reading
from nsneg_jax.evaluation.sets import EvaluationSet


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


Section = TypeVar("Section", bound=_Dataclass)


@dataclass(frozen=True)
class Splits:
    """The `data` section's data set: `split` is trained on or the bank, `eval_split` is evaluated;
    the others as of `nsneg_jax.input.splits.DataSet`."""

    source: str
    tfds_dir: str
    split: str
    eval_split: str
    classes: str
    image_size: int


@dataclass(frozen=True)
class Optimizer:
    """The `optimizer` section of a linear probe; see configs/linear.py."""

    schedule: str
    milestones: tuple[int, ...]
    momentum: float
    weight_decay: float


@dataclass(frozen=True, kw_only=True)
class _Frozen:
    """What all of these jobs have; see configs/linear.py and configs/evaluate.py."""

    pretrained: str
    dtype: str
    precision: str
    reading: Reading


@dataclass(frozen=True, kw_only=True)
class FeatureSettings(_Frozen):
    """Of the features job."""

    data: Splits
    features_format: str


@dataclass(frozen=True, kw_only=True)
class KnnSettings(_Frozen):
    """Of the kNN job; `k` and `temperature` are of its section `knn`."""

    data: Splits
    k: tuple[int, ...]
    temperature: float


@dataclass(frozen=True, kw_only=True)
class ProbeSettings(_Frozen):
    """Of the linear job."""

    data: Splits
    optimizer: Optimizer
    seed: int
    epochs: int
    learning_rates: tuple[float, ...]
    evaluate_only: bool
    crop_scale: tuple[float, float]
    flip_probability: float


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings(_Frozen):
    """Of the evaluate job; `tfds_dir` is of its section `data`."""

    tfds_dir: str
    label: str
    classes: str
    only: tuple[str, ...]
    require_all: bool
    seed: int
    sets: dict[str, EvaluationSet]


def feature_settings(config: ConfigDict) -> FeatureSettings:
    """The settings of a features job."""
    return _section(
        FeatureSettings, config, data=_section(Splits, config.data), reading=reading_of(config)
    )


def knn_settings(config: ConfigDict) -> KnnSettings:
    """The settings of a kNN job."""
    return _section(
        KnnSettings,
        config,
        data=_section(Splits, config.data),
        reading=reading_of(config),
        k=tuple(config.knn.k),
        temperature=config.knn.temperature,
    )


def probe_settings(config: ConfigDict) -> ProbeSettings:
    """The settings of a linear job."""
    return _section(
        ProbeSettings,
        config,
        data=_section(Splits, config.data),
        reading=reading_of(config),
        optimizer=_section(Optimizer, config.optimizer),
    )


def evaluation_settings(config: ConfigDict) -> EvaluationSettings:
    """The settings of an evaluate job.

    Raises:
        UsageError: a set has other fields than a `EvaluationSet`.
    """
    for name, section in config.sets.items():
        odd = set(section) ^ {field.name for field in fields(EvaluationSet)}
        if odd:
            raise UsageError(
                f"The set {name} has another field, or lacks one: {', '.join(sorted(odd))}. Make "
                "sets with `test_set` of configs/evaluate.py."
            )
    return _section(
        EvaluationSettings,
        config,
        reading=reading_of(config, resize=0),
        tfds_dir=config.data.tfds_dir,
        only=tuple(name.strip() for name in config.only.split(",") if name.strip()),
        sets={name: _section(EvaluationSet, section) for name, section in config.sets.items()},
    )


def reading_of(config: ConfigDict, **given: int) -> Reading:
    """How a job reads its images; `given` takes the place of fields of its section `data`."""
    return _section(Reading, config.data, batch_size=config.batch_size, **given)


def _section(kind: type[Section], section: ConfigDict, **given: Any) -> Section:
    """The fields that `kind` has, those of `section` where they are not given."""
    values = {field.name: section[field.name] for field in fields(kind) if field.name not in given}
    return kind(**values, **given)
