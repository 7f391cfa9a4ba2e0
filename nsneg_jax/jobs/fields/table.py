"""All fields by job: their meanings, and the check of a config against them."""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

from ml_collections import ConfigDict

from nsneg_jax.errors import UsageError
from nsneg_jax.jobs.fields.field import Field, shown
from nsneg_jax.jobs.fields.kinds import Choice, plain
from nsneg_jax.jobs.fields.rows.evaluation import EVALUATION, TEST_SET
from nsneg_jax.jobs.fields.rows.finetuning import FINETUNING
from nsneg_jax.jobs.fields.rows.pretraining import PRETRAINING
from nsneg_jax.jobs.fields.rows.probing import JOBS, PROBING
from nsneg_jax.training.workdir import flatten

# '*' stands for the name of a test set
OF_SETS = tuple(replace(field, name=f"sets.*.{field.name}") for field in TEST_SET)
FIELDS: Mapping[str, tuple[Field, ...]] = {
    "pretrain": PRETRAINING,
    **dict.fromkeys(JOBS, PROBING),
    "finetune": FINETUNING,
    "evaluate": (*EVALUATION, *OF_SETS),
}
# a config of each job, for messages
_EXAMPLES = {
    "pretrain": "patch",
    **dict.fromkeys(JOBS, "linear"),
    "finetune": "finetune",
    "evaluate": "evaluate",
}


@cache
def meanings(job: str) -> dict[str, str]:
    """Returns the meaning of every default field of a job's config.

    Args:
        job: `config.job`; an unknown job has no fields.

    Returns:
        Texts by dotted name, in the order of the defaults; '*' stands for the name of a test set.
    """
    return {field.name: field.help for field in FIELDS.get(job, ())}


@cache
def field_of(job: str, name: str) -> Field | None:
    """Returns the row of a config's field; None if the job has no such field."""
    return next((row for row in FIELDS.get(job, ()) if fnmatchcase(name, row.name)), None)


def pattern_of(job: str, name: str) -> str:
    """Returns the name of a config's field in `meanings`; '' if it is unknown there."""
    row = field_of(job, name)
    return row.name if row else ""


def check_fields(config: ConfigDict, job: str | None = None) -> None:
    """Checks that a config has the fields of its job, each with a valid value.

    Args:
        config: config of a job.
        job: the job that is to read it; by default the one that it names.

    Raises:
        UsageError: a field is missing, unknown or wrong; the message names the first one.
    """
    named = config.get("job")
    if not isinstance(named, str) or named not in FIELDS:
        raise UsageError(
            f"job is {shown(named)}, but must be one of {', '.join(FIELDS)}. Set it in the "
            "config's file, with the fields that the job reads; configs/ has examples."
        )
    job = job or named
    try:
        values = flatten(config.to_dict())
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(
            f"The config cannot be read: {' '.join(str(error).split())}. Give every field a plain "
            "value."
        ) from error
    _check_names(values, job)
    # Names in registries come last, because these import JAX.
    for name, value in sorted(values.items(), key=lambda item: _is_slow(field_of(job, item[0]))):
        row = field_of(job, name)
        if row is not None:
            row.check(value, name)
        elif not plain(value):
            raise UsageError(
                f"{name} is {shown(value)}, but must be a plain value, without NaN and infinities, "
                "which config.json can keep. Change it in the config's file."
            )


def _is_slow(row: Field | None) -> bool:
    return row is not None and isinstance(row.kind, Choice) and callable(row.kind.names)


def _check_names(values: Mapping[str, Any], job: str) -> None:
    """Checks that there are no other fields than those of the job, and all of these."""
    unknown = [name for name in values if not field_of(job, name)]
    outside = [name for name in values if name.startswith("sets.") and "/" in name]
    if outside:
        raise UsageError(
            f"The config has the field {outside[0]!r}, but the name of a set becomes that of files "
            "in the workdir. Rename the set without '/'."
        )
    missing = [name for name in _names(values, job) if name not in values]
    if not unknown and not missing:
        return
    fits = {each: sum(field_of(each, name) is not None for name in values) for each in FIELDS}
    best = max(fits, key=lambda each: fits[each])
    if fits[best] > fits[job]:
        raise UsageError(
            f"job is {job!r}, but the config has the fields of the job {best!r}: "
            f"{(missing or unknown)[0]!r} {'is missing' if missing else 'is none of them'}. Leave "
            f"--config.job out to run {best!r}, or give a config of {job!r}, such as "
            f"configs/{_EXAMPLES[job]}.py."
        )
    if missing:
        raise UsageError(
            f"The config lacks the field {missing[0]!r} of the job {job!r}. Begin with the config "
            f"that nsneg_jax.jobs.defaults makes, as configs/{_EXAMPLES[job]}.py does, and change "
            "its values."
        )
    if job == "pretrain" and _has_additions(values):
        return
    nearest = nearest_of(unknown[0], values.keys() - set(unknown))
    such = f" It reads {nearest!r}." if nearest else ""
    raise UsageError(
        f"The config has the field {unknown[0]!r}, which the job {job!r} does not read.{such} "
        "Correct the name, or leave the field out."
    )


def _names(values: Mapping[str, Any], job: str) -> Iterator[str]:
    """Yields the names of the fields that a job reads, with those of each set in a config."""
    sets = {name.removeprefix("sets.").rpartition(".")[0] for name in values if "sets." in name}
    for row in FIELDS[job]:
        if "*" in row.name:
            yield from (row.name.replace("*", each) for each in sorted(sets) if each)
        else:
            yield row.name


def _has_additions(values: Mapping[str, Any]) -> bool:
    """Whether method or network are a user's, which may have fields of their own."""
    from nsneg_jax.jobs.build import METHODS
    from nsneg_jax.models import NETWORKS

    return not (METHODS.is_own(values["method"]) and NETWORKS.is_own(values["model.arch"]))


# Names in the original's scripts, solo-learn and timm of what is called otherwise here.
_ELSEWHERE = {
    "lr": "learning_rate",
    "wd": "weight_decay",
    "dataset": "source",
    "data_dir": "source",
    "backbone": "arch",
    "max_epochs": "epochs",
    "num_workers": "workers",
    "batch": "batch_size",
    "queue": "queue_size",
    "moco_k": "queue_size",
    "moco_m": "momentum",
    "moco_t": "temperature",
    "moco_dim": "dim",
    "checkpoint": "pretrained",
}


def nearest_of(name: str, names: Any) -> str:
    """Returns the field that a wrong name means; '' if none is like it.

    Args:
        name: the wrong name.
        names: names of fields.
    """
    # The mistake is in the section, in the letters, or the name is that of other programs.
    leaf = name.rpartition(".")[2]
    leaves: dict[str, str] = {}
    for each in sorted(names):
        leaves.setdefault(each.rpartition(".")[2], each)
    known = _ELSEWHERE.get(leaf.replace("-", "_"), leaf)
    if known in leaves:
        return leaves[known]
    close = difflib.get_close_matches(name, sorted(names), 1)
    if close:
        return close[0]
    close = difflib.get_close_matches(leaf, sorted(leaves), 1)
    return leaves[close[0]] if close else ""
