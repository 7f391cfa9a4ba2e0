"""The kNN job against scikit-learn's neighbours, and what it refuses."""

import json

import numpy as np
import pytest
from photo_folder import write_photos
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier
from tiny import checkpoint_of_untrained, expected_features, tiny_linear_config

from nsneg_jax.errors import UsageError
from nsneg_jax.jobs.features import write_features
from nsneg_jax.jobs.knn import knn
from nsneg_jax.jobs.linear import linear


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    return checkpoint_of_untrained(tmp_path_factory.mktemp("pretrained"))


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
    with pytest.raises(UsageError, match=r"classes: b\b"):
        knn(config, tmp_path / "out")


@pytest.mark.parametrize("job", [knn, linear])
def test_images_without_classes_are_refused(pretrained, tmp_path, job):
    write_photos(tmp_path / "data", ["1.jpg", "2.jpg"], "train")
    write_photos(tmp_path / "data", ["a/1.jpg", "b/2.jpg"], "val")
    config = tiny_linear_config(pretrained, **{"data.source": f"folder:{tmp_path / 'data'}"})
    with pytest.raises(UsageError, match=r"\[train\] has no classes\..*data\.labels"):
        job(config, tmp_path / "out")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("*.json"))
    (tmp_path / "labels.csv").write_text("1.jpg,a\n2.jpg,b\n")
    config.data.labels = str(tmp_path / "labels.csv")
    config.update_from_flattened_dict({"batch_size": 8, "epochs": 1})
    job(config, tmp_path / "out")


def test_the_files_of_another_job_are_not_written_over(pretrained, tmp_path):
    config = tiny_linear_config(pretrained, job="knn")
    knn(config, tmp_path)
    config = tiny_linear_config(pretrained, job="features")
    with pytest.raises(UsageError, match=r"\bknn run\b.*\bfeatures run\b"):
        write_features(config, tmp_path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"knn.k": (0, 5)}, "knn.k is"),
        ({"knn.k": ()}, "1 to 100 values"),
        ({"knn.temperature": 0.0}, "knn.temperature is 0.0"),
    ],
)
def test_mistakes_are_named(pretrained, tmp_path, overrides, message):
    config = tiny_linear_config(pretrained)
    config.update_from_flattened_dict(overrides)
    with pytest.raises(UsageError, match=message):
        knn(config, tmp_path)


def test_images_in_both_splits_are_refused(pretrained, tmp_path):
    write_photos(tmp_path / "data", [f"{name}/{i}.png" for name in "ab" for i in range(3)])
    source = f"folder:{tmp_path / 'data'}"
    same = {"data.source": source, "data.eval_split": "train"}
    for job in (knn, linear):
        config = tiny_linear_config(pretrained, **same)
        with pytest.raises(UsageError, match="6 of the 6 images"):
            job(config, tmp_path / "out")
    apart = {"data.split": "train[:60%]", "data.eval_split": "train[60%:]", "knn.k": (1, 20)}
    knn(tiny_linear_config(pretrained, **same | apart), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "results.json").read_text())["validation_images"] == 2
