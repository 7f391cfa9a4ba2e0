"""nsneg compare: what it refuses, goes on with, and (slow) answers in a budget."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from textured_folder import write_textured

from configs import compare as config
from nsneg_jax.comparison import command
from nsneg_jax.comparison.planning import Sizes
from nsneg_jax.comparison.runs import Run, Setting, runs_of, stages_of
from nsneg_jax.comparison.variants import METHODS, VARIANTS
from nsneg_jax.errors import Stopped, UsageError
from nsneg_jax.files import write_json


def fields(stage):
    """The arguments of a stage's command by name."""
    return dict(word.lstrip("-").split("=", 1) for word in stage.link.command[4:])


def test_every_variant_belongs_to_a_method():
    of_methods = [name for compared in METHODS.values() for name in compared.all]
    assert sorted(of_methods) == sorted(config.VARIANTS) == sorted(VARIANTS)
    assert list(METHODS) == [compared.baseline for compared in METHODS.values()]


@pytest.mark.parametrize("prefix", ["", config.LARGE])
@pytest.mark.parametrize("method", METHODS)
def test_variants_differ_in_their_negatives_alone(method, prefix):
    names = METHODS[method].all
    configs = {name: config.get_config(prefix + name).to_dict() for name in names}
    negatives = {name: fields.pop("negatives") for name, fields in configs.items()}
    baseline, *others = names
    assert all(fields == configs[baseline] for fields in configs.values())
    about = {name: (n["kind"], n["num"], n["alpha"]) for name, n in negatives.items()}
    assert about[baseline] == ("none", 0, 0) == ("none", 0, VARIANTS[baseline].alpha)
    for name in others:
        assert about[name] == ("patch", 1, VARIANTS[name].alpha)
        assert VARIANTS[name].label.endswith(f"alpha {VARIANTS[name].alpha:g}")
    trained = configs[baseline]["method"], configs[baseline]["moco"]["symmetric"]
    assert trained == ("moco" if method == "symmetric" else method, method == "symmetric")


@pytest.mark.parametrize("large", [False, True])
def test_runs_of_one_seed_have_the_same_arguments(tmp_path, large):
    setting = Setting(tmp_path, tmp_path / "pictures", 32, 200, Sizes(48, 50, 4), 5, large)
    variants = METHODS["moco"].all
    runs = runs_of(variants, (0, 3))
    assert [run.name for run in runs[:4]] == ["moco-0", "patch2-0", "patch1-0", "moco-3"]
    given = []
    for variant in variants:
        training, probe, test = map(fields, stages_of(Run(variant, 3), setting))
        assert training["workdir"] == str(tmp_path / f"{variant}-3")
        assert probe["config.pretrained"] == training.pop("workdir")
        assert test["config.pretrained"] == probe["workdir"]
        assert training.pop("config").endswith(variant)
        assert training["config.seed"] == probe["config.seed"] == "3"
        given.append(training)
    assert given[0] == given[1] == given[2]
    assert stages_of(Run("moco", 3), setting)[0].total == 20


def test_the_time_of_all_starts_counts(tmp_path):
    write_json(tmp_path / "spent.json", {"seconds": 100.0})
    clock = command.Clock(tmp_path / "spent.json", 160)
    assert 59 < clock.left <= 60 and clock.deadline < time.monotonic() + 60
    clock.keep()
    assert command.Clock(tmp_path / "spent.json", 160).spent >= 100


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["x", "--budget=soon"], "20m"),
        (["x", "--images=0"], "--images is 0"),
        (["nowhere/at/all"], "nowhere/at/all is missing"),
    ],
)
def test_wrong_arguments(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "keep_programs", lambda: None)
    monkeypatch.setattr(command, "accelerator", lambda: "")
    with pytest.raises(UsageError, match=said):
        command.main(words)


def test_another_comparison_in_the_workdir_is_refused(tmp_path):
    write_json(tmp_path / "plan.json", {"data": "shapes", "images": None})
    with pytest.raises(UsageError, match="'shapes', not 'shapes@1'"):
        command.compare("shapes@1", tmp_path, 3600)
    with pytest.raises(UsageError, match="images is None, not 100"):
        command.compare("shapes", tmp_path, 3600, 100)
    with pytest.raises(UsageError, match="method is 'moco', not 'byol'"):
        command.compare("shapes", tmp_path, 3600, method="byol")


