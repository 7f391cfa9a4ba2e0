"""Contents of results.json files as the jobs write them, and folders of them."""

import json

from nsneg_jax.corruptions import CORRUPTIONS


def top1(accuracy, **fields):
    entry = {
        "protocol": "top1",
        "source": "folder:/data/images",
        "generated": False,
        "accuracy_top1": accuracy,
        "accuracy_top5": 90.0,
        "interval_top1": [accuracy - 1, accuracy + 1.5],
        "calibration_rms": 3.25,
        "images": 5000,
        "unreadable": 0,
        "classes": 100,
        "ways": 100,
    }
    return entry | fields


def corruption(mean, parts=None, **fields):
    if parts is None:
        parts = {name: {str(s): mean for s in range(1, 6)} for name in CORRUPTIONS}
    entry = top1(mean, protocol="corruption", parts=parts, mean_15=mean, mean_19=None)
    return entry | {"files_seen": 375000, "files_expected": 375000} | fields


def cue_conflict(**fields):
    entry = {
        "protocol": "cue_conflict",
        "source": "folder:/data/cue",
        "generated": False,
        "shape_decisions": 412,
        "texture_decisions": 250,
        "shape_bias": 62.24,
        "categories": ["bird", "cat"],
        "restricted": True,
        "images": 1560,
        "unreadable": 0,
    }
    return entry | fields


def evaluation(encoder, label="", missing=None, seed=None, **sets):
    return {
        "job": "evaluate",
        "encoder": encoder,
        "encoder_seed": seed,
        "classifier": f"probe of {encoder}",
        "label": label,
        "sets": sets,
        "missing": missing or {},
    }


def store(folder, *contents):
    """Stores each content as results.json in its own workdir below `folder`."""
    runs = []
    for content in contents:
        run = folder / f"run{len(list(folder.iterdir()))}"
        run.mkdir()
        (run / "results.json").write_text(json.dumps(content))
        runs.append(run)
    return runs
