"""Reads the settings of the jobs with a frozen encoder from their configs."""

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
    """Settings of the features job."""

    data: Splits
    features_format: str


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


def feature_settings(config: ConfigDict) -> FeatureSettings:
    """Reads the settings of a features job."""
    return _section(
        FeatureSettings, config, data=_section(Splits, config.data), reading=reading_of(config)
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
        only=tuple(name.strip() for name in config.only.split(",") if name.strip()),
        sets={name: _section(EvaluationSet, section) for name, section in config.sets.items()},
    )


def reading_of(config: ConfigDict, **given: int) -> Reading:
    """Reads how a job reads its images; `given` replaces fields of its section `data`."""
    return _section(Reading, config.data, batch_size=config.batch_size, **given)


def _section(kind: type[Section], section: ConfigDict, **given: Any) -> Section:
    """Makes a `kind` from the `given` fields, and the others from `section`."""
    values = {field.name: section[field.name] for field in fields(kind) if field.name not in given}
    return kind(**values, **given)
