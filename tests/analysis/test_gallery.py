"""What the page of a run computes: features of images, features of a job, cue conflicts."""

import io
import json

import numpy as np
import pytest
from answering import probe_checkpoint, shapes_config
from PIL import Image
from tiny import checkpoint_of_untrained, tiny_config, tiny_linear_config

from nsneg_jax.analysis import gallery
from nsneg_jax.errors import UsageError
from nsneg_jax.files import write_json
from nsneg_jax.input.shapes.source import CLASSES, Shapes
from nsneg_jax.jobs.features import write_features
from nsneg_jax.jobs.opening import to_json
from nsneg_jax.pretrained import load_pretrained
from nsneg_jax.report.page.gallery import load, save, spread_over_classes

pytestmark = pytest.mark.usefixtures("quick_code")

SIZE = 83


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = checkpoint_of_untrained(tmp_path_factory.mktemp("run"))
    config = tiny_config(**{"data.source": f"shapes:{SIZE}"})
    write_json(workdir / "config.json", to_json(config))
    return workdir


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_features_are_those_of_the_images(run, tmp_path):
    found = gallery.of_encoder(run, 20)
    source = Shapes("val", image_size=16, size=SIZE)
    places = spread_over_classes(source.labels, 20)
    assert set(source.labels[places]) == set(range(10))
    images = [source.image(place) for place in places.tolist()]
    expected = load_pretrained(run).embed(images)
    np.testing.assert_array_equal(found.indices, places)
    np.testing.assert_array_equal(found.labels, source.labels[places])
    np.testing.assert_allclose(found.features, expected, atol=1e-6)
    assert found.classes == CLASSES and "20 of 83" in found.about
    for picture, image in zip(found.pictures, images, strict=True):
        np.testing.assert_array_equal(pixels(picture), image)
    save(found, tmp_path / "7.npz")
    kept = load(tmp_path / "7.npz")
    np.testing.assert_array_equal(kept.features, found.features)
    assert (kept.pictures, kept.classes, kept.about) == (found.pictures, CLASSES, found.about)
    (tmp_path / "7.npz").write_bytes(b"PK")
    with pytest.raises(UsageError, match=r"7\.npz is damaged"):
        load(tmp_path / "7.npz")


@pytest.mark.parametrize("form", ["npz", "safetensors", "parquet"])
def test_features_of_a_job_with_their_images(run, tmp_path, form):
    config = tiny_linear_config(run, **{"data.source": f"shapes:{SIZE}", "features_format": form})
    config.job = "features"
    write_features(config, tmp_path)
    found = gallery.of_features(tmp_path, 20)
    expected = gallery.of_encoder(run, 20)
    np.testing.assert_allclose(found.features, expected.features, atol=1e-5)
    np.testing.assert_array_equal(found.labels, expected.labels)
    assert found.pictures == expected.pictures and found.classes == CLASSES
    # data that are gone leave the features
    fields = json.loads((tmp_path / "config.json").read_text())
    fields["data"]["source"] = "folder:/nowhere"
    write_json(tmp_path / "config.json", fields)
    assert gallery.of_features(tmp_path, 20).pictures == ()


def test_data_that_are_gone_are_named(run, tmp_path):
    checkpoint_of_untrained(tmp_path)
    config = tiny_config(**{"data.source": "folder:/nowhere"})
    write_json(tmp_path / "config.json", to_json(config))
    with pytest.raises(UsageError, match="/nowhere"):
        gallery.of_encoder(tmp_path, 5)


def test_cue_conflicts_have_the_cues_of_their_images(tmp_path):
    probe = probe_checkpoint(tmp_path / "probe", np.eye(16, 10, dtype=np.float32), CLASSES)
    write_json(tmp_path / "config.json", to_json(shapes_config(probe)))
    found = gallery.conflicts(tmp_path, "cue_conflict", ["3", "20", "21"])
    source = Shapes("test", image_size=16, size=21, version="conflict")
    assert list(found) == ["3", "20"]  # there are 21
    for name, example in found.items():
        place = int(name)
        assert example.shape == CLASSES[source.labels[place]]
        assert example.texture == CLASSES[source.texture_labels[place]]
        np.testing.assert_array_equal(pixels(example.picture), source.image(place))


def test_released_cue_conflicts_have_the_cues_of_their_names(tmp_path):
    for name in ("cat1-dog2.png", "dog3-bear1.png"):
        path = tmp_path / "cue" / "test" / name.partition("1")[0] / name
        path.parent.mkdir(parents=True)
        Image.new("RGB", (300, 300), (200, 10, 10)).save(path)
    section = {"source": f"folder:{tmp_path}/cue", "split": "test", "resize": 224}
    fields = {"sets": {"cue_conflict": section}, "data": {"image_size": 224}}
    write_json(tmp_path / "config.json", fields)
    found = gallery.conflicts(tmp_path, "cue_conflict", ["dog3-bear1.png", "gone.png"])
    assert list(found) == ["dog3-bear1.png"]
    example = found["dog3-bear1.png"]
    assert (example.shape, example.texture) == ("dog", "bear")
    assert pixels(example.picture).shape == (96, 96, 3)
