"""The linear job end to end: counted exactly, frozen, resumed to the bit, the same on 8 devices."""

import json
import os
import signal

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from photo_folder import write_photos
from tiny import checkpoint_of_untrained, metrics_lines, tiny_linear_config

from nsneg_jax.errors import RunError, UsageError
from nsneg_jax.evaluation.passes import Evaluation
from nsneg_jax.input.shapes.source import Shapes
from nsneg_jax.jobs.frozen import probe_settings
from nsneg_jax.jobs.linear import linear
from nsneg_jax.jobs.probing.program import build
from nsneg_jax.methods import probe
from nsneg_jax.parallel import mesh
from nsneg_jax.pretrained import load_pretrained
from nsneg_jax.training.progress import Progress

ONE = jax.devices()[:1]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    return checkpoint_of_untrained(tmp_path_factory.mktemp("pretrained"))


@pytest.fixture(scope="module")
def run_left_alone(pretrained, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("alone")
    return workdir, linear(tiny_linear_config(pretrained), workdir, ONE)


def results(workdir) -> dict:
    return json.loads((workdir / "results.json").read_text())


def assert_equal(ours, theirs):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_a_run_leaves_its_figures(pretrained, run_left_alone):
    workdir, state = run_left_alone
    assert state.step == 12
    lines = metrics_lines(workdir)
    assert [(line["split"], line["step"], line["epoch"]) for line in lines] == [
        (split, 3 * epoch, epoch) for epoch in range(1, 5) for split in ("train", "val")
    ]
    validation = [line["accuracy_top1"] for line in lines if line["split"] == "val"]
    figures = results(workdir)
    assert figures["best_accuracy_top1"] == max(validation)
    assert figures["accuracy_top1"] == validation[-1]
    assert figures["probes"][0]["best_epoch"] == 1 + int(np.argmax(validation))
    assert figures["validation_images"] == 80
    assert figures["encoder"] == f"{pretrained}, step 7"


def test_the_best_classifier_can_be_evaluated_alone(run_left_alone, tmp_path):
    workdir, _ = run_left_alone
    linear(tiny_linear_config(workdir, evaluate_only=True), tmp_path, ONE)
    assert results(tmp_path)["accuracy_top1"] == results(workdir)["best_accuracy_top1"]


@pytest.mark.parametrize("steps", [3, 4])  # at the end of an epoch, and after its first step
def test_a_stopped_run_goes_on_to_the_bit(pretrained, run_left_alone, tmp_path, monkeypatch, steps):
    class Interrupting(Progress):
        def advance(self, step):
            super().advance(step)
            if step == steps:
                os.kill(os.getpid(), signal.SIGTERM)

    config = tiny_linear_config(pretrained)
    with monkeypatch.context() as patched:
        patched.setattr("nsneg_jax.jobs.probing.training.Progress", Interrupting)
        assert linear(config, tmp_path, ONE).step == steps
    assert not (tmp_path / "results.json").exists()
    # the encoder is in the checkpoint, so its own run may be gone or further on
    resumed = linear(config, tmp_path, ONE)
    workdir, whole = run_left_alone
    assert_equal(resumed, whole)
    assert metrics_lines(tmp_path) == metrics_lines(workdir)
    assert results(tmp_path) == results(workdir)


def test_a_renamed_class_is_refused_in_either_split(pretrained, tmp_path):
    files = [f"{name}/{i}.jpg" for name in ("ant", "bee") for i in range(3)]
    for split in ("train", "val"):
        write_photos(tmp_path / "data", files, split)
    fields = {"data.source": f"folder:{tmp_path / 'data'}", "batch_size": 6, "epochs": 1}
    linear(tiny_linear_config(pretrained, **fields), tmp_path / "run", ONE)
    for path in (tmp_path / "data").glob("*/bee"):
        path.rename(path.with_name("beetle"))
    config = tiny_linear_config(pretrained, **fields)
    with pytest.raises(UsageError, match="class 1 was 'bee' and is 'beetle'"):
        linear(config, tmp_path / "run", ONE)
    for path in (tmp_path / "data").glob("*/beetle"):
        path.rename(path.with_name("bee"))
    linear(config, tmp_path / "run", ONE)
    (tmp_path / "data" / "val" / "bee" / "0.jpg").rename(
        tmp_path / "data" / "val" / "bee" / "x.jpg"
    )
    with pytest.raises(UsageError, match=r"\[val\] differs"):
        linear(config, tmp_path / "run", ONE)


def test_rates_learn_side_by_side_as_each_alone(pretrained, run_left_alone, tmp_path):
    rates = (0.01, 1.0, 30.0)
    linear(tiny_linear_config(pretrained, learning_rates=rates), tmp_path, ONE)
    probes = results(tmp_path)["probes"]
    assert [each["learning_rate"] for each in probes] == list(rates)
    alone = results(run_left_alone[0])["probes"][0]
    assert probes[1]["accuracy_top1"] == alone["accuracy_top1"]
    np.testing.assert_allclose(probes[1]["loss"], alone["loss"], rtol=1e-5)
    assert len({each["loss"] for each in probes}) == 3
    best = max(each["best_accuracy_top1"] for each in probes)
    assert results(tmp_path)["best_accuracy_top1"] == best


@pytest.mark.usefixtures("float64")
def test_1003_images_are_1003_votes_on_any_devices(tmp_path):
    path = checkpoint_of_untrained(tmp_path, **{"model.dtype": "float64"})
    config = tiny_linear_config(path, dtype="float64", batch_size=128)
    loaded = load_pretrained(path, "float64")
    settings = probe_settings(config)
    method, state = build(settings, loaded, 1, 10)
    source = Shapes("val", image_size=16, size=1003)
    sums = {}
    for count in (1, 2, 8):
        devices = mesh.data_mesh(jax.devices()[:count])
        evaluate = Evaluation(method, settings.reading, source, devices)
        sums[count] = evaluate(
            *jax.device_put((state.backbone, state.classifier), mesh.replicated(devices))
        )
        assert sums[count]["images"] == 1003
        for name in ("top1", "top5"):
            np.testing.assert_array_equal(sums[count][name], sums[1][name])
        np.testing.assert_allclose(sums[count]["loss"], sums[1]["loss"], rtol=1e-12)
    assert 0 < sums[1]["top1"][0] < sums[1]["top5"][0] < 1003


@pytest.mark.usefixtures("float64")
def test_one_and_eight_devices_agree(tmp_path):
    path = checkpoint_of_untrained(tmp_path / "pretrained", **{"model.dtype": "float64"})
    config = tiny_linear_config(path, dtype="float64", epochs=2)
    one = linear(config, tmp_path / "one", ONE)
    eight = linear(config, tmp_path / "eight")
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("part", ["params", "stats"])
def test_a_backbone_that_is_not_frozen_is_found(pretrained, tmp_path, monkeypatch, part):
    frozen_step = probe.train_step

    def leaking(method, state, batch):
        state = frozen_step(method, state, batch)
        bn = state.backbone[part]["layer2"]["block0"]["bn1"]
        name = {"params": "bias", "stats": "mean"}[part]
        bn[name] = bn[name] + 1e-6 * state.classifier["bias"].sum() + 1e-7
        return state

    monkeypatch.setattr(probe, "train_step", leaking)
    with pytest.raises(RunError, match=rf"entry {part}\.layer2\.block0\.bn1"):
        linear(tiny_linear_config(pretrained), tmp_path, ONE)
    assert not list((tmp_path / "checkpoints").glob("[0-9]*"))


def test_rates_that_all_diverge_stop_the_run(pretrained, tmp_path):
    with pytest.raises(RunError, match="not finite at any learning rate"):
        # every step multiplies the weights by -1e7
        values = {"learning_rates": (1e6,), "optimizer.weight_decay": 10.0}
        linear(tiny_linear_config(pretrained, **values), tmp_path, ONE)


def test_untrained_is_the_same_network_with_initial_weights(pretrained):
    trained = load_pretrained(pretrained)
    untrained = load_pretrained(f"untrained:{pretrained}")
    assert untrained.model == trained.model and untrained.origin.startswith("untrained")
    # the checkpoint of these tests is one of initial weights
    assert_equal(untrained.params, trained.params)
    assert_equal(untrained.stats, trained.stats)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"pretrained": ""}, "pretrained is ''"),
        ({"pretrained": "/nowhere"}, "no folder /nowhere"),
        ({"batch_size": 12}, "multiple of the number of devices, 8"),
        ({"learning_rates": (1.0, 1.0)}, "all different"),
        ({"learning_rates": ()}, "1 to 1000 values"),
        ({"learning_rates": (1.0, -2.0)}, "learning_rates is"),
        ({"crop_scale": (0.5, 2.0)}, "crop_scale is"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"data.resize": -2}, "data.resize is -2"),
        ({"data.image_size": 7}, "data.image_size is 7"),
        ({"evaluate_only": True}, "has no classifier to evaluate"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(pretrained, tmp_path, overrides, message):
    config = ConfigDict(tiny_linear_config(pretrained))
    config.update_from_flattened_dict(overrides)
    with pytest.raises(UsageError, match=message):
        linear(config, tmp_path / "run")
    assert not (tmp_path / "run").exists() or not (tmp_path / "run" / "config.json").exists()
