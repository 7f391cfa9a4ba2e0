"""The robustness job on folders in each released layout, where every right answer is known."""

import csv
import json
import os
import signal

import jax
import numpy as np
import pytest
from answering import (
    CLASSES,
    ONE,
    a_config,
    answering_probe,
    probe_checkpoint,
    run,
    shapes_config,
    write_image,
)
from tiny import checkpoint_of_untrained

from configs import evaluate as evaluate_config
from nsneg_jax.corruptions import CORRUPTIONS, EXTRA
from nsneg_jax.errors import UsageError
from nsneg_jax.evaluation.summary import accuracy_by_class
from nsneg_jax.input.shapes.source import CLASSES as SHAPES
from nsneg_jax.input.shapes.source import Shapes
from nsneg_jax.input.texture_pairs import TexturesInMemory
from nsneg_jax.jobs import evaluate as job
from nsneg_jax.training.progress import Progress


@pytest.fixture
def answering(monkeypatch, tmp_path):
    return answering_probe(monkeypatch, tmp_path)


def test_subset_folder_keeps_the_classifiers_labels(answering, tmp_path):
    """Missing and empty classes, foreign wnids and other files; a corrupt image is left out."""
    root = tmp_path / "sketch"
    for wnid in (CLASSES[7], CLASSES[2], CLASSES[5]):  # made in another order than the names'
        own = CLASSES.index(wnid)
        for i, answer in enumerate((own, own, (own + 1) % 10)):
            write_image(root / wnid / f"{i}.png", answer)
    (root / CLASSES[0]).mkdir()
    write_image(root / "n99999999" / "0.png", 3)
    (root / CLASSES[2] / "notes.txt").write_text("no image")
    (root / CLASSES[5] / "broken.png").write_bytes(b"\x89PNG broken")
    sets = {"sets.sketch.source": f"folder:{root}", "data.workers": 2}
    figures = run(a_config(answering, "sketch", **sets), tmp_path / "out")["sketch"]
    assert figures["images"] == 9 and figures["unreadable"] == 1
    assert figures["accuracy_top1"] == pytest.approx(100 * 6 / 9)
    assert figures["classes"] == 3 and figures["ways"] == 10
    low, high = figures["interval_top1"]
    assert low < figures["accuracy_top1"] < high


def test_the_two_conventions_of_rendition(answering, tmp_path):
    """Of 200 wnids some are shared; answers outside of them are right only as 19-way ones."""
    root = tmp_path / "r"
    shared = CLASSES[1:4]
    for wnid in (*shared, *(f"n1{i:07}" for i in range(197))):
        own = CLASSES.index(wnid) if wnid in CLASSES else 9
        write_image(root / wnid / "right.png", own)
    # the colour of class 8, which the shared ones do not have: among those, the first is answered
    write_image(root / shared[0] / "outside.png", 8)
    sets = {f"sets.{name}.source": f"folder:{root}" for name in RENDITION}
    config = a_config(answering, ",".join(RENDITION), csv=str(tmp_path / "timm.csv"), **sets)
    config.label = "ours"
    figures = run(config, tmp_path / "out")
    assert figures["rendition_100way"]["accuracy_top1"] == 75
    assert figures["rendition_100way"]["ways"] == 10
    assert figures["rendition_19way"]["accuracy_top1"] == 100
    assert figures["rendition_19way"]["ways"] == 3
    assert figures["rendition_19way"]["images"] == 4
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["self_test"]["passed"] and results["self_test"]["checks"] > 40
    lines = (tmp_path / "out" / "per_class.tsv").read_text().splitlines()
    assert [line.split("\t") for line in lines] == [
        ["set", "class", "images", "top1", "top5", "shape", "texture"],
        *(
            [name, wnid, images, top1, top5, "", ""]
            for name, of_shared in (
                ("rendition_100way", "50.0000"),
                ("rendition_19way", "100.0000"),
            )
            for wnid, images, top1, top5 in (
                (shared[0], "2", of_shared, "100.0000"),
                (shared[1], "1", "100.0000", "100.0000"),
                (shared[2], "1", "100.0000", "100.0000"),
            )
        ),
    ]
    header, row = (tmp_path / "timm-rendition_19way.csv").read_text().splitlines()
    assert row.split(",")[:5] == ["ours", "100.000", "0.000", "100.000", "0.000"]
    assert header.split(",")[5:] == ["param_count", "img_size", "crop_pct", "interpolation"]
    assert row.split(",")[6:] == ["16", f"{16 / 18:.3f}", "bilinear"]


