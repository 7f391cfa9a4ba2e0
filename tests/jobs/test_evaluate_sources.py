"""The robustness job on data sets of TFDS and packed images, where every right answer is known."""

import json

import numpy as np
import pytest
from answering import CLASSES, ONE, a_config, answering_probe, probe_checkpoint, run, write_image
from tfds_sets import jpeg, prepare

from configs import evaluate as evaluate_config
from data import arrayrecord
from nsneg_jax.errors import UsageError
from nsneg_jax.evaluation.protocols.imagenet import IMAGENET_1K
from nsneg_jax.input.sources.lists.class_list import class_names
from nsneg_jax.jobs import evaluate as job

# as of all data sets of ImageNet's family in TFDS: ours are ten of many, in another order
LABELS = [f"n1{i:07}" for i in range(20)] + list(reversed(CLASSES))


@pytest.fixture
def answering(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return answering_probe(monkeypatch, tmp_path)


def example(wnid, file, answer):
    """An image of class `wnid` for which the probe answers class number `answer`."""
    return wnid, file, jpeg((10 + 20 * answer, 50, 90))


def tfds_config(probe, sets, data_dir, **overrides):
    config = evaluate_config.get_config("tfds")
    values = {"pretrained": str(probe), "only": sets, "batch_size": 8, "data.image_size": 16}
    config.update_from_flattened_dict(values | {"data.tfds_dir": str(data_dir)} | overrides)
    return config


def test_every_set_of_tfds(answering, tmp_path):
    """Clean, Sketch, A and both conventions of Rendition, with classes outside of ours."""
    foreign = [example(LABELS[i], f"{LABELS[i]}_0.JPEG", 9) for i in range(20)]
    clean = [example(CLASSES[i % 10], f"v{i}.JPEG", i % 10 if i < 15 else 0) for i in range(20)]
    prepare(tmp_path, "imagenet2012", {"train": foreign, "validation": clean + foreign}, LABELS)
    sketch = [example(CLASSES[2], f"{CLASSES[2]}/{i}.JPEG", 2 if i else 3) for i in range(4)]
    prepare(tmp_path, "imagenet_sketch", {"test": sketch + foreign}, LABELS)
    hard = [example(CLASSES[7], f"{i}.jpg", 7 if i < 2 else 1) for i in range(5)]
    prepare(tmp_path, "imagenet_a", {"test": foreign + hard}, LABELS)
    shared = [example(CLASSES[i], f"{CLASSES[i]}/art_{i}.jpg", i) for i in (1, 2, 3)]
    outside = example(CLASSES[1], f"{CLASSES[1]}/outside.jpg", 8)
    prepare(tmp_path, "imagenet_r", {"test": [*foreign, *shared, outside]}, LABELS)

    sets = "clean,sketch,a,rendition_100way,rendition_19way"
    figures = run(tfds_config(answering, sets, tmp_path), tmp_path / "out")
    expected = {  # images, classes, ways, top-1
        "clean": (20, 10, 10, 75),
        "sketch": (4, 1, 10, 75),
        "a": (5, 1, 10, 40),
        "rendition_100way": (4, 3, 10, 75),
        "rendition_19way": (4, 3, 3, 100),
    }
    for name, row in expected.items():
        found = figures[name]
        values = (found["images"], found["classes"], found["ways"], found["accuracy_top1"])
        assert values == pytest.approx(row), name
        assert not found["generated"] and not found["unreadable"]
    with np.load(tmp_path / "out" / "parts" / "rendition_19way.npz") as part:
        names = [f"{CLASSES[i]}/{name}" for i, name in ((1, "art_1.jpg"), (1, "outside.jpg"))]
        assert part["names"].tolist()[:2] == names


def test_v2_is_numbered_as_imagenet(tmp_path, answering):
    """Its file names have the index of the class, its labels the wnid."""
    labels = list(class_names(str(IMAGENET_1K)))
    classes = (labels[0], labels[1], labels[400])
    probe = probe_checkpoint(tmp_path / "three", np.eye(32, 3, dtype=np.float32), classes)
    answers = {1: 1, 400: 0, 999: 1}
    examples = [example(labels[i], f"{i}/x.jpeg", answer) for i, answer in answers.items()]
    prepare(tmp_path, "imagenet_v2/matched-frequency", {"test": examples}, labels, version="3.0.0")
    figures = run(tfds_config(probe, "v2", tmp_path), tmp_path / "out")["v2"]
    assert figures["images"] == 2 and figures["accuracy_top1"] == 50


def test_corruptions_of_tfds(answering, tmp_path):
    """A config for each corruption and severity: those prepared are the cells."""
    right = {("fog", 1): 3, ("fog", 5): 1, ("jpeg_compression", 2): 2, ("spatter", 4): 4}
    for (name, severity), count in right.items():
        examples = [example(CLASSES[6], f"{i}.JPEG", 6 if i < count else 5) for i in range(4)]
        config = f"imagenet2012_corrupted/{name}_{severity}"
        prepare(tmp_path, config, {"validation": examples, "test": examples[:1]}, LABELS)
    figures = run(tfds_config(answering, "corruption", tmp_path), tmp_path / "out")["corruption"]
    for (name, severity), count in right.items():
        assert figures["parts"][name][str(severity)] == 25 * count
    assert figures["accuracy_top1"] == pytest.approx(25 * (3 + 1 + 2) / 3)
    assert figures["files_seen"] == 12 and figures["files_expected"] is None
    # TFDS corrupts the clean images itself: not the released files
    assert figures["generated"]
    generated = {"sets.corruption.source": "tfds:imagenet2012_corrupted:9.9.9"}
    with pytest.raises(UsageError, match=r"tfds build imagenet2012_corrupted:9\.9\.9 "):
        run(tfds_config(answering, "corruption", tmp_path, **generated), tmp_path / "other")


def test_what_is_not_prepared_is_listed_and_the_rest_runs(answering, tmp_path, capsys):
    prepare(tmp_path, "imagenet_a", {"test": [example(CLASSES[0], "x.jpg", 0)]}, LABELS)
    sets = "a,clean,corruption,rendition_19way,v2,stylized,cue_conflict"
    cue = {"sets.cue_conflict.source": "tfds:imagenet_a"}
    config = tfds_config(answering, sets, tmp_path, **cue)
    job.evaluate(config, tmp_path / "out", ONE)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(results["sets"]) == ["a"] and results["sets"]["a"]["accuracy_top1"] == 100
    missing = results["missing"]
    commands = {
        "clean": "tfds build imagenet2012 ",
        "corruption": "tfds build imagenet2012_corrupted ",
        "rendition_19way": "tfds build imagenet_r ",
        "v2": "tfds build imagenet_v2/matched-frequency ",
    }
    for name, command in commands.items():
        assert f"{command}--file_format=array_record --data_dir={tmp_path}" in missing[name]
    assert "Stylized-ImageNet" in missing["stylized"]
    assert "cue conflicts are read from folders" in missing["cue_conflict"]
    said = capsys.readouterr().out.partition("missing     ")[2]
    assert all(name in said for name in missing if name != "clean")
    config.require_all = True
    with pytest.raises(UsageError, match="6 of 7 sets are missing"):
        job.evaluate(config, tmp_path / "other", ONE)
    # of a missing folder, that TFDS has the set
    folders = a_config(answering, "sketch", **{"sets.sketch.source": "folder:/nowhere"})
    with pytest.raises(UsageError, match=r"or --config\.sets\.sketch\.source=tfds:imagenet_sketch"):
        job.evaluate(folders, tmp_path / "other", ONE)


def test_packed_sets(answering, tmp_path):
    """Sketch, numbered V2 and the released corruptions, packed from their folders."""
    for i in range(4):
        write_image(tmp_path / "sketch" / CLASSES[4] / f"{i}.png", 4 if i else 1)
        write_image(tmp_path / "sketch" / LABELS[i] / f"{i}.png", 4)
    for name, severity, answer in (("fog", 2, 3), ("snow", 5, 0)):
        write_image(tmp_path / "c" / name / str(severity) / CLASSES[3] / "a.jpg", answer)
    packed = tmp_path / "packed"
    for source, out, split in (
        ("sketch", "sketch", "."),
        ("c/fog", "c/fog", "2"),
        ("c/snow", "c/snow", "5"),
    ):
        places = ["--source", str(tmp_path / source), "--out", str(packed / out)]
        assert arrayrecord.main([*places, "--splits", split]) == 0
    sources = {"sketch": packed / "sketch", "corruption": packed / "c"}
    sets = {f"sets.{name}.source": f"arrayrecord:{path}" for name, path in sources.items()}
    figures = run(a_config(answering, "sketch,corruption", **sets), tmp_path / "out")
    assert figures["sketch"]["images"] == 4 and figures["sketch"]["accuracy_top1"] == 75
    assert figures["corruption"]["parts"] == {"snow": {"5": 0}, "fog": {"2": 100}}
    assert not figures["corruption"]["generated"]
