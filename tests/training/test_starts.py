"""The record of a run's starts."""

import json
import subprocess
import sys

import jax

from nsneg_jax.training import starts


def test_each_start_adds_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "main.py", "--workdir=a b"])
    for step in (0, 40):
        starts.record(tmp_path / "starts.jsonl", step, jax.devices()[:2])
    first, second = map(json.loads, (tmp_path / "starts.jsonl").read_text().splitlines())
    assert (first["step"], second["step"]) == (0, 40)
    assert first["command"] == "python main.py '--workdir=a b'"
    assert (first["devices"], first["device"], first["processes"]) == (2, "cpu", 1)
    assert first["versions"]["jax"] == jax.__version__
    assert first["time"] <= second["time"]
    starts.record(tmp_path / "nowhere" / "starts.jsonl", 0, jax.devices()[:1])  # ends no run


def test_state_of_the_repository(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        done = subprocess.run(
            ["git", "-C", tmp_path, *identity, *arguments],
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    monkeypatch.setattr(starts, "__file__", str(tmp_path / "code.py"))
    monkeypatch.chdir(tmp_path)
    git("init", "--initial-branch=work")
    assert starts.git_state() is None  # no commit yet
    (tmp_path / "code.py").write_text("1")
    git("add", ".")
    git("commit", "-m", "one")
    expected = {"commit": git("rev-parse", "HEAD"), "branch": "work", "changed": 0}
    assert starts.git_state() == expected
    (tmp_path / "code.py").write_text("2")
    (tmp_path / "results.txt").write_text("not tracked")
    assert starts.git_state() == expected | {"changed": 1}
    monkeypatch.setenv("PATH", "")
    assert starts.git_state() is None
