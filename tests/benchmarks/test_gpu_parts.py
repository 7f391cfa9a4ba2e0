"""The commands that benchmarks.gpu runs, and the small ones among them."""

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from processes import ROOT

from benchmarks import corruptions, first_step, photographs, same_bits, step, texture
from benchmarks.gpu_parts import PARTS, Setting
from nsneg_jax import command_line
from nsneg_jax.errors import UsageError


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_demo_is_the_makefiles(tmp_path):
    asked = ["make", "-n", "-o", ".venv/installed", "demo", "DEMO=runs/demo", "BIN=bin"]
    # this may run under make, whose flags are not meant for this one
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    said = subprocess.run(
        asked, cwd=ROOT, env=environ, capture_output=True, text=True, check=True
    ).stdout.replace("\\\n", " ")
    makes = [line.split()[1:] for line in said.splitlines() if line.startswith("bin/python ")]
    setting = Setting(Path("runs"), tmp_path, small=False)
    ours = [list(map(str, command.argv)) for command in PARTS["demo"].commands(setting)]
    # the shell finds the runs by their names
    names = [word for argv in ours for word in argv if re.fullmatch(r"runs/demo/\w+-\w+", word)]
    makes[-1] = [
        name
        for word in makes[-1]
        for name in (sorted(fnmatch.filter(names, word)) if "*" in word else [word])
    ]
    assert list(map(sorted, makes)) == list(map(sorted, ours))


@pytest.mark.parametrize("small", [False, True])
def test_commands_can_be_read(small, tmp_path, monkeypatch):
    """Those of full size, too, which cannot run here."""
    monkeypatch.chdir(ROOT)
    cores = len(os.sched_getaffinity(0))
    monkeypatch.setattr(texture.jax, "local_device_count", lambda: cores if small else 1)
    parsers = {
        "benchmarks.step": step.parse,
        "benchmarks.texture": texture.parse,
        "benchmarks.corruptions": corruptions.parse,
        "benchmarks.photographs": photographs.parse,
        "benchmarks.first_step": first_step.parse,
    }
    unread = {"benchmarks.input", "benchmarks.same_bits", "nsneg_jax", "pytest"}
    setting = Setting(tmp_path / "work", tmp_path / "logs", small)
    found = set()
    for each in PARTS.values():
        commands = each.commands(setting)
        assert commands and len({command.name for command in commands}) == len(commands)
        for command in commands:
            program, *flags = command.argv
            if program == "main.py":
                command_line.parse(["main.py", *flags])
                continue
            module, *flags = flags
            found.add(module)
            if module not in unread:
                parsers[module](flags)
    assert found == parsers.keys() | unread
    start = PARTS["start-up"].commands(setting)[-1]
    assert command_line.parse(["main.py", *start.argv[5:], "--workdir=x"]).config.data.source


def test_golden_tests_are_there(tmp_path):
    commands = PARTS["golden"].commands(Setting(tmp_path / "work", tmp_path / "logs", False))
    nodes = [word for command in commands for word in command.argv if "::" in word]
    assert len(nodes) == len(commands) == 3
    collect = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    said = subprocess.run([*collect, *nodes], cwd=ROOT, capture_output=True, text=True)
    assert said.stdout.splitlines()[:3] == nodes, said.stdout + said.stderr


def test_photographs(tmp_path, capsys):
    made = tmp_path / "made"
    sizes = ["--count", "12", "--width", "100", "--height", "75"]
    assert photographs.main([str(made), *sizes]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 12
    paths = photographs.jpeg_files(made)
    pixels = [np.asarray(Image.open(path)) for path in paths]
    assert {array.shape for array in pixels} == {(75, 100, 3), (100, 75, 3)}
    assert len({array.tobytes() for array in pixels}) == 12
    assert min(array.std() for array in pixels) > 20
    assert all(path.parent.parent == made / "train" for path in paths)
    given = tmp_path / "given"
    assert photographs.main([str(given), "--given", str(made), "--count", "10"]) == 0
    links = photographs.jpeg_files(given)
    assert [path.read_bytes() for path in links] == [path.read_bytes() for path in paths[:10]]
    assert photographs.main([str(made)]) == 2  # is there already
    assert photographs.main([str(tmp_path / "new"), "--given", str(tmp_path / "no")]) == 2
    assert photographs.main([str(tmp_path / "new"), "--count", "0"]) == 2


@pytest.mark.slow
def test_time_to_the_first_step(tmp_path, capsys):
    flags = ["--config=configs/patch.py:tiny", "--config.data.source=shapes:40"]
    flags += ["--config.batch_size=8", "--config.model.width=4", "--config.moco.queue_size=16"]
    start = time.monotonic()
    assert first_step.main(["--out", str(tmp_path / "a"), "--starts", "1", "--", *flags]) == 0
    (seconds,) = json.loads(capsys.readouterr().out)["seconds_to_first_step"]
    assert 0 < seconds < time.monotonic() - start
    assert any((tmp_path / "a" / "cache").iterdir())
    broken = ["--out", str(tmp_path / "b"), "--", "--config=configs/patch.py:no"]
    assert first_step.main(broken) == 1
    assert first_step.main(["--out", str(tmp_path / "a"), "--", *flags]) == 2
    assert first_step.main(["--out", str(tmp_path / "c"), "--starts", "0", "--", *flags]) == 2


def test_same_bits():
    one = {"a": np.array([1.0, -0.0], np.float32), "b": [np.arange(3)]}
    other = {"a": np.array([1.0, 0.0], np.float32), "b": [np.arange(3)]}
    assert same_bits.compare(one, one) == {"arrays": 2, "different": 0, "largest_difference": 0}
    assert same_bits.compare(one, other)["different"] == 1  # the zeros' signs
    other["a"][0] = 1.5
    assert same_bits.compare(one, other)["largest_difference"] == 0.5
    for wrong in ({"a": one["a"]}, {"a": one["a"].astype(float), "b": one["b"]}):
        with pytest.raises(UsageError):
            same_bits.compare(one, wrong)
