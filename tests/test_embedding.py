"""Images as users have them through a trained encoder: the same as the jobs give."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from answering import probe_checkpoint
from PIL import Image
from tiny import checkpoint_of_untrained, tiny_config, tiny_linear_config

from configs import evaluate as evaluate_config
from nsneg_jax import embedding, load_pretrained
from nsneg_jax.errors import UsageError
from nsneg_jax.files import write_json
from nsneg_jax.input.crops import central_view
from nsneg_jax.input.shapes.source import Shapes
from nsneg_jax.jobs.evaluate import evaluate
from nsneg_jax.jobs.features import write_features
from nsneg_jax.jobs.linear import linear
from nsneg_jax.methods.views import normalise
from nsneg_jax.pretrained import trained_on
from nsneg_jax.training.checkpoints.checkpoint import read_checkpoint

ONE = jax.devices()[:1]
pytestmark = pytest.mark.usefixtures("quick_code")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A pre-training's, with views of 16 pixels after a resize to 18 (256 at 224)."""
    workdir = tmp_path_factory.mktemp("run")
    checkpoint_of_untrained(workdir)
    write_json(workdir / "config.json", json.loads(tiny_config(**{"data.resize": 256}).to_json()))
    return workdir


@pytest.fixture(scope="module")
def photographs():
    """Of several sizes and shapes."""
    rng = np.random.default_rng(0)
    sizes = [(16, 16), (40, 25), (19, 60), (18, 18), (12, 70)]
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def expected_of(loaded, views):
    floats = normalise(jnp.asarray(np.stack(views), jnp.float32) / 255)
    return np.asarray(loaded.encoder.features(loaded.params, loaded.stats, floats))


def test_embeddings_are_the_features_jobs(workdir, tmp_path):
    config = tiny_linear_config(
        workdir, **{"data.source": "shapes:83", "data.eval_split": "val", "data.resize": 256}
    )
    with np.load(write_features(config, tmp_path, ONE)) as file:
        expected = file["features"]
    source = Shapes("val", image_size=16, size=83)
    images = np.stack([source.image(index) for index in range(83)])
    found = load_pretrained(workdir).embed(images, batch_size=config.batch_size)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


def test_embeddings_are_the_features_jobs_of_files(workdir, photographs, tmp_path):
    """Of any size, where the geometry matters."""
    paths = []
    for index, photograph in enumerate(photographs):
        paths.append(tmp_path / "data" / "val" / "a" / f"{index}.png")
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photograph).save(paths[-1])
    changes = {"data.source": f"folder:{tmp_path / 'data'}", "data.resize": 256, "batch_size": 4}
    config = tiny_linear_config(workdir, **changes)
    with np.load(write_features(config, tmp_path / "out", ONE)) as file:
        expected = file["features"]
    found = load_pretrained(workdir).embed(paths, batch_size=4)
    np.testing.assert_array_equal(found, expected)


def test_every_form_of_an_image_gives_the_same(workdir, photographs, tmp_path, monkeypatch):
    loaded = load_pretrained(workdir)
    assert (loaded.image_size, loaded.resize) == (16, 256)
    expected = expected_of(loaded, [central_view(image, 16, 18) for image in photographs])
    for index, photograph in enumerate(photographs):
        Image.fromarray(photograph).save(tmp_path / f"{index}.png")
    found = loaded.embed(photographs, batch_size=2)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    monkeypatch.setenv("HOME", str(tmp_path))
    mixed = [
        str(tmp_path / "0.png"),
        tmp_path / "1.png",
        Image.fromarray(photographs[2]),
        jnp.asarray(photographs[3]),
        "~/4.png",
    ]
    np.testing.assert_array_equal(loaded.embed(mixed, batch_size=2), found)
    np.testing.assert_array_equal(loaded.embed(iter(mixed), batch_size=2), found)
    grey = Image.fromarray(photographs[0]).convert("L")
    repeated = np.repeat(np.asarray(grey)[..., None], 3, axis=-1)
    np.testing.assert_array_equal(loaded.embed([grey]), loaded.embed(repeated[None]))
    np.testing.assert_array_equal(
        loaded.embed(jnp.asarray(photographs[0])[None], batch_size=2), found[:1]
    )


