"""Trained encoders out of checkpoints: wherever they lie, however many devices wrote them."""

import shutil

import jax
import numpy as np
import pytest
from tiny import tiny_config

from nsneg_jax import models
from nsneg_jax.errors import UsageError
from nsneg_jax.jobs.build import build
from nsneg_jax.parallel.mesh import data_mesh, replicated
from nsneg_jax.pretrained import load_pretrained
from nsneg_jax.training.checkpoints.checkpoint import Checkpoints

IMAGES = np.random.default_rng(0).normal(size=(3, 16, 16, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What pre-training on eight devices writes after steps 4 and 8, and the last state."""
    workdir = tmp_path_factory.mktemp("run")
    config = tiny_config()
    _, state = build(config, steps_per_epoch=5)
    state = jax.device_put(state, replicated(data_mesh(jax.devices())))
    assert len(state.queue.devices()) == 8
    with Checkpoints(workdir, keep=2) as checkpoints:
        for step in (4, 8):
            state = jax.tree.map(lambda x: x + 1, state)
            checkpoints.save(step, state, {"model": config.model.to_dict()})
    return workdir, jax.device_get(state)


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_latest_of_a_workdir(run):
    workdir, state = run
    found = load_pretrained(str(workdir))
    expected = dict(state.params_q)
    del expected["fc"]
    assert_equal(found.params, expected)
    assert_equal(found.stats, state.stats_q)
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves((found.params, found.stats)))
    assert found.model == tiny_config().model.to_dict()
    assert found.classifier is None and found.classes is None
    assert found.origin == f"{workdir}, step 8"


def test_features_are_those_of_the_run(run):
    workdir, state = run
    found = load_pretrained(workdir)
    whole, _, _ = models.build(**tiny_config().model, seed=0)
    expected = whole.features(state.params_q, state.stats_q, IMAGES)
    features = found.encoder.features(found.params, found.stats, IMAGES)
    assert features.shape == (3, 16)
    np.testing.assert_array_equal(features, expected)
    assert hash(found.encoder) == hash(load_pretrained(workdir).encoder)  # static under jit


def test_step_of_a_run_and_its_copy(run, tmp_path):
    workdir, state = run
    first = load_pretrained(workdir / "checkpoints" / "4")
    assert first.origin == f"{workdir}, step 4"
    assert not np.array_equal(first.params["conv1"]["kernel"], state.params_q["conv1"]["kernel"])
    copy = shutil.copytree(workdir / "checkpoints" / "4", tmp_path / "my_encoder")
    again = load_pretrained(copy)
    assert_equal(again.params, first.params)
    assert again.origin == str(copy)


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_dtype_of_the_computation(run, dtype):
    found = load_pretrained(run[0], dtype)
    stored = "float64" if dtype == "float64" else "float32"
    leaves = jax.tree.leaves((found.params, found.stats))
    assert {str(leaf.dtype) for leaf in leaves} == {stored}
    with jax.enable_x64(True):
        features = found.encoder.features(found.params, found.stats, IMAGES.astype(dtype))
    assert features.dtype == dtype


def test_float64_stays_float64(tmp_path, float64):
    config = tiny_config(**{"model.dtype": "float64"})
    _, state = build(config, steps_per_epoch=5)
    stats = jax.tree.map(lambda x: x + 1e-12, state.stats_q)
    save(tmp_path, state.replace(stats_q=stats), {"model": config.model.to_dict()})
    with jax.enable_x64(False):
        found = load_pretrained(tmp_path, "float64")
    assert_equal(found.stats, jax.device_get(stats))
    assert found.stats["bn1"]["mean"][0] == 1e-12


@pytest.fixture
def probe(tmp_path):
    """A linear probe's checkpoint, and the encoder and classifiers it holds."""
    model = tiny_config().model.to_dict()
    _, params, stats = models.build(**tiny_config(**{"model.dim": 0}).model, seed=3)
    rng = np.random.default_rng(0)
    best = {"kernel": rng.normal(size=(4, 16, 3)), "bias": rng.normal(size=(4, 3))}
    best = {name: array.astype(np.float32) for name, array in best.items()}
    state = {
        "backbone": {"params": params, "stats": stats},
        "best": best,
        "momentum": {"kernel": best["kernel"]},
        "step": np.array(5),
    }
    progress = {"model": model, "chosen": 2, "classes": ["disc", "star", "heart"], "epoch": 1}
    with Checkpoints(tmp_path / "probe", keep=1) as checkpoints:
        checkpoints.save(5, state, progress)
    return tmp_path / "probe", params, best


def test_probe(probe):
    workdir, params, best = probe
    found = load_pretrained(workdir)
    assert "fc" not in params
    assert_equal(found.params, jax.device_get(params))
    np.testing.assert_array_equal(found.classifier["kernel"], best["kernel"][2])
    np.testing.assert_array_equal(found.classifier["bias"], best["bias"][2])
    assert found.classes == ("disc", "star", "heart")


def save(workdir, state, progress):
    with Checkpoints(workdir, keep=1) as checkpoints:
        checkpoints.save(1, state, progress)


def test_mistakes_are_told(run, tmp_path):
    def refused(path, expected, **options):
        with pytest.raises(UsageError, match=expected) as error:
            load_pretrained(path, **options)
        return str(error.value)

    assert "/nowhere" in refused("/nowhere", "no folder")
    (tmp_path / "empty").mkdir()
    assert "checkpoints/STEP" in refused(tmp_path / "empty", "holds no checkpoint")
    save(tmp_path / "other", {"weights": np.ones(3)}, {"model": {}})
    refused(tmp_path / "other", "neither a pre-training's .* nor a linear probe's")
    save(tmp_path / "old", {"params_q": {"a": np.ones(1)}, "stats_q": {"a": np.ones(1)}}, {})
    refused(tmp_path / "old", "older version")
    model = tiny_config(**{"model.width": 8}).model.to_dict()
    state = {"params_q": run[1].params_q, "stats_q": run[1].stats_q}
    save(tmp_path / "mixed", state, {"model": model})
    assert "bn1.bias has shape (4,)" in refused(tmp_path / "mixed", "does not hold the model")
    refused(run[0], "'float16'", dtype="float16")

    for damage in ("progress/metadata", "state/_METADATA", "state/d", "state/manifest.ocdbt"):
        copy = tmp_path / damage.replace("/", "_")
        shutil.copytree(run[0] / "checkpoints" / "8", copy)
        target = copy / damage
        if target.is_dir():
            shutil.rmtree(target)
            shutil.rmtree(copy / "state" / "ocdbt.process_0")
        else:
            target.write_bytes(target.read_bytes()[:5])
        assert str(copy) in refused(copy, "is damaged")
