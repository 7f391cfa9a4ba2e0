"""The commands, their help, and configs by name: what a person types and sees."""

import ast
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import main as main_program
from nsneg_jax import cli, command_line
from nsneg_jax.errors import UsageError
from nsneg_jax.files import expand
from nsneg_jax.input.sources.lists.class_list import class_names
from nsneg_jax.input.sources.source import open_source
from nsneg_jax.jobs.fields import config_files
from nsneg_jax.jobs.fields.table import meanings, pattern_of
from nsneg_jax.planning import PlanOptions
from nsneg_jax.training.checkpoints.checkpoint import find_checkpoint
from nsneg_jax.training.workdir import CHECKPOINTS, flatten

ROOT = Path(cli.__file__).parents[1]


def config_of(given: str):
    return command_line.read_config(["main.py", f"--config={given}"])


def every_config() -> list[str]:
    """Name and variant of each."""
    found = []
    for name in config_files.config_names():
        path = config_files.configs_folder() / f"{name}.py"
        found += [f"{name}:{variant}".rstrip(":") for variant in variants_of(path)]
    return found


def variants_of(path: Path) -> tuple[str, ...]:
    scope: dict = {}
    exec(path.read_text(), scope)
    return scope["VARIANTS"]


def shown(capsys, *arguments: str) -> str:
    assert cli.main(arguments) == 0
    return capsys.readouterr().out


def test_configs_are_found_by_name():
    assert config_files.config_names() == [
        "byol", "claim", "compare", "evaluate", "finetune", "ifm", "linear", "moco", "mocov3",
        "patch", "simclr", "texture",
    ]  # fmt: skip
    assert len(every_config()) == 68


@pytest.mark.parametrize("given", every_config())
def test_help_has_each_field_with_its_value_and_meaning(given, capsys):
    config = config_of(given)
    text = shown(capsys, config.job, f"--config={given}", "--help")
    fields = flatten(config.to_dict())
    values = dict(re.findall(r"^  ([\w.]+) = (.*?)(?: {2,}\S.*)?$", text, re.MULTILINE))
    assert {name: ast.literal_eval(value) for name, value in values.items()} == fields
    words = " ".join(text.split())
    for name in fields:
        meaning = meanings(config.job)[pattern_of(config.job, name)]
        assert meaning and meaning in words, name


def test_fields_stay_those_that_workdirs_were_made_with():
    """Their names are in every config.json."""
    assert {job: len(meanings(job)) for job in ("pretrain", "linear", "evaluate")} == {
        "pretrain": 98, "linear": 34, "evaluate": 28,
    }  # fmt: skip
    names = {name for job in ("pretrain", "linear", "evaluate") for name in meanings(job)}
    assert {"negatives.texture_alpha", "moco.shard_queue", "model.precision"} <= names
    assert {"knn.k", "features_format", "evaluate_only", "sets.*.generate"} <= names
    for given in every_config():
        config = config_of(given)
        assert {pattern_of(config.job, name) for name in flatten(config.to_dict())} == set(
            meanings(config.job)
        )


def test_a_meaning_says_what_is_valid():
    assert meanings("pretrain")["checkpoint.every_steps"] == (
        "steps between checkpoints; a whole number from 1 to 2,147,483,647"
    )
    assert meanings("pretrain")["pictures"] == (
        "whether to draw views and negatives before the first step"
    )
    assert meanings("knn") == meanings("linear")
    assert meanings("no such job") == {}


def test_overrides_are_in_the_help(capsys):
    text = shown(capsys, "pretrain", "--config=patch", "--config.epochs=7", "-h")
    assert "epochs = 7 " in text


@pytest.mark.parametrize("command", ["", *cli.ABOUT])
def test_every_command_has_help(command, capsys):
    try:
        status = cli.main([*command.split(), "--help"])
    except SystemExit as ended:  # argparse's
        status = ended.code
    text = capsys.readouterr().out
    assert not status and "usage:" in text.lower()
    if not command:
        assert all(re.search(rf"^  {name} +\w", text, re.MULTILINE) for name in cli.ABOUT)
    if command in ("pretrain", "plan"):
        assert "patch:tiny" in text and "linear" not in text
    if command in cli.JOBS:
        for flag in command_line.LAUNCH:
            assert f"--{flag.name}=" in text and flag.meaning.split(";")[0][:30] in text
    if command == "prepare":
        assert all(name in text for name in cli.PREPARE)