def test_tensors_of_pytorch(workdir, photographs):
    torch = pytest.importorskip("torch")
    loaded = load_pretrained(workdir)
    expected = loaded.embed(photographs[:1])
    tensor = torch.tensor(photographs[0])
    np.testing.assert_array_equal(loaded.embed([tensor]), expected)
    np.testing.assert_array_equal(loaded.embed(tensor[None]), expected)
    with pytest.raises(UsageError, match=r"np\.moveaxis"):
        loaded.embed(tensor[None].movedim(-1, 1))


def test_one_program_for_each_batch_size(workdir, photographs):
    loaded = load_pretrained(workdir)
    before = embedding._features._cache_size()
    for count in (1, 2, 3, 5):
        assert len(loaded.embed(photographs[:count], batch_size=3)) == count
        load_pretrained(workdir).embed(photographs[:count], batch_size=3)
    assert embedding._features._cache_size() == before + 1


def test_projection_head(workdir, photographs):
    loaded = load_pretrained(workdir)
    state, _ = read_checkpoint(workdir / "checkpoints" / "7", "params_q", "stats_q")
    head = state["params_q"]["fc"]
    features = loaded.embed(photographs).astype(np.float64)
    hidden = np.maximum(features @ head["hidden"]["kernel"] + head["hidden"]["bias"], 0)
    expected = hidden @ head["output"]["kernel"] + head["output"]["bias"]
    found = loaded.embed(photographs, head=True)
    assert found.shape == (5, 8) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert not np.allclose(np.linalg.norm(found, axis=1), 1)
    untrained = load_pretrained(f"untrained:{workdir}").embed(photographs, head=True)
    np.testing.assert_allclose(untrained, found, atol=1e-6)  # the run is at its first weights


def test_double_precision(workdir, photographs):
    single, double = (load_pretrained(workdir, dtype) for dtype in ("float32", "float64"))
    for head in (False, True):
        found = double.embed(photographs, head=head)
        assert found.dtype == np.float32
        np.testing.assert_allclose(single.embed(photographs, head=head), found, atol=1e-5)
    assert not jax.config.jax_enable_x64
    rounded = load_pretrained(workdir, "bfloat16").embed(photographs)
    assert 1e-4 < np.abs(rounded - double.embed(photographs)).max() < 0.1


def test_classify_is_the_evaluate_jobs(photographs, tmp_path):
    rng = np.random.default_rng(4)
    kernel = rng.normal(size=(16, 3)).astype(np.float32)
    workdir = probe_checkpoint(tmp_path / "probe", kernel, ("circle", "square", "star"))
    loaded = load_pretrained(workdir, image_size=16, resize=256)
    answers = loaded.classify(photographs, batch_size=2)
    logits = loaded.embed(photographs).astype(np.float64) @ kernel
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(answers.probabilities, expected, atol=1e-5)
    np.testing.assert_array_equal(answers.labels, expected.argmax(axis=1))
    assert answers.labels.dtype == np.int32 and answers.probabilities.dtype == np.float32
    names = ("circle", "square", "star")
    assert answers.names == tuple(names[label] for label in answers.labels)

    for index, photograph in enumerate(photographs):
        path = tmp_path / "data" / names[index % 3] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photograph).save(path)
    config = evaluate_config.get_config()
    changes = {"pretrained": str(workdir), "only": "sketch", "batch_size": 2}
    changes |= {"data.image_size": 16, "sets.sketch.source": f"folder:{tmp_path / 'data'}"}
    config.update_from_flattened_dict(changes)
    evaluate(config, tmp_path / "eval", ONE)
    with np.load(tmp_path / "eval" / "parts" / "sketch.npz") as part:
        order = [int(Path(name).stem) for name in part["names"]]
        confidence = answers.probabilities.max(axis=1)
        np.testing.assert_allclose(part["confidence"], confidence[order], atol=1e-6)
        right = [answers.names[i] == names[i % 3] for i in order]
        np.testing.assert_array_equal(part["top1"], right)

    unnamed = probe_checkpoint(tmp_path / "unnamed", kernel, None)
    assert load_pretrained(unnamed, image_size=16, resize=0).classify(photographs).names is None


