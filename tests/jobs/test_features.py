"""The features job: what the encoder gives of every image, in order."""

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny import checkpoint_of_untrained, expected_features, tiny_linear_config

from nsneg_jax.errors import UsageError
from nsneg_jax.input.shapes.source import CLASSES
from nsneg_jax.jobs.features import write_features


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    return checkpoint_of_untrained(tmp_path_factory.mktemp("pretrained"))


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
        *("config.json", "starts.jsonl", "features.npz", "features.safetensors")
    }


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"features_format": "csv"}, "features_format is 'csv'"),
        ({"pretrained": ""}, "pretrained is ''"),
    ],
)
def test_mistakes_are_named(pretrained, tmp_path, overrides, message):
    config = tiny_linear_config(pretrained)
    config.update_from_flattened_dict(overrides)
    with pytest.raises(UsageError, match=message):
        write_features(config, tmp_path)