def test_main_has_help(capsys):
    assert main_program.main(["main.py", "--help"]) == 0
    text = capsys.readouterr().out
    assert "linear:imagenet1k" in text and "claim:patch2" in text and "--plan[=" in text
    assert main_program.main(["main.py", "--config=configs/linear.py:tiny", "--help"]) == 0
    assert "batch_size = 100 " in capsys.readouterr().out


def in_a_process(*argv: str, where: Path, **environ: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *argv], cwd=where, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"} | environ,
    )  # fmt: skip


def test_help_is_quick(tmp_path):
    """In seconds of the processor, since other tests may run beside it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert in_a_process("-m", "nsneg_jax", "--help", where=tmp_path).returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


@pytest.mark.parametrize(
    "line",
    [
        "--help",
        "--version",
        "pretrain --help",
        "pretrain --config=patch:tiny --help",
        "prepare --help",
        "knn --workdir=x",
        "report --help",
    ],
)
def test_neither_help_nor_a_mistake_imports_jax(line, tmp_path):
    code = (
        "import contextlib, sys; from nsneg_jax.cli import main\n"
        f"with contextlib.suppress(SystemExit): main({line.split()!r})\n"
        "assert not {'jax', 'flax', 'torch'} & set(sys.modules)"
    )
    ended = in_a_process("-c", code, where=tmp_path)
    assert ended.returncode == 0, ended.stderr


def test_version_is_the_project_s(capsys):
    assert (
        f'version = "{shown(capsys, "--version").split()[-1]}"'
        in (ROOT / "pyproject.toml").read_text()
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["pretrain"]),
        (["pretrian"], ["'pretrian'", "pretrain"]),
        (["prepare"], ["imagenet100"]),
        (["prepare", "imagenet"], ["'imagenet'", "imagenet100"]),
        (["pretrain", "--config=pach"], ["'pach'", "patch"]),
        (["pretrain", "--config="], ["--config", "patch"]),
        (["pretrain", "--config=patch"], ["--workdir is missing"]),
        (["pretrain", "--workdir=x"], ["--config is missing"]),
        (["pretrain", "--config=linear", "--workdir=x"], ["'linear'", "`nsneg linear`"]),
        (["evaluate", "--config=linear", "--workdir=x"], ["'linear'", "`nsneg evaluate`"]),
        (["knn", "--config=linear", "--config.job=features", "--workdir=x"], ["--config.job"]),
        (
            ["pretrain", "--config=patch", "--workdir=x", "--plan"],
            ["plan", "Usage: nsneg pretrain"],
        ),
        (["plan", "--config=patch:tiny", "--devices=0"], ["--devices is 0"]),
        (["plan", "--config=linear"], ["'linear'"]),
        (["report", "nowhere"], ["nowhere"]),
        (["convert", "export", "nowhere", "x.pth"], ["nowhere"]),
    ],
)
def test_mistakes_exit_with_2(arguments, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert all(text in message for text in expected), message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("job", ["linear", "knn", "features"])
def test_a_probe_s_config_is_of_three_commands(job):
    argv = ["nsneg", "--config=linear:tiny", "--workdir=x"]
    assert command_line.parse(argv, job).config.job == job
    assert command_line.parse([*argv, f"--config.job={job}"], job).config.job == job
    assert command_line.parse([*argv, f"--config.job={job}"]).config.job == job  # main.py


def test_flags_of_the_plan_command():
    argv = ["nsneg plan", "--config", "patch:tiny", "--target=h100:8", "--images=10"]
    plan = command_line.parse(argv, "plan").plan
    assert plan == PlanOptions(target="h100:8", images=10, command="plan")
    assert command_line.parse(argv[:3], "plan").plan == PlanOptions(command="plan")
    assert [plan.flag("hosts"), PlanOptions().flag("hosts")] == ["--hosts", "--plan_hosts"]
    assert [plan.flag("target"), PlanOptions().flag("target")] == ["--target", "--plan"]


def test_config_by_name_by_path_and_in_two_words(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    path = ROOT / "configs" / "patch.py"
    ways = (["--config=patch:tiny"], ["-config=patch:tiny"], ["--config", "patch:tiny"],
            [f"--config={path}:tiny"], ["--config", f"{path}:tiny"])  # fmt: skip
    for words in ways:
        config = command_line.parse(["main.py", *words, "--workdir=x", "--config.epochs=3"]).config
        assert (config.epochs, config.batch_size) == (3, 96)
        assert command_line.given_config(["main.py", *words]) == words[-1].split("=")[-1]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user's home folder, away from where the user is."""
    for folder in ("home", "here"):
        (tmp_path / folder).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("~/runs", "{home}/runs"),
        ("folder:~/x", "folder:{home}/x"),
        ("arrayrecord:~/x", "arrayrecord:{home}/x"),
        ("untrained:~/x", "untrained:{home}/x"),
        *((same, same) for same in ("", "a/~", "gs://b/~", "tfds:a/b:1.0.0", "shapes:80@7")),
    ],
)
def test_home_in_a_path(given, expected, home):
    assert expand(given) == expected.format(home=home)