def test_where_the_geometry_comes_from(workdir, tmp_path):
    def geometry(path, **given):
        loaded = load_pretrained(path, **given)
        return loaded.image_size, loaded.resize

    assert geometry(workdir / "checkpoints" / "7") == (16, 256)
    assert geometry(workdir, resize=0) == (16, 0)
    assert geometry(workdir, image_size=32) == (32, 256)
    copy = shutil.copytree(workdir / "checkpoints" / "7", tmp_path / "copy")
    assert geometry(copy) == (None, None)  # of a small stem
    assert geometry(copy, image_size=16, resize=0) == (16, 0)
    large = checkpoint_of_untrained(tmp_path / "large", **{"model.stem": "imagenet"})
    assert geometry(large) == (224, 256)
    with pytest.raises(UsageError, match="image_size=PIXELS"):
        load_pretrained(copy).embed(np.zeros((1, 16, 16, 3), np.uint8))
    for given in ({"image_size": 4}, {"image_size": 16.0}, {"resize": -1}, {"resize": True}):
        with pytest.raises(UsageError, match=f"{next(iter(given))} is"):
            load_pretrained(copy, **given)
    (large / "config.json").write_text("{")
    with pytest.raises(UsageError, match=r"config\.json cannot be read"):
        load_pretrained(large)


def test_a_probe_records_its_geometry(workdir, tmp_path):
    changes = {"epochs": 1, "data.resize": 240, "data.image_size": 24}
    linear(tiny_linear_config(workdir, **changes), tmp_path / "probe", ONE)
    (folder,) = (tmp_path / "probe" / "checkpoints").iterdir()
    loaded = load_pretrained(shutil.copytree(folder, tmp_path / "copy"))
    assert (loaded.image_size, loaded.resize) == (24, 240)
    assert trained_on(tmp_path / "copy")["source"] == "shapes:80"
    answers = loaded.classify(np.zeros((2, 30, 30, 3), np.uint8))
    assert set(answers.names) <= set(loaded.classes)


def test_home(workdir, monkeypatch):
    monkeypatch.setenv("HOME", str(workdir.parent))
    home = load_pretrained(f"~/{workdir.name}")
    assert home.origin == f"{workdir}, step 7"
    assert load_pretrained(f"untrained:~/{workdir.name}").head is not None


BLACK = np.zeros((2, 16, 16, 3), np.uint8)


@pytest.mark.parametrize(
    ("images", "named"),
    [
        ([], "images is empty"),
        (BLACK[:0], "images is empty"),
        (BLACK / 255, "dtype float64"),
        (BLACK.astype(int), "dtype int64"),
        (BLACK[..., 0], "np.repeat"),
        (BLACK[0], "single image"),
        (np.zeros((2, 3, 16, 16), np.uint8), "np.moveaxis"),
        (np.zeros((2, 16, 16, 4), np.uint8), "fourth channel"),
        (np.zeros((2, 0, 16, 3), np.uint8), "(2, 0, 16, 3)"),
        (np.uint8(3), "shape ()"),
        ("a.png", "Put it in a list"),
        (Image.new("RGB", (8, 8)), "Put it in a list"),
        ([BLACK[0], BLACK[0] / 255], "Image 1 is of dtype float64"),
        ([BLACK[0], BLACK], "Image 1 has the shape (2, 16, 16, 3)"),
        ([BLACK[0, ..., 0]], "np.repeat"),
        ([BLACK[0], None], "Image 1 is a NoneType"),
        (["/nowhere/a.png"], "/nowhere/a.png cannot be read"),
        ([Image.new("F", (20, 20))], "32-bit"),
    ],
)
def test_mistakes_are_named(workdir, images, named):
    with pytest.raises(UsageError) as error:
        load_pretrained(workdir).embed(images)
    assert named in str(error.value)


def test_what_a_checkpoint_does_not_have_is_named(workdir, tmp_path):
    loaded = load_pretrained(workdir)
    with pytest.raises(UsageError, match="no classifier"):
        loaded.classify(BLACK)
    with pytest.raises(UsageError, match="batch_size is 0"):
        loaded.embed(BLACK, batch_size=0)
    probe = probe_checkpoint(tmp_path / "probe", np.eye(16, 3, dtype=np.float32), None)
    with pytest.raises(UsageError, match="no projection head"):
        load_pretrained(probe, image_size=16).embed(BLACK, head=True)


def test_it_prints_short(workdir):
    text = repr(load_pretrained(workdir))
    assert len(text) < 800 and "resnet8" in text
