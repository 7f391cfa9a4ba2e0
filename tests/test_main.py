"""The command line: what a user's mistake looks like, and that nothing is touched by it."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import main

ROOT = Path(main.__file__).parent
TINY = f"--config={ROOT / 'configs' / 'patch.py'}:tiny"


@pytest.fixture
def folders(tmp_path):
    """Unusable data sets, by their fault."""
    (tmp_path / "no_train" / "val" / "a").mkdir(parents=True)
    (tmp_path / "no_images" / "train" / "a").mkdir(parents=True)
    (tmp_path / "no_images" / "train" / "a" / "readme.txt").write_text("no image")
    small = tmp_path / "small" / "train" / "a"
    small.mkdir(parents=True)
    for i in range(3):
        cv2.imwrite(str(small / f"{i}.png"), np.full((40, 40, 3), 80 * i, np.uint8))
    return tmp_path


MISTAKES = {
    "misspelt field": ("--config.negatives.alhpa=3", ["'negatives.alhpa'", "'negatives.alpha'"]),
    "field in another section": ("--config.alpha=3", ["'alpha'", "'negatives.alpha'"]),
    "misspelt section": ("--config.negative.num=2", ["'negative.num'", "'negatives.num'"]),
    "wrong type": ("--config.batch_size=many", ["batch_size", "many"]),
    "fraction for a whole number": ("--config.epochs=1.5", ["epochs", "1.5"]),
    "unknown flag": ("--workdri=x", ["workdri", "--workdir"]),
    "word without a flag": ("resume", ["'resume'", "--config"]),
    "unknown source": ("--config.data.source=imagenet", ["'imagenet'", "folder:PATH", "shapes"]),
    "no folder": ("--config.data.source=folder:/nowhere", ["/nowhere"]),
    "no train": ("--config.data.source=folder:{folders}/no_train", ["train", "val"]),
    "no images": ("--config.data.source=folder:{folders}/no_images", ["no_images"]),
    "few images": ("--config.data.source=folder:{folders}/small", ["3 images", "batch_size"]),
    "unknown class": (
        "--config.data.source=folder:{folders}/small --config.data.classes=a,b",
        ["data.classes", "small/train: b."],
    ),
    "alpha without negatives": ("--config.negatives.kind=none", ["negatives.alpha", "2.0"]),
    "unknown kind": ("--config.negatives.kind=jigsaw", ["'jigsaw'", "'patch'"]),
    "no weight": ("--config.negatives.alpha=0", ["negatives.alpha", "greater than 0"]),
    "patches larger than the image": ("--config.negatives.patch_size=16,300", ["300", "224"]),
    "patch range upside down": ("--config.negatives.patch_size=72,16", ["72", "16"]),
    "one patch size": ("--config.negatives.patch_size=16", ["16"]),
    "groups do not divide": ("--config.model.bn_groups=5", ["model.bn_groups", "5", "96"]),
    "devices do not divide": ("--config.batch_size=100", ["batch_size", "100", "8"]),
    "queue smaller than the batch": (
        "--config.moco.queue_size=64",
        ["moco.queue_size", "64", "96"],
    ),
    "unknown arch": ("--config.model.arch=vgg", ["'vgg'", "'resnet50'"]),
    "crop scale": ("--config.views.crop_scale=0.2,1.5", ["views.crop_scale", "1.5"]),
    "probability": ("--config.views.flip_probability=1.5", ["flip_probability", "1.5"]),
    "processes without their number": ("--num_processes=2", ["--coordinator", "--process_id"]),
    "unknown way to start": ("--distributed=yes", ["distributed", "yes", "auto"]),
    "no learning": ("--config.optimizer.learning_rate=0", ["optimizer.learning_rate"]),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_one_paragraph(mistake, folders, capsys):
    flags, expected = MISTAKES[mistake]
    argv = flags.format(folders=folders).split()
    workdir = folders / "run"
    status = main.main(["main.py", TINY, f"--workdir={workdir}", *argv])
    message = capsys.readouterr().err
    assert status == 2
    assert message.startswith("error: ") and "Traceback" not in message
    assert "\n\n" not in message.strip()
    joined = " ".join(message.split())
    for text in expected:
        assert text in joined, message
    assert not (workdir / "config.json").exists()


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], "--config is missing"),
        ([TINY], "--workdir is missing"),
        (["--config=nowhere.py", "--workdir=x"], "nowhere.py"),
        ([f"{TINY[:-4]}huge", "--workdir=x"], "'huge'"),
    ],
)
def test_what_to_run_is_missing(argv, expected, capsys):
    assert main.main(["main.py", *argv]) == 2
    assert expected in capsys.readouterr().err


def test_mistake_is_told_within_five_seconds(tmp_path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = subprocess.run(
        [sys.executable, ROOT / "main.py", TINY, f"--workdir={tmp_path / 'run'}",
         "--config.data.source=folder:/nowhere"],
        capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert run.returncode == 2
    assert "/nowhere" in run.stderr and "Traceback" not in run.stderr
    # of processor time, because the machine may be running other tests
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    assert used < 15  # 5 on a machine with nothing else to do
