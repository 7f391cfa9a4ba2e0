"""benchmarks.input --profile: which stage a stack belongs to, and a run with py-spy."""

import importlib.util
import inspect
import json
import shutil
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from photo_folder import write_photos

from benchmarks import input as benchmark
from benchmarks import input_profile
from benchmarks.input_profile import NOT_PYTHON, OTHER, RULES, STAGES, profile, stage_of
from nsneg_jax.input import crops, loading, pipeline, samples
from nsneg_jax.input.loading import Loaders, Steps

ROOT = Path(__file__).parents[2]
GRAIN = Path(importlib.util.find_spec("grain").origin).parent
WORKER = (
    f"thread (7): grain-prefetch_0;Thread.run ({threading.__file__}:9);"
    f"_getitem ({GRAIN}/_src/python/dataset/transformations/prefetch.py:91)"
)


def test_the_table_names_what_exists():
    for rule in RULES:
        if not rule.path.startswith("/"):
            place = ROOT / rule.path
            files = [place] if place.is_file() else place.rglob("*.py")
            code = "".join(file.read_text() for file in files)
            assert code and rule.text in code, rule
            for name in rule.functions:
                assert f"def {name}(" in code, rule


def frame(function, text=""):
    """Returns a frame as py-spy writes it, in the line of `function` that holds `text`."""
    lines, first = inspect.getsourcelines(function)
    at = next(i for i, line in enumerate(lines) if text in line)
    return f"{function.__qualname__} ({inspect.getsourcefile(function)}:{first + at})"


def test_the_innermost_frame_with_a_rule_decides():
    load = frame(samples.TwoCrops.crop)
    cut = frame(crops.resize_fast, "ImageData(image.shape")
    for stage, frames in {
        OTHER: [load],
        "draw": [load, frame(crops.sample_crop)],
        "resize": [load, frame(crops.resize), frame(crops.resize_fast, ".resize(source")],
        "cut, copy": [load, frame(crops.resize), cut],
        "order": [frame(loading._Batches.__getitem__, "_order[")],
        "read": [load, f"read_bytes ({ROOT}/nsneg_jax/input/sources/storage.py:62)"],
        "write into batch": [load, frame(crops.resized_crop, "out[...]")],
        "hand-over": [frame(loading._Batches._result)],
    }.items():
        assert stage_of(";".join([WORKER, *frames])) == stage
    assert stage_of(WORKER) == "hand-over"
    assert stage_of("main (no_such_file.py:1)") == OTHER


class Spinning:
    """A source that computes for 2 ms per image, all of it under Python's lock."""

    name, classes, labels = "spinning", ("all",), np.zeros(64, np.int32)

    def __len__(self):
        return 64

    def image(self, index):
        start = time.thread_time()
        while time.thread_time() < start + 0.002:
            pass
        return np.full((16, 16, 3), index, np.uint8)


needs_py_spy = pytest.mark.skipif(
    shutil.which("py-spy", path=str(Path(sys.executable).parent)) is None,
    reason="py-spy is not installed",
)


@needs_py_spy
def test_a_known_cost_is_found():
    batches = pipeline.pretrain_batches(
        Spinning(), Steps(8, 0, 10**9), Loaders(1), image_size=16, crop_scale=(0.2, 1.0), seed=0
    )
    found = profile(batches, 8, 2)
    stages = found["stages"]
    assert list(stages) == [*STAGES, NOT_PYTHON]
    # The source is in no file with a rule, so its caller in the pipeline counts.
    assert 1.5 < stages[OTHER]["cpu_ms_per_image"] < 4
    held = sum(stage["lock_ms_per_image"] for stage in stages.values())
    assert stages[OTHER]["lock_ms_per_image"] > 0.6 * held  # samples on a busy machine vary
    assert held > 1


@needs_py_spy
def test_a_folder_is_profiled(tmp_path, capsys):
    write_photos(tmp_path)
    flags = ["--batch", "4", "--size", "16", "--threads", "1", "--seconds", "2"]
    benchmark.main(["--root", str(tmp_path), "--profile", *flags])
    *printed, line = capsys.readouterr().out.splitlines()
    found = json.loads(line)["profiles"][f"folder:{tmp_path}"]
    assert len([row for row in printed if row.startswith("|")]) == 2 + len(found["stages"]) + 1
    assert found["stages"]["decode"]["cpu_ms_per_image"] > 0
    assert found["stages"]["draw"]["lock_ms_per_image"] > 0


def test_what_cannot_be_profiled_is_said(tmp_path, monkeypatch, capsys):
    write_photos(tmp_path)
    for flags in (["--workers", "2"], []):
        with pytest.raises(SystemExit) as exit_:
            benchmark.main(["--root", str(tmp_path), "--profile", "--batch", "4", *flags])
        assert exit_.value.code == 2
        monkeypatch.setattr(input_profile.shutil, "which", lambda *_, **__: None)
    assert "py-spy" in capsys.readouterr().err
