"""The table of fields: random valid values pass, random invalid ones are refused by name."""

import json
import math
import random

import pytest
from configs_at_random import INVALID, VALID, changes, invalid_values, valid_value

from nsneg_jax.errors import UsageError
from nsneg_jax.jobs import defaults
from nsneg_jax.jobs.fields import page
from nsneg_jax.jobs.fields.kinds import Choice, Number, Switch
from nsneg_jax.jobs.fields.table import FIELDS, check_fields, field_of
from nsneg_jax.training.workdir import flatten

MAKERS = {"pretrain": defaults.pretraining, "linear": defaults.probing}
SEED = 20261128
CASES = 10  # of valid values per field


def config_of(job: str, values=None):
    """The default config of a job, with other values by dotted name."""
    if job == "evaluate":
        config = defaults.evaluation()
        config.sets.sketch = defaults.test_set("folder:x")
    else:
        config = MAKERS[job]()
    config.unlock()
    for name, value in (values or {}).items():
        *sections, leaf = name.split(".")
        place = config
        for section in sections:
            place = place[section]
        with place.ignore_type():
            place[leaf] = value
    return config


@pytest.mark.parametrize("job", ["pretrain", "linear", "evaluate"])
def test_every_valid_value_passes(job):
    rng = random.Random(SEED)
    count = 0
    for row in FIELDS[job]:
        for _ in range(CASES):
            name = row.name.replace("*", "sketch")
            check_fields(config_of(job, {name: valid_value(row.kind, rng)}))
            count += 1
    print(f"seed {SEED}: {count} valid values of {job}")
    assert count == CASES * len(FIELDS[job])


@pytest.mark.parametrize("job", ["pretrain", "linear", "evaluate"])
def test_every_invalid_value_is_refused_by_name(job):
    rng = random.Random(SEED)
    count = 0
    for row in FIELDS[job]:
        for value in invalid_values(row.kind, rng):
            name = row.name.replace("*", "sketch")
            if name == "job" or (value is True and isinstance(row.kind, Number)):
                continue  # its message names jobs; ConfigDict makes 1.0 of True
            with pytest.raises(UsageError) as error:
                check_fields(config_of(job, {name: value}))
            message = str(error.value)
            assert message.startswith(f"{name} is ") and f"--config.{name}=VALUE" in message
            assert "\n" not in message
            count += 1
    print(f"seed {SEED}: {count} invalid values of {job}")
    assert count > 4 * len(FIELDS[job])


@pytest.mark.parametrize("job", FIELDS)
def test_default_values_are_valid(job):
    for row in FIELDS[job]:
        row.check(row.value)


def test_kinds_hold_nothing_else():
    """Each kind's valid values are not among the invalid ones of the generators."""
    rng = random.Random(SEED)
    for kind in (row.kind for fields in FIELDS.values() for row in fields):
        assert all(kind.holds(valid_value(kind, rng)) for _ in range(5))
        assert not any(kind.holds(value) for value in invalid_values(kind, rng))
    assert VALID.keys() == INVALID.keys()


def test_meanings_name_the_choices():
    """Where a meaning explains the names, none of the package's is left out."""
    for fields in FIELDS.values():
        for row in fields:
            if isinstance(row.kind, Choice) and row.is_wordy and row.name != "job":
                assert all(f"'{name}'" in row.meaning for name in row.kind.own), row.name
            assert isinstance(row.kind, Switch) == isinstance(row.value, bool)


def test_a_reason_is_in_the_message():
    with pytest.raises(UsageError, match="similarities lie between") as error:
        check_fields(config_of("pretrain", {"moco.temperature": 1e300}))
    assert "0.2" in str(error.value)  # the default


def test_missing_and_unknown_fields():
    config = config_of("pretrain")
    del config.moco["momentum"]
    with pytest.raises(UsageError, match=r"lacks the field 'moco\.momentum'"):
        check_fields(config)
    for name, nearest in (
        ("moco.momentom", "moco.momentum"),
        ("epoch", "epochs"),
        ("lr", "optimizer.learning_rate"),
        ("source", "data.source"),
    ):
        with pytest.raises(UsageError, match=f"'{name}'.*'{nearest}'"):
            check_fields(config_of("pretrain", {name: 1}))
    # a method of a user's may have fields of its own
    config = config_of("pretrain", {"method": "mine", "budget": 0.1})
    with pytest.raises(UsageError, match=r"method is 'mine'"):
        check_fields(config)


def test_fields_of_ones_own_are_plain_values(monkeypatch):
    from nsneg_jax.jobs import build

    monkeypatch.setitem(build.METHODS, "mine", build.build_moco)
    check_fields(config_of("pretrain", {"method": "mine", "budget": 0.1}))
    for value in (math.inf, math.nan, (1, math.nan), object()):
        with pytest.raises(UsageError, match="budget is"):
            check_fields(config_of("pretrain", {"method": "mine", "budget": value}))


@pytest.mark.parametrize(
    ("fields_of", "job"),
    [("pretrain", "linear"), ("linear", "evaluate"), ("evaluate", "knn"), ("linear", "pretrain")],
)
def test_a_job_that_does_not_fit_its_config(fields_of, job):
    config = config_of(fields_of, {"job": job})
    with pytest.raises(UsageError, match=f"job is '{job}'.*'{fields_of}'"):
        check_fields(config)
    with pytest.raises(UsageError, match=f"job is '{job}'"):
        check_fields(config_of(fields_of), job)


@pytest.mark.parametrize("job", [None, "", 3, "train"])
def test_no_such_job(job):
    with pytest.raises(
        UsageError, match=r"job is .*pretrain, linear, knn, features, finetune, evaluate"
    ):
        check_fields(config_of("pretrain", {"job": job}))


def test_the_page_of_fields_is_up_to_date():
    assert page.PAGE.read_text("utf-8") == page.page(), "run python -m nsneg_jax.jobs.fields.page"


def test_patterns():
    assert field_of("evaluate", "sets.mine.resize").name == "sets.*.resize"
    assert field_of("evaluate", "resize") is None
    assert len(changes(SEED, 50)) == 50
    names = flatten(config_of("evaluate").to_dict())
    assert all(field_of("evaluate", name) for name in names)
    assert json.loads(config_of("evaluate").to_json())["sets"]["sketch"]["border"] == 0