RENDITION = ("rendition_100way", "rendition_19way")


@pytest.mark.parametrize("grouped", [False, True])
def test_released_corruptions(answering, tmp_path, grouped):
    """CORRUPTION/SEVERITY/WNID: the mean over all, and the missing parts.

    In folders of groups all are there; without, two do, one of them outside of the mean.
    """
    root = tmp_path / "c"
    rng = np.random.default_rng(0)
    right = {}
    names = (*CORRUPTIONS, EXTRA[0]) if grouped else (next(iter(CORRUPTIONS)), EXTRA[0])
    for name in names:
        for severity in range(1, 6):
            for own in (3, 6):
                answer = own if rng.random() < 0.6 else 0
                right.setdefault((name, severity), []).append(answer == own)
                group = root / "group" if grouped else root
                write_image(
                    group / name / str(severity) / CLASSES[own] / "a.jpg", answer, quality=95
                )
    config = a_config(answering, "corruption", **{"sets.corruption.source": f"folder:{root}"})
    figures = run(config, tmp_path / "out")["corruption"]
    accuracies = {key: 100 * np.mean(values) for key, values in right.items()}
    for (name, severity), value in accuracies.items():
        assert figures["parts"][name][str(severity)] == pytest.approx(value)
    assert len(list((tmp_path / "out" / "parts").iterdir())) == 5 * len(names)
    assert figures["mean_19"] is None and not figures["generated"]
    if not grouped:
        assert list(figures["parts"]) == list(names) and figures["mean_15"] is None
        return
    headline = np.mean([value for (name, _), value in accuracies.items() if name in CORRUPTIONS])
    assert figures["mean_15"] == figures["accuracy_top1"] == pytest.approx(headline)
    assert figures["files_seen"] == 150
    assert figures["settings"] == figures["settings_expected"] == 75
    # these classes are none of ImageNet's, so nobody knows how many files there should be
    assert figures["files_expected"] is None and "mce" not in figures


def test_finished_parts_are_not_run_again(answering, tmp_path, monkeypatch):
    sets = {}
    for name in ("sketch", "stylized", "a"):
        split = "val" if name == "stylized" else "."
        write_image(tmp_path / name / split / CLASSES[4] / "x.png", 4)
        sets[f"sets.{name}.source"] = f"folder:{tmp_path / name}"
    config = a_config(answering, "sketch,stylized,a", **sets)

    class Interrupting(Progress):
        def advance(self, step):
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(job, "Progress", Interrupting)
        assert job.evaluate(config, tmp_path / "out", ONE) is None
    assert [path.name for path in (tmp_path / "out" / "parts").iterdir()] == ["sketch.npz"]
    assert not (tmp_path / "out" / "results.json").exists()
    # what is finished is not run again
    written = (tmp_path / "out" / "parts" / "sketch.npz").stat().st_mtime_ns
    figures = run(config, tmp_path / "out")
    assert [figures[name]["accuracy_top1"] for name in ("sketch", "stylized", "a")] == [100] * 3
    assert (tmp_path / "out" / "parts" / "sketch.npz").stat().st_mtime_ns == written
    # other images of the same name, another place of a set, and another classifier
    write_image(tmp_path / "sketch" / CLASSES[4] / "x.png", 5)
    assert run(config, tmp_path / "out")["sketch"]["accuracy_top1"] == 0
    write_image(tmp_path / "elsewhere" / CLASSES[4] / "x.png", 5)
    config.sets.a.source = f"folder:{tmp_path / 'elsewhere'}"
    assert run(config, tmp_path / "out")["a"]["accuracy_top1"] == 0
    other = probe_checkpoint(tmp_path / "other", np.roll(np.eye(32, 10, dtype=np.float32), -1, 1))
    config.pretrained, config.only = str(other), "stylized,a"
    figures = run(config, tmp_path / "out")
    assert [figures[name]["accuracy_top1"] for name in ("stylized", "a")] == [0, 100]


