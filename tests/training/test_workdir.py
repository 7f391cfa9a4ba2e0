"""The workdir of a run: which fields may change on resume, and the names in it."""

import ast
import json
from pathlib import Path

import pytest

import nsneg_jax
from nsneg_jax.errors import UsageError
from nsneg_jax.training import workdir
from nsneg_jax.training.workdir import check_workdir, claim_workdir, flatten

CONFIG = {"job": "pretrain", "seed": 3, "data": {"threads": 2, "resize": 0}, "sizes": [1, 2]}


def test_fields_have_dotted_names_in_order():
    expected = {"data.resize": 0, "data.threads": 2, "job": "pretrain", "seed": 3, "sizes": [1, 2]}
    assert list(flatten(CONFIG).items()) == list(expected.items())


def test_a_run_goes_on_with_its_own_config_alone(tmp_path):
    claim_workdir(CONFIG, tmp_path, resuming=False)
    assert json.loads((tmp_path / workdir.CONFIG).read_text()) == CONFIG
    changed = CONFIG | {"data": {"threads": 8, "resize": 256}, "total_steps": 9}
    claim_workdir(changed, tmp_path, resuming=True)
    assert json.loads((tmp_path / workdir.CONFIG).read_text()) == changed
    for other in ({"seed": 4}, {"sizes": [1]}, {"new": 1}):
        with pytest.raises(UsageError, match=next(iter(other))):
            check_workdir(CONFIG | other, tmp_path)
    # what is of no matter to a pre-training is all of an evaluation
    probe = CONFIG | {"job": "linear"}
    claim_workdir(probe, tmp_path / "probe", resuming=False)
    with pytest.raises(UsageError, match=r"data\.resize"):
        check_workdir(probe | {"data": {"threads": 2, "resize": 256}}, tmp_path / "probe")


def test_a_config_of_an_earlier_version_is_read(tmp_path):
    claim_workdir(CONFIG, tmp_path, resuming=False)
    check_workdir(CONFIG | {"model": {"precision": "tensorfloat32"}}, tmp_path)
    with pytest.raises(UsageError, match=r"model\.precision"):
        check_workdir(CONFIG | {"model": {"precision": "float32"}}, tmp_path)


def test_fields_that_are_new_since_a_run_started_have_what_it_did(tmp_path):
    claim_workdir(CONFIG, tmp_path, resuming=False)
    added = {
        "views": {"round_down": False},
        "negatives": {"patch_mode": "crops"},
        "checkpoint": {"keep_every_epochs": 10},  # may change
    }
    check_workdir(CONFIG | added, tmp_path)
    for section, field, value in (
        ("views", "round_down", True),
        ("negatives", "patch_mode", "jigsaw"),
    ):
        with pytest.raises(UsageError, match=rf"{section}\.{field}"):
            check_workdir(CONFIG | added | {section: {field: value}}, tmp_path)


def test_another_jobs_folder_is_left_alone(tmp_path):
    claim_workdir(CONFIG, tmp_path, resuming=False)
    with pytest.raises(UsageError):
        claim_workdir(CONFIG | {"job": "knn"}, tmp_path, resuming=False)
    claim_workdir(CONFIG | {"seed": 4}, tmp_path, resuming=False, write=False)
    assert json.loads((tmp_path / workdir.CONFIG).read_text()) == CONFIG


def test_results_of_another_config_are_kept(tmp_path):
    claim_workdir(CONFIG, tmp_path, resuming=False)
    (tmp_path / workdir.RESULTS).write_text("{}")
    assert claim_workdir(CONFIG, tmp_path, resuming=False) == ""
    assert "seed was" in claim_workdir(CONFIG | {"seed": 4}, tmp_path, resuming=False)
    assert not (tmp_path / workdir.RESULTS).exists()
    assert (tmp_path / workdir.REPLACED).read_text() == "{}"


def test_names_of_files_are_written_once():
    public = {name: value for name, value in vars(workdir).items() if name[0].isupper()}
    names = {value for value in public.values() if isinstance(value, str)}
    words = {workdir.CHECKPOINTS, workdir.PARTS, workdir.FEATURES, workdir.SIMILARITIES}
    names -= words  # of other meanings, too
    package = Path(nsneg_jax.__file__).parent
    found = {
        (str(path.relative_to(package)), node.value)
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in names
    }
    of_the_hub = ("pytorch/hub/layout.py", "config.json")  # another file of that name
    assert found == {("training/workdir.py", name) for name in names} | {of_the_hub}
