"""The features job: what the encoder gives of every image, in order."""

from pathlib import Path

import jax
import numpy as np
import pytest
from photo_folder import write_photos
from safetensors.numpy import load_file
from tiny import checkpoint_of_untrained, expected_features, tiny_linear_config

from nsneg_jax import load_pretrained
from nsneg_jax.errors import UsageError
from nsneg_jax.features.table import read_table
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
        assert file["names"].tolist() == [str(i) for i in range(len(labels))]
        assert set(file["splits"].tolist()) == {"val"}
    config.features_format = "safetensors"
    tensors = load_file(write_features(config, tmp_path, jax.devices()[:devices]))
    np.testing.assert_allclose(tensors["features"], features, atol=1e-5)
    np.testing.assert_array_equal(tensors["labels"], labels)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("config.json", "starts.jsonl", "features.npz", "features.safetensors")
    }


@pytest.mark.usefixtures("quick_code")
def test_rows_can_be_joined_back_to_files(pretrained, tmp_path):
    """Of several splits, in class folders; an image that cannot be read is left out."""
    root = write_photos(tmp_path / "data", ("cat/a.jpg", "cat/b.jpg", "dog/c.png"))
    write_photos(root, ("cat/d.jpg", "dog/a.jpg"), "val")
    (root / "train" / "cat" / "b.jpg").write_bytes(b"")
    changes = {
        "data.source": f"folder:{root}",
        "data.resize": 256,
        "features_splits": "val, train",
        "features_format": "parquet",
    }
    config = tiny_linear_config(pretrained, **changes)
    table = read_table(write_features(config, tmp_path / "run", jax.devices()[:1]))
    files = [
        Path(table.about["folders"][split], name)
        for split, name in zip(table.splits, table.names, strict=True)
    ]
    assert [str(path.relative_to(root)) for path in files] == [
        *("val/cat/d.jpg", "val/dog/a.jpg", "train/cat/a.jpg", "train/dog/c.png")
    ]
    assert table.classes == ("cat", "dog")
    assert [table.classes[i] for i in table.labels] == [path.parent.name for path in files]
    assert table.indices.tolist() == [0, 1, 0, 2]
    expected = load_pretrained(pretrained, image_size=16, resize=256).embed(files)
    np.testing.assert_allclose(table.features, expected, atol=1e-5 * np.abs(expected).max())
    # labels from a file are no part of the names
    (tmp_path / "labels.csv").write_text(
        "image,class\n" + "".join(f"{name},{name[:3]}\n" for name in ("cat/d.jpg", "dog/a.jpg"))
    )
    config.update_from_flattened_dict(
        {"features_splits": "val", "features_format": "npz"}
        | {"data.labels": str(tmp_path / "labels.csv")}
    )
    table = read_table(write_features(config, tmp_path / "by_file", jax.devices()[:1]))
    assert sorted(table.names) == ["cat/d.jpg", "dog/a.jpg"]


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
