"""The features and kNN jobs: what the encoder gives of every image, in order."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from sklearn.neighbors import KNeighborsClassifier
from tiny import checkpoint_of_untrained, tiny_linear_config

from nsneg_jax.errors import UsageError
from nsneg_jax.input.shapes.source import CLASSES, Shapes
from nsneg_jax.jobs.features import write_features
from nsneg_jax.jobs.knn import knn
from nsneg_jax.methods.views import normalise
from nsneg_jax.pretrained import load_pretrained


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    return checkpoint_of_untrained(tmp_path_factory.mktemp("pretrained"))


def expected_features(pretrained, split):
    loaded = load_pretrained(pretrained)
    source = Shapes(split, image_size=16, size=83)
    images = np.stack([source.image(i) for i in range(len(source))])
    features = loaded.encoder.features(
        loaded.params, loaded.stats, normalise(jnp.asarray(images, jnp.float32) / 255)
    )
    return np.asarray(features), source.labels


@pytest.mark.parametrize("devices", [1, 8])
def test_features_of_every_image_in_order(pretrained, tmp_path, devices):
    config = tiny_linear_config(
        pretrained, **{"data.source": "shapes:83", "data.eval_split": "val"}
    )
    path = write_features(config, tmp_path, jax.devices()[:devices])
    features, labels = expected_features(pretrained, "val")
    with np.load(path) as file:
        np.testing.assert_allclose(file["features"], features, atol=1e-5)
        np.testing.assert_array_equal(file["labels"], labels)
        assert file["classes"].tolist() == list(CLASSES)
        assert file["features"].dtype == np.float32 and file["labels"].dtype == np.int32
    config.features_format = "safetensors"
    tensors = load_file(write_features(config, tmp_path, jax.devices()[:devices]))
    np.testing.assert_allclose(tensors["features"], features, atol=1e-5)
    np.testing.assert_array_equal(tensors["labels"], labels)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("config.json", "features.npz", "features.safetensors")
    }


def test_knn_job_is_scikit_learns(pretrained, tmp_path):
    config = tiny_linear_config(pretrained, **{"data.source": "shapes:83", "knn.k": (1, 5)})
    figures = knn(config, tmp_path)
    bank, queries = (expected_features(pretrained, split) for split in ("train", "val"))
    for k in (1, 5):
        reference = KNeighborsClassifier(
            k,
            metric="cosine",
            algorithm="brute",
            weights=lambda distance: np.exp((1 - distance) / 0.07),
        ).fit(*bank)
        assert figures[f"knn_{k}"] == pytest.approx(100 * reference.score(*queries))
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["validation_images"] == 83 and results["knn_5"] == figures["knn_5"]


def test_splits_with_other_classes_are_refused(pretrained, tmp_path):
    for split, classes in (("train", "abc"), ("val", "ac")):
        for name in classes:
            path = tmp_path / "data" / split / name / "x.png"
            path.parent.mkdir(parents=True)
            Image.new("RGB", (20, 20)).save(path)
    config = tiny_linear_config(pretrained, **{"data.source": f"folder:{tmp_path / 'data'}"})
    with pytest.raises(UsageError, match="have not the same classes: b"):
        knn(config, tmp_path / "out")


def test_the_files_of_another_job_are_not_written_over(pretrained, tmp_path):
    config = tiny_linear_config(pretrained, job="knn")
    knn(config, tmp_path)
    config = tiny_linear_config(pretrained, job="features")
    with pytest.raises(UsageError, match="holds a knn run, whose files this features run would"):
        write_features(config, tmp_path)


@pytest.mark.parametrize(
    ("job", "overrides", "message"),
    [
        (write_features, {"features_format": "csv"}, "features_format is 'csv'"),
        (write_features, {"pretrained": ""}, "pretrained is ''"),
        (knn, {"knn.k": (0, 5)}, "knn.k is"),
        (knn, {"knn.k": ()}, "one number of neighbours"),
        (knn, {"knn.temperature": 0.0}, "knn.temperature is 0.0"),
    ],
)
def test_mistakes_are_named(pretrained, tmp_path, job, overrides, message):
    config = tiny_linear_config(pretrained)
    config.update_from_flattened_dict(overrides)
    with pytest.raises(UsageError, match=message):
        job(config, tmp_path)
