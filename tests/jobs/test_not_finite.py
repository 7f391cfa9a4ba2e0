"""NaN and infinities: never a hit, never in a file, and the job names where they came from."""

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest
from answering import CLASSES, ONE, a_config, answering_probe, probe_checkpoint, run, write_image
from tiny import checkpoint_of_untrained, tiny_linear_config

from nsneg_jax.errors import RunError
from nsneg_jax.files import without_nan
from nsneg_jax.jobs.features import write_features
from nsneg_jax.jobs.knn import knn
from nsneg_jax.jobs.linear import linear
from nsneg_jax.methods.probe import UNRANKED, count, ranks
from nsneg_jax.models.encoder import Encoder
from nsneg_jax.training.checkpoints.checkpoint import Checkpoints
from nsneg_jax.training.metrics import MetricWriter


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    return checkpoint_of_untrained(tmp_path_factory.mktemp("pretrained"))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_no_number_is_no_hit_however_few_the_classes(bad):
    outputs = jnp.array([[bad] * 4, [1.0, 2.0, 3.0, 4.0]])
    assert ranks(outputs, jnp.array([0, 0])).tolist() == [UNRANKED, 3]
    sums = count(outputs[None], jnp.array([0, 0]), jnp.array([True, True]))
    assert sums["top1"].tolist() == [0] and sums["top5"].tolist() == [1]


def test_another_logit_that_is_nan_makes_no_hit():
    assert ranks(jnp.array([[5.0, math.nan]]), jnp.array([0])).tolist() == [UNRANKED]


@pytest.mark.parametrize("job", [knn, linear, write_features])
def test_jobs_name_features(pretrained, tmp_path, monkeypatch, job):
    def features(self, params, stats, images):
        values = images.mean(axis=(1, 2)) @ jnp.ones((3, 16))
        return jnp.where(jnp.arange(len(images))[:, None] == 3, jnp.inf, values)

    monkeypatch.setattr(Encoder, "features", features)
    config = tiny_linear_config(pretrained, epochs=1)
    with pytest.raises(RunError, match=r"features of .* are not finite"):
        job(config, tmp_path, ONE)
    assert not list(tmp_path.glob("features*")) and not (tmp_path / "results.json").exists()


@pytest.mark.parametrize(("where", "stage"), [("kernel", "logits"), ("image", "features")])
def test_evaluations_name_features_or_logits(tmp_path, monkeypatch, where, stage):
    answering = answering_probe(monkeypatch, tmp_path)
    readable = Encoder.features
    if where == "kernel":
        monkeypatch.setattr(Encoder, "features", lambda *given: 5 * readable(*given))
        kernel = np.eye(32, 10, dtype=np.float32)
        kernel[:, 3] = 3e38  # finite, unlike five times as much
        answering = probe_checkpoint(tmp_path / "bad", kernel)
    else:

        def features(self, params, stats, images):
            found = readable(self, params, stats, images)
            return jnp.where(found[:, 4:5] > 0, jnp.nan, found)

        monkeypatch.setattr(Encoder, "features", features)
    write_image(tmp_path / "a" / CLASSES[4] / "x.png", 4)
    write_image(tmp_path / "a" / CLASSES[5] / "x.png", 5)
    config = a_config(answering, "a", **{"sets.a.source": f"folder:{tmp_path / 'a'}"})
    with pytest.raises(RunError, match=f"The {stage} of . of the 2 images of a are not finite"):
        run(config, tmp_path / "out")
    assert not (tmp_path / "out" / "results.json").exists()
    assert not list((tmp_path / "out").glob("parts/*"))


def test_a_probe_whose_logits_are_no_numbers_is_named(tmp_path):
    workdir = probe_checkpoint(tmp_path / "probe", np.full((16, 10), 3e38, np.float32), None)
    config = tiny_linear_config(workdir, evaluate_only=True)
    with pytest.raises(RunError, match="The logits of some of the 80 images"):
        linear(config, tmp_path / "out", ONE)


def test_files_have_null_instead(tmp_path):
    with MetricWriter(tmp_path, 0) as writer:
        writer.write(3, "val", {"loss/lr_1": math.nan, "loss/lr_2": math.inf, "top1": 2.5})

    def refuse(name):
        raise AssertionError(name)

    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert line == {"step": 3, "split": "val", "loss/lr_1": None, "loss/lr_2": None, "top1": 2.5}
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, {"x": np.zeros(1)}, {"last": {"loss": [math.nan, 1.0]}})
    text = (tmp_path / "checkpoints/1/progress/metadata").read_text()
    assert json.loads(text, parse_constant=refuse) == {"last": {"loss": [None, 1.0]}}
    assert without_nan({"a": (1, -math.inf, "NaN")}) == {"a": [1, None, "NaN"]}
