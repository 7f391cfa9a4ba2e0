"""Services that runs are logged to: in a process that neither holds up nor ends the training."""

import json
import math
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nsneg_jax.errors import UsageError
from nsneg_jax.training.loggers import services
from nsneg_jax.training.loggers.process import SERVICES
from nsneg_jax.training.loggers.services import Service, check_installed, services_in
from nsneg_jax.training.metrics import MetricWriter

CONFIG = {"seed": 3, "optimizer": {"name": "sgd", "rates": [0.1, 0.2]}}
FIGURES = {"train/loss": 2.5, "train/odd": math.nan}


def test_names_in_the_field():
    assert services_in("") == ()
    assert services_in("wandb, mlflow") == ("wandb", "mlflow")


# A package of wandb's name, with one fault of each kind.
BROKEN = {
    "cannot be imported": "raise RuntimeError('an odd import')",
    "does not log in": "def init(**_): raise RuntimeError('api_key not configured')\n"
    "class Settings:\n    def __init__(self, **_): pass",
    "dies": "import os\ndef init(**_): os._exit(3)\n"
    "class Settings:\n    def __init__(self, **_): pass",
    "never returns": "import time\ndef init(**_): time.sleep(600)\n"
    "class Settings:\n    def __init__(self, **_): pass",
}


ALSO_SLOWLY = ("cannot be imported", "dies")


@pytest.mark.parametrize(
    "fault",
    [pytest.param(each, marks=[pytest.mark.slow] * (each in ALSO_SLOWLY)) for each in BROKEN],
)
def test_a_service_that_fails_is_reported_once_and_the_run_goes_on(
    tmp_path, monkeypatch, capsys, fault
):
    (tmp_path / "libraries" / "wandb").mkdir(parents=True)
    (tmp_path / "libraries" / "wandb" / "__init__.py").write_text(BROKEN[fault])
    monkeypatch.syspath_prepend(str(tmp_path / "libraries"))
    monkeypatch.setattr(services, "_PATIENCE", 3.0 if fault == "never returns" else 60.0)
    check_installed("wandb")
    began = time.monotonic()
    with MetricWriter(tmp_path / "run", 0, "wandb", "tests", CONFIG) as writer:
        for step in range(1, 201):
            writer.write(step, "train", {"loss": 1.0 / step, "text": 7.0 * step})
        written = time.monotonic() - began
    ended = time.monotonic() - began
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 201))
    said = capsys.readouterr().err
    assert said.count("warning: ") == 1 and "wandb" in said and "Traceback" not in said
    if fault == "never returns":
        assert written < ended - 2.5 and "did not finish in 3 s" in said
    if "odd" in BROKEN[fault] or "api_key" in BROKEN[fault]:
        reason = "an odd import" if "odd" in BROKEN[fault] else "api_key not configured"
        assert reason in said
        assert reason in (tmp_path / "run" / "loggers" / "wandb.txt").read_text()


def test_the_process_of_a_killed_run_ends(tmp_path):
    """It sees the end of its pipe; the library here only waits for it."""
    (tmp_path / "libraries" / "wandb").mkdir(parents=True)
    ended = tmp_path / "ended"
    (tmp_path / "libraries" / "wandb" / "__init__.py").write_text(
        f"""
class Settings:
    def __init__(self, **_): pass
class Run:
    id = "one"
    def log(self, *_, **__): pass
    def finish(self, exit_code):
        open({str(ended)!r}, "w").write(str(exit_code))
def init(**_): return Run()
"""
    )
    program = f"""
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, {str(tmp_path / "libraries")!r})
from nsneg_jax.training.loggers.services import Service
service = Service("wandb", Path({str(tmp_path / "run")!r}), "tests", {{}})
while not Path({str(tmp_path / "run" / "loggers" / "wandb.id")!r}).exists():
    time.sleep(0.05)
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], timeout=120)
    deadline = time.monotonic() + 30
    while not ended.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert ended.read_text() == "1"
    assert (tmp_path / "run" / "loggers" / "wandb.id").read_text() == "one\n"


def log_twice(name: str, workdir: Path) -> str:
    """Logs two starts of a run; returns its id, which both have."""
    pytest.importorskip(name)
    found = []
    for start in (0, 10):
        service = Service(name, workdir, "tests", CONFIG)
        if not start:
            picture = workdir / "views.png"
            Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(picture)
            service.picture(0, "views", picture)
            service.text(0, "summary", "    data  8 images")
        for step in range(start + 1, start + 6):
            service.write(step, FIGURES)
        service.close()
        found.append((workdir / "loggers" / f"{name}.id").read_text().strip())
    assert found[0] == found[1]
    return found[0]


@pytest.fixture
def offline(monkeypatch, capsys):
    for name in ("WANDB_DIR", "WANDB_PROJECT", "MLFLOW_TRACKING_URI", "TRACKIO_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    yield
    assert "warning" not in capsys.readouterr().err


STEPS = [1, 2, 3, 4, 5, 11, 12, 13, 14, 15]


def wandb_records(path: Path) -> Iterator[bytes]:
    """Yields the records of W&B's offline file: LevelDB's log format after a head of 7 bytes."""
    data, place, record, block = path.read_bytes(), 7, b"", 2**15
    while place + 7 <= len(data):
        if block - place % block < 7:  # no room for the head of a record
            place += block - place % block
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield record
            record = b""


@pytest.mark.slow
def test_wandb_offline(tmp_path, offline):
    own = log_twice("wandb", tmp_path)
    from wandb.proto import wandb_internal_pb2

    steps, config, folders = [], {}, sorted((tmp_path / "loggers/wandb").glob(f"offline-*-{own}"))
    for folder in folders:
        for data in wandb_records(folder / f"run-{own}.wandb"):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            config |= {item.key: item.value_json for item in record.run.config.update}
            values = {
                item.key or item.nested_key[0]: item.value_json for item in record.history.item
            }
            if "train/loss" in values:
                assert values["train/loss"] == "2.5"
                steps.append(record.history.step.num)
    assert len(folders) == 2 and steps == STEPS
    assert json.loads(config["optimizer"]) == CONFIG["optimizer"]
    assert list(folders[0].glob("files/media/images/*.png"))


@pytest.mark.slow
def test_mlflow_in_files(tmp_path, offline, monkeypatch):
    own = log_twice("mlflow", tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow import MlflowClient

    client = MlflowClient((tmp_path / "loggers" / "mlruns").as_uri())
    history = client.get_metric_history(own, "train/loss")
    assert [(point.step, point.value) for point in history] == [(step, 2.5) for step in STEPS]
    run = client.get_run(own)
    assert run.info.status == "FINISHED" and run.data.params["optimizer.name"] == "sgd"
    artifacts = {path.name for path in (tmp_path / "loggers/mlruns").rglob("artifacts/**/*.*")}
    assert {"views.png", "summary.md"} <= artifacts


@pytest.mark.slow
def test_trackio_in_files(tmp_path, offline):
    own = log_twice("trackio", tmp_path)
    with sqlite3.connect(tmp_path / "loggers" / "trackio" / "tests.db") as database:
        rows = database.execute(
            "select step, metrics from metrics where run_name = ? order by step", (own,)
        ).fetchall()
    losses = [(step, json.loads(text).get("train/loss")) for step, text in rows]
    assert [step for step, loss in losses if loss == 2.5] == STEPS


@pytest.mark.parametrize("name", SERVICES)
def test_a_missing_package_is_named(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=rf"log\.to='{name}'.*nsneg_jax\[{name}\]"):
        check_installed(name)
