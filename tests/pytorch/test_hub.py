"""Folders for timm and the Hugging Face hub: weights, config.json, card, and loading them back."""

import json
import math
import re
import shutil

import numpy as np
import pytest
from answering import probe_checkpoint
from safetensors.numpy import load_file
from tiny import checkpoint_of_untrained, tiny_config

import nsneg_jax
from nsneg_jax.errors import UsageError
from nsneg_jax.files import write_json
from nsneg_jax.input.labelled import scaled_resize
from nsneg_jax.pytorch.exporting import export
from nsneg_jax.pytorch.hub import layout
from nsneg_jax.pytorch.importing import import_file

pytestmark = pytest.mark.usefixtures("quick_code")
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), dtype=np.uint8)


def a_run(workdir, **fields):
    checkpoint_of_untrained(workdir, **fields)
    write_json(workdir / "config.json", json.loads(tiny_config(**fields).to_json()))
    return workdir


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return a_run(tmp_path_factory.mktemp("run"), **{"data.resize": 256})


def front_matter(text: str) -> dict:
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load(text.split("---\n")[1])


def test_a_pretraining_comes_back(run, tmp_path):
    export(run, tmp_path / "encoder")
    assert {path.name for path in (tmp_path / "encoder").iterdir()} == {
        *("model.safetensors", "config.json", "README.md")
    }
    expected = nsneg_jax.load_pretrained(run)
    for place in (tmp_path / "encoder", str(tmp_path / "encoder" / "model.safetensors")):
        found = nsneg_jax.load_pretrained(place)
        assert (
            (found.image_size, found.resize) == (expected.image_size, expected.resize) == (16, 256)
        )
        np.testing.assert_array_equal(found.embed(IMAGES), expected.embed(IMAGES))
    # the hub's tools write the weights anew, without the metadata
    from safetensors.numpy import save_file

    weights = tmp_path / "encoder" / "model.safetensors"
    save_file(load_file(weights), weights)
    again = nsneg_jax.load_pretrained(tmp_path / "encoder")
    assert again.model["stem"] == expected.model["stem"]
    np.testing.assert_array_equal(again.embed(IMAGES), expected.embed(IMAGES))


def test_card_says_what_is_known(run, tmp_path):
    export(run, tmp_path / "encoder")
    text = (tmp_path / "encoder" / "README.md").read_text()
    rows = dict(re.findall(r"^\| (.+?) \| (.+) \|$", text, re.MULTILINE))
    assert rows["alpha of the negatives"].startswith("2")
    assert rows["schedule"] == "cosine over 4 epochs"
    assert rows["steps done"].startswith("7,")
    assert rows["data"].startswith("shapes:80")
    head = front_matter(text)
    assert "license" not in head and head["pipeline_tag"] == "image-feature-extraction"
    assert "library_name" not in head  # timm has no resnet8
    assert str(tmp_path) not in text


def test_a_probe_comes_back_with_its_classes_and_figures(tmp_path):
    kernel = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    run = probe_checkpoint(tmp_path / "probe", kernel, ("circle", "square", "star"))
    write_json(run / "config.json", json.loads(tiny_config().to_json()))
    write_json(run / "results.json", {"job": "linear", "best_accuracy_top1": 61.25})
    export(run, tmp_path / "classifier")
    config = json.loads((tmp_path / "classifier" / "config.json").read_text())
    assert config["num_classes"] == config["pretrained_cfg"]["num_classes"] == 3
    assert config["label_names"] == ["circle", "square", "star"]
    text = (tmp_path / "classifier" / "README.md").read_text()
    assert "61.25 %" in text and front_matter(text)["pipeline_tag"] == "image-classification"
    expected = nsneg_jax.load_pretrained(run).classify(IMAGES)
    found = nsneg_jax.load_pretrained(tmp_path / "classifier").classify(IMAGES)
    assert found.names == expected.names and found.names is not None
    np.testing.assert_array_equal(found.probabilities, expected.probabilities)
    imported = tmp_path / "imported"
    import_file(tmp_path / "classifier", imported)
    assert nsneg_jax.load_pretrained(imported).classify(IMAGES).names == expected.names


@pytest.mark.slow
def test_timm_reads_the_network(tmp_path):
    """Keys, shapes and features of a plain PyTorch ResNet with timm's names; and its settings."""
    torch = pytest.importorskip("torch")
    from benchmarks.torch_peer import ResNet

    fields = {"model.arch": "resnet18", "model.width": 64, "model.stem": "imagenet"}
    run = a_run(tmp_path / "run", **fields, **{"data.image_size": 32, "data.resize": 0})
    export(run, tmp_path / "encoder")
    config = json.loads((tmp_path / "encoder" / "config.json").read_text())
    settings = config["pretrained_cfg"]
    assert (config["architecture"], config["num_classes"], config["num_features"]) == (
        *("resnet18", 0, 512),
    )
    assert (settings["first_conv"], settings["classifier"]) == ("conv1", "fc")
    assert (settings["input_size"], settings["crop_pct"]) == ([3, 32, 32], 1.0)
    assert settings["interpolation"] == "bilinear"
    arrays = load_file(tmp_path / "encoder" / "model.safetensors")
    network = ResNet("resnet18", 1, mlp=False)
    del network.fc
    network.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()})
    views = IMAGES[:, 4:36, 9:41].astype(np.float32) / 255
    views = (views - settings["mean"]) / settings["std"]
    with torch.no_grad():
        inputs = torch.tensor(views, dtype=torch.float32).movedim(-1, 1)
        expected = network.eval().features(inputs).numpy()
    found = nsneg_jax.load_pretrained(tmp_path / "encoder").embed(IMAGES)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    assert front_matter((tmp_path / "encoder" / "README.md").read_text())["library_name"] == "timm"


def test_crop_pct_gives_the_same_resize_in_timm():
    wrong = [
        (size, resize)
        for size in range(16, 400)
        for resize in (224, 232, 256, 288)
        if math.floor(size / layout._part(size, scaled_resize(resize, size)))
        != scaled_resize(resize, size)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pretrained_cfg": {"mean": [0.5, 0.5, 0.5]}}, "mean"),
        ({"model_args": {"aa_layer": "blurpool"}}, "model_args"),
        ({"architecture": "resnetblur50"}, "resnetblur50"),
    ],
)
def test_other_networks_are_refused(run, tmp_path, changes, message):
    """Their weights have the same names and shapes, so that features would differ unseen."""
    export(run, tmp_path / "encoder")
    path = tmp_path / "encoder" / "config.json"
    config = json.loads(path.read_text())
    del config["nsneg_jax"]
    write_json(path, config | changes)
    weights = tmp_path / "encoder" / "model.safetensors"
    from safetensors.numpy import save_file

    save_file(load_file(weights), weights)
    with pytest.raises(UsageError, match=message):
        nsneg_jax.load_pretrained(tmp_path / "encoder")


def test_nothing_is_replaced(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    before = sorted(copy.rglob("*"))
    with pytest.raises(UsageError, match="not empty"):
        export(run, copy)
    assert sorted(copy.rglob("*")) == before
    with pytest.raises(UsageError, match="stablehlo"):
        export(run, tmp_path / "encoder.onnx")
    (tmp_path / "empty").mkdir()
    export(run, tmp_path / "empty")
    assert (tmp_path / "empty" / "README.md").exists()