def test_home_in_the_flags_and_fields_of_a_job(home):
    (home / "mine.py").write_text((ROOT / "configs" / "patch.py").read_text())
    fields = {
        "data.source": "folder:~/x", "data.tfds_dir": "~/t", "data.classes": "~/c.txt",
        "negatives.texture_source": "arrayrecord:~/y",
    }  # fmt: skip
    argv = ["main.py", "--config=~/mine.py:tiny", "--workdir=~/run"]
    command = command_line.parse([*argv, *(f"--config.{k}={v}" for k, v in fields.items())])
    assert command.workdir == home / "run"
    found = flatten(command.config.to_dict())
    assert {name: found[name] for name in fields} == {
        name: value.replace("~", str(home)) for name, value in fields.items()
    }
    argv = ["main.py", "--config=evaluate", "--workdir=x", "--config.sets.a.source=folder:~/a",
            "--config.pretrained=~/run", "--config.label=~ 10 %"]  # fmt: skip
    config = command_line.parse(argv).config
    assert config.sets.a.source == f"folder:{home}/a"
    assert (config.pretrained, config.label) == (f"{home}/run", "~ 10 %")


def test_home_in_paths_of_the_library(home):
    (home / "data" / "train" / "cat").mkdir(parents=True)
    (home / "data" / "train" / "cat" / "1.png").write_bytes(b"")
    (home / "classes.txt").write_text("cat\n")
    assert class_names("~/classes.txt") == ("cat",)
    source = open_source("folder:~/data", "train", image_size=8, classes="~/classes.txt")
    assert source.path(0) == "cat/1.png"
    (home / "run" / CHECKPOINTS / "7").mkdir(parents=True)
    assert find_checkpoint("~/run") == home / "run" / CHECKPOINTS / "7"


def test_home_of_the_compilation_cache(home):
    code = (
        "from nsneg_jax.parallel.compilation_cache import keep_programs\n"
        "print(keep_programs('~/c'))"
    )
    ended = in_a_process("-c", code, where=home.parent / "here", HOME=str(home))
    assert Path(ended.stdout.strip()).parent == home / "c", ended.stderr


def test_home_in_the_arguments_of_programs(home, capsys):
    (home / "run").mkdir()
    results = {"job": "knn", "encoder": "e", "knn_20": 50.0, "classes": 3}
    (home / "run" / "results.json").write_text(json.dumps(results))
    assert cli.main(["report", "~/run", "--out", "~/table.md", "--csv", "~/table.csv"]) == 0
    assert (home / "table.md").is_file() and (home / "table.csv").is_file()
    capsys.readouterr()
    assert cli.main(["convert", "import", "~/no.pth", "~/out"]) == 2
    assert cli.main(["convert", "export", "~/no", "~/out.pth"]) == 2
    said = "".join(capsys.readouterr().err.split())
    assert f"{home}/no.pth" in said and f"{home}/no." in said
    assert not list((home.parent / "here").iterdir())


@pytest.mark.parametrize("script", cli.PREPARE)
def test_prepare_runs_the_scripts_with_home_in_their_arguments(script, home):
    """In processes of their own: a script chooses its devices before JAX starts."""
    argv = ["-m", "nsneg_jax", "prepare", script]
    here = home.parent / "here"
    given = ["~/no"] if script == "check" else ["--source=~/no", "--out=~/out"]
    ended = in_a_process(*argv, *given, where=here, HOME=str(home))
    assert ended.returncode == 2
    assert f"{home}/no" in "".join(ended.stderr.split())
    ended = in_a_process(*argv, "--help", where=here)
    assert ended.returncode == 0 and "--classes" in ended.stdout
    assert not list(here.iterdir())


def test_csv_is_a_flag_of_evaluate_alone():
    argv = ["nsneg evaluate", "--config=evaluate", "--workdir=x", "--csv=~/rows.csv"]
    expected = os.path.expanduser("~/rows.csv")
    assert command_line.parse(argv, "evaluate").config.csv == expected
    argv[3] = "--config.csv=~/rows.csv"
    assert command_line.parse(argv, "evaluate").config.csv == expected
    with pytest.raises(UsageError, match="csv"):
        command_line.parse(["nsneg knn", "--config=linear", "--workdir=x", "--csv=y"], "knn")
