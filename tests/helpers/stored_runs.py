"""Workdirs as pre-trainings, probes and evaluations leave them, written by hand."""

import json

import numpy as np
from stored_results import corruption, cue_conflict, evaluation, top1
from tiny import tiny_config

from nsneg_jax.jobs.opening import to_json
from nsneg_jax.report.page.gallery import Gallery, encoded, save
from nsneg_jax.report.sheets import grid

CLASSES = ("owl", '<b>"pot"</b>', "rug & rag")
SIDE = 16


def lines(path, entries):
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def metrics(step):
    return {"step": step, "split": "train", "loss": 6 - step / 100, "accuracy_top1": step / 10}


def pretraining(workdir, steps=(20, 40, 60), **overrides):
    """A run of 60 steps with views, similarities, a gallery and the record of its start."""
    workdir.mkdir(parents=True)
    (workdir / "config.json").write_text(json.dumps(to_json(tiny_config(**overrides))))
    validation = {"step": steps[-1], "split": "val", "knn_20": 52.5, "knn_200": 39.25}
    validation |= {"probe_top1": 61.5, "probe_top5": 93.0, "rankme": 31.5, "feature_std": 0.6}
    lines(workdir / "metrics.jsonl", [*map(metrics, steps), validation])
    start = {
        "time": "2026-11-28T09:30:00+00:00",
        "step": 0,
        "command": "main.py --config=x",
        "host": "a-host",
        "processes": 1,
        "devices": 2,
        "device": "TPU v5e",
        "cpus": 8,
        "system": "Linux x86_64",
        "versions": {"python": "3.11.9", "jax": "0.10.2"},
        "git": {"commit": "0123456789abcdef", "branch": "main", "changed": 3},
    }
    lines(workdir / "starts.jsonl", [start, start | {"step": 40}])
    (workdir / "checkpoints" / "60").mkdir(parents=True)
    rng = np.random.default_rng(0)
    tiles = rng.integers(0, 256, (3, 8, SIDE, SIDE, 3), dtype=np.uint8)
    (workdir / "pictures").mkdir()
    grid(dict(zip(("query", "key", "negative 1"), tiles, strict=True))).save(
        workdir / "pictures" / "views.png"
    )
    (workdir / "similarities").mkdir()
    (workdir / "similarities" / "60.json").write_text(json.dumps(similarities()))
    save(gallery(rng), workdir / "gallery" / "60.npz")
    return workdir


def similarities():
    """Keys at 0.75, the queue at -0.25, patches at 0.25, each in one of 8 bins."""
    kinds = {}
    for kind, place in (("positive", 7), ("queue", 3), ("patch", 5)):
        counts = [0] * 8
        counts[place] = 32
        kinds[kind] = {"counts": counts, "mean": 0.1, "std": 0.0, "above_positive": 0.0}
    return {"step": 60, "images": 32, "bins": 8, "kinds": kinds}


def gallery(rng):
    """30 images of three classes, of which those of one class have almost the same features."""
    labels = np.arange(30, dtype=np.int32) % 3
    features = np.eye(3, 8)[labels] + 0.01 * rng.normal(size=(30, 8))
    pictures = rng.integers(0, 256, (30, SIDE, SIDE, 3), dtype=np.uint8)
    return Gallery(
        features=features.astype(np.float32),
        labels=labels,
        classes=CLASSES,
        indices=np.arange(30, dtype=np.int32),
        pictures=tuple(map(encoded, pictures)),
        about="folder:/data [val], 30 of 90 images",
    )


def probe(workdir):
    workdir.mkdir(parents=True)
    (workdir / "config.json").write_text('{"job": "linear", "epochs": 2}')
    names = ("accuracy_top1/lr_0.1", "accuracy_top1/lr_1")
    points = ((1, 10.0, 20.0), (2, 30.0, 45.5))
    entries = [
        {"step": 9 * epoch, "split": "val", "epoch": epoch} | dict(zip(names, values, strict=True))
        for epoch, *values in points
    ]
    lines(workdir / "metrics.jsonl", entries)
    results = {"job": "linear", "encoder": "runs/patch, step 60", "learning_rate": 1.0}
    results |= {"best_accuracy_top1": 45.5, "accuracy_top5": 90.0}
    (workdir / "results.json").write_text(json.dumps(results))
    return workdir


def evaluated(workdir):
    """An evaluation with corruptions, accuracies by class and cue conflicts."""
    workdir.mkdir(parents=True)
    by_class = dict(zip(CLASSES, (50.0, 80.0, 20.0), strict=True))
    falling = {name: {str(s): 60.0 - 8 * s for s in range(1, 6)} for name in ("fog", "snow")}
    content = evaluation(
        "runs/patch, step 60",
        "patch <i>",
        clean=top1(70.0, by_class=by_class),
        corruption=corruption(36.0, falling),
        cue_conflict=cue_conflict(),
    )
    (workdir / "results.json").write_text(json.dumps(content))
    (workdir / "config.json").write_text('{"job": "evaluate"}')
    (workdir / "cue_conflict.csv").write_text(
        "subj,session,trial,rt,object_response,category,condition,imagename\n"
        "a,1,1,NaN,cat,cat,cue_conflict,cat1-dog2.png\n"
        "a,1,2,NaN,dog,cat,cue_conflict,cat3-dog4.png\n"
    )
    return workdir