def test_missing_sets_are_listed_and_the_rest_runs(answering, tmp_path, capsys):
    write_image(tmp_path / "a" / CLASSES[0] / "x.png", 0)
    config = a_config(answering, "a,sketch", **{"sets.a.source": f"folder:{tmp_path / 'a'}"})
    job.evaluate(config, tmp_path / "out", ONE)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(results["sets"]) == ["a"] and "ImageNet-Sketch" in results["missing"]["sketch"]
    assert "missing     sketch" in capsys.readouterr().out
    config.require_all = True
    with pytest.raises(UsageError, match="1 of 2 sets are missing"):
        job.evaluate(config, tmp_path / "other", ONE)


def test_missing_sets_of_other_classes_are_one_line(answering, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(job, "wnids", lambda: ("n99999999",))
    write_image(tmp_path / "a" / CLASSES[0] / "x.png", 0)
    only = "a,sketch,stylized,v2"
    config = a_config(answering, only, **{"sets.a.source": f"folder:{tmp_path / 'a'}"})
    job.evaluate(config, tmp_path / "out", ONE)
    printed = capsys.readouterr().out.splitlines()
    lines = [line for line in printed if line.startswith("missing")]
    assert len(lines) == 1 and "3 sets" in lines[0] and lines[0].endswith("sketch, stylized, v2")
    missing = json.loads((tmp_path / "out" / "results.json").read_text())["missing"]
    assert list(missing) == ["sketch", "stylized", "v2"]


def test_a_set_that_cannot_be_used_does_not_end_the_job(answering, tmp_path):
    """A folder without its split, one with other classes, and only corruptions outside the mean."""
    (tmp_path / "imagenet" / "train").mkdir(parents=True)
    write_image(tmp_path / "others" / "n55555555" / "x.png", 0)
    write_image(tmp_path / "c" / "spatter" / "2" / CLASSES[3] / "x.png", 3)
    folders = {"clean": "imagenet", "a": "others", "corruption": "c"}
    sets = {f"sets.{name}.source": f"folder:{tmp_path / root}" for name, root in folders.items()}
    config = a_config(answering, "clean,a,corruption", **sets)
    job.evaluate(config, tmp_path / "out", ONE)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert sorted(results["missing"]) == ["a", "clean"]
    assert "no split 'val'" in results["missing"]["clean"]
    figures = results["sets"]["corruption"]
    assert figures["parts"] == {"spatter": {"2": 100}} and figures["mean_15"] is None
    assert figures["accuracy_top1"] is None


@pytest.mark.slow
def test_float64_sees_the_same_corruptions(of_shapes, tmp_path, float64):
    probe, ours = of_shapes
    config = shapes_config(probe, "corruption")
    config.dtype = "float64"
    theirs = run(config, tmp_path)["corruption"]
    cells = [
        abs(value - ours["corruption"]["parts"][name][severity])
        for name, row in theirs["parts"].items()
        for severity, value in row.items()
    ]
    # of 21 images one may be on the edge between two classes
    assert len(cells) == 75 and max(cells) < 100 * 1.5 / 21 and np.mean(cells) < 0.5


def test_v2_names_classes_by_their_index(tmp_path, monkeypatch, answering):
    classes = ("n01440764", "n01443537", "n01484850")  # indices 0, 1 and 2 of ImageNet-1K
    kernel = np.eye(32, 3, dtype=np.float32)
    probe = probe_checkpoint(tmp_path / "three", kernel, classes)
    for index in (1, 2, 999):
        write_image(tmp_path / "v2" / str(index) / "x.png", 1)
    config = a_config(probe, "v2", **{"sets.v2.source": f"folder:{tmp_path / 'v2'}"})
    figures = run(config, tmp_path / "out")["v2"]
    assert figures["images"] == 2 and figures["accuracy_top1"] == 50


def test_cue_conflicts_are_decided_by_category(tmp_path, answering):
    """Of a head with two bird wnids, one cat and one truck: restricted to these categories."""
    classes = ("n01530575", "n01531178", "n02123045", "n03796401")
    probe = probe_checkpoint(tmp_path / "four", np.eye(32, 4, dtype=np.float32) * 9, classes)
    shown = {  # name -> the class answered
        "cat/cat1-truck2.png": 2,
        "cat/cat2-bird1.png": 1,
        "bird/bird3-cat1.png": 0,
        "truck/truck1-bird2.png": 2,  # neither
        "cat/cat3-cat4.png": 2,  # no conflict
        "bear/bear1-cat1.png": 2,  # no bear in this head
    }
    for name, answer in shown.items():
        write_image(tmp_path / "cues" / name, answer)
    source = {"sets.cue_conflict.source": f"folder:{tmp_path / 'cues'}"}
    figures = run(a_config(probe, "cue_conflict", **source), tmp_path / "out")["cue_conflict"]
    assert figures["images"] == 4 and figures["restricted"]
    assert figures["shape_decisions"] == 2 and figures["texture_decisions"] == 1
    assert figures["shape_bias"] == pytest.approx(200 / 3)
    assert figures["categories"] == ["bird", "cat", "truck"]
    assert (figures["shape_accuracy"], figures["texture_accuracy"]) == (50, 25)
    of_category = (tmp_path / "out" / "per_class.tsv").read_text().splitlines()[1:]
    assert [line.split("\t")[1:] for line in of_category] == [
        ["bird", "1", "", "", "100.0000", "0.0000"],
        ["cat", "2", "", "", "50.0000", "50.0000"],
        ["truck", "1", "", "", "0.0000", "0.0000"],
    ]
    with (tmp_path / "out" / "cue_conflict.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0][4:] == ["object_response", "category", "condition", "imagename"]
    assert sorted((row[7], row[4], row[5]) for row in rows[1:]) == [
        ("bird3-cat1.png", "bird", "bird"),
        ("cat1-truck2.png", "cat", "cat"),
        ("cat2-bird1.png", "bird", "cat"),
        ("truck1-bird2.png", "cat", "truck"),
    ]


def test_textures_are_counted_by_class(answering, tmp_path):
    """Of 4 textures of a class, as many are recognised as its name says."""
    root = tmp_path / "textures"
    for own, right in ((2, 3), (6, 0), (9, 4)):
        for i in range(4):
            write_image(root / "val" / CLASSES[own] / f"{i}.png", own if i < right else 1)
    (root / "val" / CLASSES[6] / "broken.png").write_bytes(b"no image")
    source = {"sets.texture.source": f"folder:{root}"}
    figures = run(a_config(answering, "texture", **source), tmp_path / "out")["texture"]
    assert figures["protocol"] == "texture" and figures["images"] == 12
    assert figures["by_class"] == {CLASSES[2]: 75, CLASSES[6]: 0, CLASSES[9]: 100}
    assert figures["accuracy_top1"] == pytest.approx(100 * 7 / 12)
    with pytest.raises(UsageError, match=r"nsneg prepare texture"):
        run(a_config(answering, "texture", **source, **{"sets.texture.generate": True}), tmp_path)


def test_accuracy_by_class_is_the_plain_count():
    rng = np.random.default_rng(0)
    labels, right = rng.choice([0, 2, 3], 200), rng.random(200) < 0.4
    found = accuracy_by_class(right, labels, ["a", "b", "c", "d"])
    assert list(found) == ["a", "c", "d"]
    for i, name in ((0, "a"), (2, "c"), (3, "d")):
        own = [r for r, label in zip(right, labels, strict=True) if label == i]
        assert found[name] == pytest.approx(100 * sum(own) / len(own))


@pytest.mark.slow
def test_textures_of_the_shapes_are_made_here(of_shapes, tmp_path):
    probe, _ = of_shapes
    config = evaluate_config.get_config("tiny_texture")
    values = {"pretrained": str(probe), "data.image_size": 16, "batch_size": 16}
    values |= {f"sets.{name}.source": "shapes:21" for name in config.sets}
    config.update_from_flattened_dict(values)
    figures = run(config, tmp_path)
    assert figures["texture"]["images"] == 21 and figures["texture"]["generated"]
    assert figures["texture"]["by_class"].keys() <= set(SHAPES)
    images = Shapes("test", image_size=16, size=21)
    textures = TexturesInMemory(images, 16)
    for i in range(21):  # colours of the image, in other places
        own = {pixel.tobytes() for pixel in images.image(i).reshape(-1, 3)}
        assert {pixel.tobytes() for pixel in textures.image(i).reshape(-1, 3)} <= own


@pytest.fixture(scope="module")
def of_shapes(tmp_path_factory):
    """A probe with random weights on the built-in data, and its figures on every version."""
    folder = tmp_path_factory.mktemp("shapes")
    kernel = np.random.default_rng(0).normal(size=(16, 10)).astype(np.float32)
    probe = probe_checkpoint(folder / "probe", kernel, SHAPES)
    return probe, run(shapes_config(probe), folder / "out")


def test_versions_of_the_shapes(of_shapes):
    _, figures = of_shapes
    assert sorted(figures) == sorted(evaluate_config.get_config("tiny").sets)
    for each in figures.values():
        assert each["generated"] and each["images"] in (21, 21 * 75) and not each["unreadable"]
    corruption = figures["corruption"]
    cells = [cell for row in corruption["parts"].values() for cell in row.values()]
    assert len(cells) == 75 and corruption["mean_15"] == pytest.approx(np.mean(cells))
    assert corruption["files_seen"] == 21 * 75 and corruption["files_expected"] is None
    assert corruption["clean_top1"] == figures["clean"]["accuracy_top1"]
    low, high = corruption["interval_top1"]
    assert low <= corruption["accuracy_top1"] <= high


def test_eight_devices_agree(of_shapes, tmp_path):
    probe, ours = of_shapes
    theirs = run(shapes_config(probe, "clean,cue_conflict"), tmp_path, jax.devices())
    for name in ("accuracy_top1", "accuracy_top5", "calibration_rms", "images"):
        assert theirs["clean"][name] == pytest.approx(ours["clean"][name], rel=1e-5)
    assert theirs["cue_conflict"] == ours["cue_conflict"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"pretrained": ""}, "pretrained is ''"),
        ({"only": "sketches"}, "only is 'sketches'"),
        ({"only": "sketch"}, "None of the sets is there"),
        ({"sets.a.protocol": "top2"}, "sets.a.protocol is 'top2'"),
        ({"sets.a.answers": "some"}, "sets.a.answers is 'some'"),
        ({"classes": "cat,dog"}, "are not those of classes='cat,dog'"),
    ],
)
def test_mistakes_are_named(answering, tmp_path, overrides, message):
    with pytest.raises(UsageError, match=message):
        job.evaluate(a_config(answering, "a", **overrides), tmp_path / "out", ONE)


def test_a_classifier_without_names_needs_them(tmp_path, answering):
    probe = probe_checkpoint(tmp_path / "nameless", np.eye(32, 10, dtype=np.float32), None)
    write_image(tmp_path / "a" / CLASSES[6] / "x.png", 6)
    source = {"sets.a.source": f"folder:{tmp_path / 'a'}"}
    with pytest.raises(UsageError, match="whose names it does not know"):
        run(a_config(probe, "a", **source), tmp_path / "out")
    figures = run(a_config(probe, "a", classes=",".join(CLASSES), **source), tmp_path / "out")
    assert figures["a"]["accuracy_top1"] == 100
    untrained = checkpoint_of_untrained(tmp_path / "bare")
    with pytest.raises(UsageError, match="has no classifier to evaluate"):
        run(a_config(untrained, "a", **source), tmp_path / "other")
