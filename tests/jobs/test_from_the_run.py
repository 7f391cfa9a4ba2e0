"""Data, size and resize of an evaluation come from the encoder's run unless they are set."""

import json
import shutil

import jax
import numpy as np
import pytest
from tiny import checkpoint_of_untrained, expected_features, tiny_config

from configs import evaluate, linear
from nsneg_jax.files import write_json
from nsneg_jax.jobs.features import write_features
from nsneg_jax.jobs.frozen import completed, difference
from nsneg_jax.pretrained import trained_on

ONE = jax.devices()[:1]
RUN = {"source": "shapes:83", "classes": "", "labels": "", "tfds_dir": ""}
RUN |= {"image_size": 16, "resize": 0}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    workdir = checkpoint_of_untrained(tmp_path_factory.mktemp("pretrained"))
    write_json(
        workdir / "config.json", json.loads(tiny_config(**{"data.source": "shapes:83"}).to_json())
    )
    return workdir


def a_config(encoder, **changes):
    config = linear.get_config()
    values = {"job": "features", "pretrained": str(encoder), "batch_size": 32}
    config.update_from_flattened_dict(values | {"data.threads": 2, "data.workers": 0} | changes)
    return config


def test_features_are_of_the_runs_images_at_their_size(encoder, tmp_path, capsys):
    assert trained_on(encoder) == RUN
    path = write_features(a_config(f"untrained:{encoder}"), tmp_path, ONE)
    features, labels = expected_features(f"untrained:{encoder}", "val")
    with np.load(path) as file:
        np.testing.assert_allclose(file["features"], features, atol=1e-5)
        np.testing.assert_array_equal(file["labels"], labels)
    data = json.loads((tmp_path / "config.json").read_text())["data"]
    assert {name: data[name] for name in RUN} == RUN
    out = capsys.readouterr().out
    assert "note" not in out and "not resized, central 16 px: 100 % of a picture of 16 x 16" in out


def test_other_values_win_and_are_said_in_one_line(encoder, tmp_path, capsys):
    changes = {"data.source": "shapes:20", "data.image_size": 24, "data.resize": 256}
    write_features(a_config(encoder, **changes), tmp_path, ONE)
    data = json.loads((tmp_path / "config.json").read_text())["data"]
    assert [data[name] for name in ("source", "image_size", "resize")] == list(changes.values())
    (line,) = [each for each in capsys.readouterr().out.splitlines() if each.startswith("note")]
    for name, value in {**changes, "data.image_size": 24}.items():
        assert f"{name} is {value!r} here" in line
        assert f"{RUN[name.removeprefix('data.')]!r} in the encoder's run" in line


def test_a_copied_checkpoint_knows_its_images(encoder, tmp_path):
    """Also where they were before, if config.json, which knows where they are now, is not there."""
    folder = shutil.copytree(encoder / "checkpoints" / "7", tmp_path / "checkpoints" / "7")
    assert trained_on(folder) == {}  # of an earlier version
    shutil.rmtree(folder / "digests")  # those of what is changed now
    path = folder / "progress" / "metadata"
    kept = {"dataset": {**RUN, "source": "folder:/before"}, "image_size": 16, "resize": 0}
    del kept["dataset"]["image_size"], kept["dataset"]["resize"]
    path.write_text(json.dumps(json.loads(path.read_text()) | kept))
    assert trained_on(folder) == {**RUN, "source": "folder:/before"}
    shutil.copy(encoder / "config.json", tmp_path)
    assert trained_on(tmp_path) == RUN


def test_an_encoder_without_a_run_has_the_published_values(monkeypatch):
    monkeypatch.setenv("NSNEG_DATA", "/sets")
    data = completed(linear.get_config(), {}).data
    assert (data.source, data.image_size, data.resize) == ("folder:/sets/imagenet100", 224, 256)
    config = completed(evaluate.get_config(), {})
    assert config.data.image_size == 224 and config.sets.clean.source == data.source
    resizes = {name: each.resize for name, each in config.sets.items()}
    whole = ("corruption", "corruption_bar", "cue_conflict")
    assert {resizes.pop(name) for name in whole} == {224} and resizes.pop("texture") == 0
    assert set(resizes.values()) == {256}


@pytest.mark.parametrize(("resize", "others"), [(292, 292), (0, 256)])
def test_the_clean_set_of_an_evaluation_is_the_probes_data(resize, others):
    """A run that only crops says nothing about how to crop the files of other sets."""
    record = {**RUN, "source": "tfds:cars", "labels": "", "tfds_dir": "/tfds", "resize": resize}
    config = completed(evaluate.get_config(), record)
    assert (config.sets.clean.source, config.data.tfds_dir) == ("tfds:cars", "/tfds")
    assert (config.sets.clean.resize, config.sets.sketch.resize) == (resize, others)
    assert config.sets.corruption.resize == 224 and config.data.image_size == 16
    assert difference(evaluate.get_config(), record) == ""


def test_what_belongs_to_other_data_is_not_taken():
    record = {**RUN, "classes": "disc,star", "labels": "labels.csv", "tfds_dir": "/tfds"}
    data = completed(linear.get_config(), record).data
    assert (data.classes, data.labels, data.tfds_dir) == ("disc,star", "labels.csv", "/tfds")
    own = linear.get_config("imagenet1k")
    data = completed(own, record).data
    assert (data.source, data.classes, data.labels, data.tfds_dir) == (own.data.source, "", "", "")
    assert data.image_size == 16
