"""Wrong commands, each a paragraph with field, value and remedy, and exit status 2."""

import json
import random
import re
import time

import numpy as np
import pytest
from answering import CLASSES, evaluation_of_two, probe_checkpoint
from configs_at_random import changes
from tiny import checkpoint_of_untrained
from wrong_commands import FIELDS, ROOT, files, workdirs

import main
from nsneg_jax import cli
from nsneg_jax.input.shapes.source import CLASSES as SHAPES

SEED = 20261128
LONGEST = 8.0  # seconds for one command
# what generated values are put into
CONFIGS = {"pretrain": "patch", "linear": "linear", "evaluate": "evaluate"}
GENERATED = 200


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return with_runs(tmp_path_factory.mktemp("wrong"))


def with_runs(folder):
    """Puts a run and a probe on the built-in images into a folder."""
    checkpoint_of_untrained(folder / "run")
    kernel = np.random.default_rng(0).normal(size=(16, len(SHAPES))).astype(np.float32)
    probe_checkpoint(folder / "probe", kernel, SHAPES)
    return folder


def refused(argv, words, capsys, workdir=None):
    """Runs a command that must be refused; returns its seconds."""
    start = time.monotonic()
    try:
        status = main.main(["main.py", *argv])
    except BaseException as error:
        pytest.fail(f"{argv} ended in {type(error).__name__}: {error}")
    seconds = time.monotonic() - start
    message = capsys.readouterr().err.strip()
    assert status == 2, (argv, status, message)
    paragraphs = message.split("\n\n")
    assert len(paragraphs) == 1 and message.startswith("error: "), (argv, message)
    assert "Traceback" not in message and 'File "' not in message, (argv, message)
    joined = "".join(message.split())
    assert all("".join(word.split()) in joined for word in words), (argv, words, message)
    assert len(message) < 1500, (argv, message)
    # a sentence says what to do
    assert len(re.findall(r"\. [A-Z`-]", " ".join(message.split()))) >= 1, (argv, message)
    assert seconds < LONGEST, (argv, seconds)
    if workdir is not None:
        assert not workdir.exists(), argv
    return seconds


def commands(place, seed, generated):
    """All wrong commands: arguments and words of the message."""
    workdir = f"--workdir={place / 'never'}"
    paths = {name: f"--config={ROOT / 'configs' / name}.py:tiny" for name in CONFIGS.values()}
    needs = {
        "patch": [],
        "linear": [f"--config.pretrained={place / 'run'}", "--config.batch_size=96"],
        "evaluate": [f"--config.pretrained={place / 'probe'}"],
    }
    found = [
        ([paths[name], workdir, *needs[name], *(f"--config.{each}" for each in values.split())],
         [word])
        for name, values, word in FIELDS
    ]  # fmt: skip
    found += [([f"--config={value}", workdir], [word]) for value, word in files(place)]
    found += [([paths["patch"], f"--workdir={value}"], [word]) for value, word in workdirs(place)]
    for job, name, text in changes(seed, generated):
        config = CONFIGS[job]
        found.append(([paths[config], workdir, *needs[config], f"--config.{name}={text}"], [name]))
    return found


@pytest.mark.slow
def test_every_wrong_command_is_one_paragraph(place, capsys):
    wrong = commands(place, SEED, GENERATED)
    seconds = [refused(argv, words, capsys, place / "never") for argv, words in wrong]
    with capsys.disabled():
        print(
            f"\nseed {SEED}: {len(wrong)} wrong commands, {GENERATED} of them generated; "
            f"longest {max(seconds):.1f} s, mean {sum(seconds) / len(seconds):.2f} s"
        )
    assert len(wrong) >= 400


def test_some_wrong_commands_are_one_paragraph(tmp_path, capsys):
    with_runs(tmp_path)
    some = random.Random(SEED).sample(commands(tmp_path, SEED, 40), 12)
    for argv, words in some:
        refused(argv, words, capsys, tmp_path / "never")


def test_a_tuple_given_twice_is_replaced():
    from nsneg_jax.command_line import parse

    argv = ["main.py", "--config=linear:tiny", "--workdir=x"]
    twice = ["--config.learning_rates=(0.5,)", "--config.learning_rates", "(0.7,)"]
    assert parse([*argv, *twice]).config.learning_rates == (0.7,)
    assert parse([*argv, *twice[1:], twice[0]]).config.learning_rates == (0.5,)
    numbers = ["--config.epochs=3", "--config.epochs", "4", "--noconfig.evaluate_only"]
    assert parse([*argv, *numbers]).config.epochs == 4


def test_an_evaluation_of_unreadable_images(tmp_path, monkeypatch, capsys):
    command = evaluation_of_two(monkeypatch, tmp_path, "evaluate")
    (tmp_path / "a" / CLASSES[4] / "x.png").write_bytes(b"no picture")
    assert main.main(command) == 0  # the other set has figures
    assert "none of its 1 images" in (tmp_path / "out" / "results.json").read_text()
    (tmp_path / "sketch" / CLASSES[4] / "x.png").write_bytes(b"no picture")
    capsys.readouterr()
    assert main.main(command) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "nothing to report" in message and "a: none of its 1 images" in message
    assert not (tmp_path / "out" / "results.json").exists()


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--out", "."), ("--out", "/proc/x.md"), ("--csv", "/dev/null/x.csv"), ("--csv", "/proc/x")],
)
def test_a_report_that_cannot_be_written(flag, value, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    results = {"job": "knn", "encoder": "e", "knn_20": 50.0, "classes": 3}
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert cli.main(["report", str(tmp_path), flag, value]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {flag} is {value}")


def test_results_that_are_nested_too_deeply(tmp_path, capsys):
    (tmp_path / "results.json").write_text("[" * 100_000)
    assert cli.main(["report", str(tmp_path)]) == 2
    assert "cannot be read" in " ".join(capsys.readouterr().err.split())
