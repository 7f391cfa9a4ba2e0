"""benchmarks.gpu with small real processes, and its table of made results."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from processes import ROOT, is_running

from benchmarks import children, gpu
from benchmarks.children import Command
from benchmarks.gpu_parts import PARTS, Part, Setting
from benchmarks.gpu_rows import Row, kernel_lines, rows_of, table
from nsneg_jax.errors import UsageError
from nsneg_jax.files import write_json

GOOD = Command("good", ("-c", "print('said'); print('{\"figure\": 1}')"))
BAD = Command("bad", ("-c", "import sys; sys.exit('error: a reason\\nof two lines')"))
SLOW = Command("slow", ("-c", "import time; print('begun', flush=True); time.sleep(60)"))


@pytest.fixture
def setting(tmp_path):
    return Setting(tmp_path / "work", tmp_path / "logs", small=False)


def part(*commands, seconds=30.0, chain=True):
    return Part("made for a test", seconds, lambda setting: list(commands), chain)


def say(setting, part, command, figures):
    path = setting.said(part, command)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"some words\n{json.dumps(figures)}\n")


def values(part, setting):
    return {row.figure: row.value for row in rows_of(part, setting)}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--parts", "step,stpe"], "--parts has 'stpe', but must be of step, golden"),
        (["--minutes", "0"], "--minutes is 0"),
        (["--photographs", "/nowhere"], "at least 512"),
        (["--small", "--photographs", "/nowhere"], "at least 16"),
        (["--out", str(ROOT / "tests")], "not empty"),
    ],
)
def test_mistakes(arguments, says, tmp_path):
    with pytest.raises(UsageError, match=says):
        gpu.parse(["--out", str(tmp_path / "new"), *arguments])


def test_parts_come_in_their_order():
    assert gpu.parse(["--parts", "golden,step"]).parts == ["step", "golden"]
    assert gpu.parse([]).parts == list(PARTS)


def test_no_accelerator(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    out = tmp_path / "gpu"
    assert gpu.main(["--out", str(out)]) == 2
    assert "--small" in capsys.readouterr().err
    assert not out.exists()  # the same folder with --small is not refused then


def test_command_says_all_in_files(tmp_path):
    ended = children.run(GOOD, tmp_path / "logs" / "a", 30)
    assert ended.status == 0 and 0 < ended.seconds < 30
    assert (tmp_path / "logs" / "a.out").read_text().startswith("said\n")
    ended = children.run(BAD, tmp_path / "b", 30)
    assert ended.status == 1 and ended.last_words == "error: a reason of two lines"
    shows = Command("environ", ("-c", "import os; print(os.environ['SHOWN'])"), {"SHOWN": "yes"})
    children.run(shows, tmp_path / "c", 30)
    assert (tmp_path / "c.out").read_text() == "yes\n"


def test_what_a_command_has_started_ends_with_it(tmp_path, monkeypatch):
    started = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {0}]).pid)"
    sleeps = "import time; time.sleep(60)"
    text = started.format(repr(sleeps)) + "; sys.stdout.flush(); " + sleeps
    wait, waits = subprocess.Popen.wait, []

    def until_started(process, timeout=None):
        """The time limit passes as soon as there is a child to end."""
        waits.append(timeout)
        if len(waits) > 1:
            return wait(process, timeout)
        while not (tmp_path / "family.out").read_text().endswith("\n"):
            time.sleep(0.01)
        raise subprocess.TimeoutExpired(process.args, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", until_started)
    ended = children.run(Command("family", ("-c", text)), tmp_path / "family", 2)
    assert ended.status is None
    pid, end = int((tmp_path / "family.out").read_text()), time.monotonic() + 60
    while is_running(pid):  # its new parent may be slow to notice
        assert time.monotonic() < end
        time.sleep(0.01)


def test_rest_goes_on(tmp_path, setting):
    measurement = gpu.Measurement(tmp_path, 60, setting)
    measurement.about = dict.fromkeys(("platform", "device", "devices", "python", "jax"), "some")
    measurement.about |= {"flax": "1.0", "torch": None}  # which `probe` finds out
    measurement.run("start-up", part(SLOW, GOOD, seconds=1.0))
    measurement.run("repeat", part(BAD, GOOD))
    measurement.run("golden", part(BAD, GOOD, chain=False))
    # without the fields of benchmarks.texture
    measurement.run("texture", part(GOOD._replace(name="synthesis")))
    measurement.run("corruptions", part())
    measurement.end = time.monotonic()
    measurement.run("job", part(GOOD))
    measurement.write()
    results = json.loads((tmp_path / "results.json").read_text())
    states = {name: entry["state"] for name, entry in results["parts"].items()}
    assert states == {
        "start-up": "timed out",
        "repeat": "failed",
        "golden": "failed",
        "texture": "failed",
        "corruptions": "done",
        "job": "left out",
    }
    run = {
        name: [(command["name"], command["status"]) for command in entry["commands"]]
        for name, entry in results["parts"].items()
    }
    assert run["start-up"] == [("slow", None)]  # a chain ends at the first failure
    assert run["repeat"] == [("bad", 1)] and run["golden"] == [("bad", 1), ("good", 0)]
    assert results["parts"]["start-up"]["seconds"] < 15
    shown = (tmp_path / "table.md").read_text()
    for said in ("exit status 1: error: a reason of two lines (logs/repeat.bad.err)", "left out"):
        assert said in shown
    assert "torch missing" in shown


def test_whole_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    found = {"batch": 2, "images_per_second": 12.5}
    synthesis = Command("synthesis", ("-c", f"print({json.dumps(found)!r})"))
    monkeypatch.setitem(PARTS, "texture", part(synthesis))
    monkeypatch.setitem(PARTS, "repeat", part(BAD))
    arguments = ["--small", "--out", str(tmp_path / "gpu"), "--parts"]
    assert gpu.main([*arguments, "texture,repeat"]) == 1
    said = capsys.readouterr().out
    assert said.endswith((tmp_path / "gpu" / "table.md").read_text())
    rows = json.loads((tmp_path / "gpu" / "results.json").read_text())["rows"]
    assert [row["value"] for row in rows if row["unit"] == "images/s"] == [12.5]
    assert gpu.main([*arguments, "texture"]) == 2  # the folder is in use


def test_interrupted_command_prints_its_table(tmp_path):
    environ = os.environ | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "benchmarks.gpu", "--small", "--parts", "golden,texture"]
    command += ["--out", str(tmp_path / "gpu")]
    process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline().startswith("golden:")
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 1
    assert "| golden | interrupted |" in rest and "texture" not in rest
    parts = json.loads((tmp_path / "gpu" / "results.json").read_text())["parts"]
    assert parts["golden"]["state"] == "interrupted"


STEP = {
    "images_per_second": 4000.0,
    "seconds_per_step": 0.128,
    "method_images_per_second": 4800.0,
    "share_of_peak_flops": 0.25,
    "share_of_peak_bandwidth": None,
    "bytes_per_step": 4e11,
    "compile_seconds": 59.0,
    "peak_memory_bytes": 4.1e10,
    "first_loss": 8.0,
}


def test_rows_of_the_step(setting):
    kernel = {"name": "fusion_1", "seconds_per_step": 0.002, "calls_per_step": 2.0, "share": 0.5}
    profile = {"kernel_seconds_per_step": 0.004, "kernels": [kernel | {"operation": None}]}
    say(setting, "step", "ours", STEP | {"profile": profile})
    peer = {"batch": 512, "images_per_second": 4000.0, "ratio": 1.2, "whole_ratio": 1.0}
    peers = {
        "torch-compiled": peer | {"first_loss": 8.0},
        "torch-original": peer | {"first_loss": 8.008, "batch": 256},
        "torch": {"error": "OutOfMemoryError: no memory"},
    }
    say(setting, "step", "peers", STEP | {"peers": peers})
    rows = rows_of("step", setting)
    by_name = {row.figure: row for row in rows}
    assert by_name["ours, whole step, of peak FLOP/s"].value == 25
    assert "ours, whole step, of peak memory bandwidth" not in by_name
    compiled = by_name["torch-compiled time / ours, method alone"]
    assert compiled.reached and compiled.target == "at least 1, aim 1.15"
    original = by_name["torch-original time / ours, method alone"]
    assert original.reached is False and original.least == 2.5
    difference = by_name["torch-original, first loss, relative difference from ours"]
    assert difference.value == pytest.approx(1e-3)
    assert by_name["torch"].value == "OutOfMemoryError: no memory"
    assert "torch-original, batch 256" in by_name
    small = rows_of("step", setting._replace(small=True))
    assert all(row.reached is None for row in small) and len(small) == len(rows)
    lines = table(("step", row) for row in rows)
    assert len(lines) == 2 + len(rows) and all(line.count(" | ") == 4 for line in lines[2:])
    assert "fusion_1" in kernel_lines(setting)[-1]


def test_peers_are_held_to_the_tuned_one(setting):
    peer = {"batch": 512, "images_per_second": 4000.0, "ratio": 1.2, "whole_ratio": 1.0}
    peer |= {"first_loss": 8.0, "timed_first_loss": 8.2}
    others = {"torch-compiled": 8.2082, "torch-original": 8.2}
    peers = {"torch": peer} | {name: peer | {"timed_first_loss": x} for name, x in others.items()}
    peers["torch-original"]["batch"] = 256  # whose loss is of fewer images
    say(setting, "step", "peers", STEP | {"peers": peers})
    found = [row.value for row in rows_of("step", setting) if "from torch" in row.figure]
    assert found == [pytest.approx(1e-3)]


def test_rows_of_half_a_line(setting):
    say(setting, "step", "ours", STEP)
    path = setting.said("step", "ours")
    path.write_text(path.read_text()[:-20])  # ended while it wrote
    assert rows_of("step", setting) == [] and kernel_lines(setting) == []


def test_rows_of_the_trajectories(setting):
    folder = setting.work / "golden"
    folder.mkdir(parents=True)
    report = '<testsuites><testsuite><testcase name="t">{}</testcase></testsuite></testsuites>'
    worst = '<properties><property name="worst_relative_error" value="4.7e-15"/></properties>'
    (folder / "one_process.xml").write_text(report.format(worst))
    (folder / "two_processes.xml").write_text(report.format('<failure message="no">no</failure>'))
    rows = rows_of("golden", setting)
    assert [(row.value, row.reached) for row in rows] == [
        (4.7e-15, True),
        ("holds", None),
        ("does NOT hold", None),
    ]


def test_rows_of_the_jobs(setting):
    lines = [
        {"step": step, "split": "train", "images_per_second": speed, "input_wait_fraction": 0.5}
        for step, speed in ((20, 1.0), (40, 1200.0), (60, 1300.0), (80, 1400.0))
    ]
    (setting.work / "job").mkdir(parents=True)
    metrics = setting.work / "job" / "metrics.jsonl"
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    say(setting, "job", "made", {"images": 640, "mean_bytes": 1e5})
    source = {"images_per_second": 1500.0, "cpu_ms_per_image": 2.5}
    say(setting, "job", "input", {"sources": {"folder:x": source}})
    found = values("job", setting)
    assert found["job"] == 1300 and found["job, time that waits for input"] == 50
    assert found["input alone"] == 1500 and found["photographs, mean size"] == 100
    evaluated = setting.work / "demo" / "patch-eval" / "results.json"
    write_json(evaluated, {"sets": {"clean": {"accuracy_top1": 48.6}}})
    found = values("demo", setting)
    assert found["patch, clean top-1"] == 48.6 and found["table"] == "NOT made"
    (setting.work / "demo" / "table.md").write_text("a table")
    assert values("demo", setting)["table"] == "made"


def test_rows_of_the_others(setting):
    assert all(rows_of(name, setting) == [] for name in set(PARTS) - {"demo"})
    say(setting, "start-up", "starts", {"seconds_to_first_step": [90.0, 20.0]})
    assert list(values("start-up", setting).values()) == [90, 20]
    compared = {"arrays": 100, "different": 2, "largest_difference": 1e-6}
    say(setting, "repeat", "compared", compared)
    assert [row.reached for row in rows_of("repeat", setting)] == [False, None]
    measured = {"test_seconds_per_100_images": 7.5, "compile_seconds": 60.0}
    say(setting, "corruptions", "all", measured)
    assert values("corruptions", setting)["15 test corruptions, 5 severities, mean"] == 1000
    assert Row("a", 1.0, most=0.5).target == "at most 0.5"