def test_a_budget_that_is_spent(tmp_path):
    plan = {"variants": ["moco", "patch2"], "seeds": [0, 1], "side": 32, "epochs": 1, "steps": 4}
    about = {"train": 200, "choose": 10, "test": 10, "classes": ["a", "b"]}
    kept = {"data": "shapes:250", "images": None, "device": "", "plan": plan | {"seconds": 9.0}}
    write_json(tmp_path / "plan.json", kept)
    write_json(tmp_path / "pictures-32" / "pictures.json", about)
    write_json(tmp_path / "spent.json", {"seconds": 600.0})
    with pytest.raises(Stopped, match=r"0 of 2 seeds complete.* larger --budget"):
        command.compare("shapes:250", tmp_path, 600)


@pytest.mark.parametrize(
    ("spec", "name"),
    [("folder:/data/flowers/", "flowers"), ("shapes:100@7", "shapes-100-7"), ("hf:a/b", "b")],
)
def test_name_of_the_workdir(spec, name):
    assert command._name(spec) == name


def compared(data, workdir, budget):
    """Runs the command to its end; returns the contents of compare.json."""
    arguments = ["compare", str(data), f"--workdir={workdir}", f"--budget={budget}"]
    done = subprocess.run(
        [sys.executable, "-m", "nsneg_jax", *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((workdir / "compare.json").read_text())
    assert found["sentence"] in done.stdout and (workdir / "compare.html").stat().st_size < 5e6
    return found


# of cores that do nothing else; others need more time for as many steps
BUDGET = os.environ.get("NSNEG_COMPARE_BUDGET", "1h")


def answered_in_time(data, workdir):
    """The answer for alpha 2, after a command that keeps to its budget."""
    start = time.monotonic()
    found = compared(data, workdir, BUDGET)
    assert time.monotonic() - start < command.planning.budget(BUDGET)
    assert len(found["seeds"]) >= 2 and found["answers"]["patch2"] == found["answer"]
    return found["answer"]


# Neither answer has been seen with the present settings (docs/compare.md); the opposite fails.
NOT_SHOWN = "undecided: more seeds or steps than this budget allows may decide it"


@pytest.mark.slow
def test_yes_on_shapes(tmp_path):
    answer = answered_in_time("shapes:4000@2021", tmp_path)
    if answer == "undecided":
        pytest.xfail(NOT_SHOWN)
    assert answer == "yes"


@pytest.mark.slow
def test_no_where_patches_keep_the_label(tmp_path):
    folder = write_textured(tmp_path / "textured", 400)
    answer = answered_in_time(folder, tmp_path / "work")
    if answer == "undecided":
        pytest.xfail(NOT_SHOWN)
    assert answer == "no"


@pytest.mark.slow
def test_stopped_and_gone_on_with(tmp_path):
    workdir = tmp_path / "work"
    arguments = [str(write_textured(tmp_path / "textured", 40)), f"--workdir={workdir}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "nsneg_jax", "compare", *arguments, "--budget=15m"],
        stdout=subprocess.PIPE,
        text=True,
    )
    while not list(workdir.glob("moco-0/metrics.jsonl")):
        time.sleep(0.2)
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 75 and "stopped by SIGTERM" in output
    plan = (workdir / "plan.json").read_text()
    spent = json.loads((workdir / "spent.json").read_text())["seconds"]
    found = compared(arguments[0], workdir, "15m")
    assert (workdir / "plan.json").read_text() == plan
    assert json.loads((workdir / "spent.json").read_text())["seconds"] > spent
    before = {path: path.stat().st_mtime_ns for path in workdir.glob("*/metrics.jsonl")}
    again = compared(arguments[0], workdir, "15m")
    assert again["gains"] == found["gains"]
    assert {path: path.stat().st_mtime_ns for path in workdir.glob("*/metrics.jsonl")} == before
