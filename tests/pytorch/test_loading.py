"""Encoders straight out of PyTorch files: the same as their import gives."""

import jax
import numpy as np
import pytest
from tiny import checkpoint_of_untrained

import nsneg_jax
from nsneg_jax import pretrained
from nsneg_jax.errors import UsageError
from nsneg_jax.pytorch.exporting import export
from nsneg_jax.pytorch.importing import import_file

torch = pytest.importorskip("torch")
from official_states import fill, official_content  # noqa: E402, needs torch

from benchmarks.torch_peer import ResNet  # noqa: E402, needs torch

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), dtype=np.uint8)


def assert_same_as_imported(path, workdir, **given):
    import_file(path, workdir)
    imported = pretrained.load_pretrained(workdir, **given)
    before = sorted(path.parent.rglob("*"))
    loaded = nsneg_jax.load_pretrained(path, **given)
    assert sorted(path.parent.rglob("*")) == before
    for name in ("params", "stats", "head", "classifier"):
        found, expected = getattr(loaded, name), getattr(imported, name)
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    for name in ("encoder", "model", "dtype", "image_size", "resize", "classes"):
        assert getattr(loaded, name) == getattr(imported, name)
    return loaded


def test_pretraining_state(tmp_path):
    path = tmp_path / "checkpoint_0002.pth.tar"
    content = official_content()
    torch.save(content, path)
    loaded = assert_same_as_imported(path, tmp_path / "run")
    assert (loaded.image_size, loaded.resize, loaded.origin) == (224, 256, str(path))
    small = nsneg_jax.load_pretrained(str(path), image_size=32, resize=0)
    network = ResNet("resnet18", 16, True, 4)
    prefix = "module.encoder_q."
    state = {n.removeprefix(prefix): t for n, t in content["state_dict"].items() if prefix in n}
    network.load_state_dict(state)
    top, left = 4, 9  # of the central 32 pixels
    views = IMAGES[:, top : top + 32, left : left + 32].astype(np.float32) / 255
    views = (views - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    with torch.no_grad():
        expected = network.eval()(torch.tensor(views, dtype=torch.float32).movedim(-1, 1)).numpy()
    found = small.embed(IMAGES, head=True, batch_size=3)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_torchvision_and_probe(tmp_path):
    network = ResNet("resnet18", 7, False, 4)
    path = tmp_path / "probe.pth"
    torch.save({"state_dict": fill(network.state_dict()), "best_acc1": 1.0}, path)
    loaded = assert_same_as_imported(path, tmp_path / "run", image_size=32, resize=0)
    assert loaded.head is None and loaded.classifier["kernel"].shape == (32, 7)
    answers = loaded.classify(IMAGES)
    assert answers.names is None and answers.probabilities.shape == (3, 7)


def test_our_own_export(tmp_path):
    checkpoint_of_untrained(tmp_path / "run")
    export(tmp_path / "run", tmp_path / "out.safetensors")
    views = {"image_size": 16, "resize": 0}
    loaded = nsneg_jax.load_pretrained(tmp_path / "out.safetensors", **views)
    run = nsneg_jax.load_pretrained(tmp_path / "run", **views)
    np.testing.assert_array_equal(loaded.embed(IMAGES), run.embed(IMAGES))


def test_mistakes_are_named(tmp_path):
    with pytest.raises(UsageError, match=r"There is no file .*missing\.pth"):
        nsneg_jax.load_pretrained(tmp_path / "missing.pth")
    (tmp_path / "text.txt").write_text("no checkpoint")
    with pytest.raises(UsageError, match="no PyTorch checkpoint"):
        nsneg_jax.load_pretrained(tmp_path / "text.txt")
    with pytest.raises(UsageError, match="dtype is 'int8'"):
        nsneg_jax.load_pretrained(tmp_path / "text.txt", "int8")
