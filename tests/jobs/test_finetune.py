"""The finetune job end to end: what it trains, keeps and leaves for other jobs."""

import json
import os
import signal

import jax
import numpy as np
import pytest
from tiny import checkpoint_of_untrained, metrics_lines, tiny_linear_config

from configs import evaluate as evaluation
from configs import finetune as recipe
from nsneg_jax.errors import UsageError
from nsneg_jax.jobs.evaluate import evaluate
from nsneg_jax.jobs.finetune import finetune
from nsneg_jax.jobs.knn import knn
from nsneg_jax.pretrained import load_pretrained
from nsneg_jax.training.progress import Progress

pytestmark = pytest.mark.usefixtures("quick_code")
ONE = jax.devices()[:1]


def config_of(encoder, **overrides):
    """On 80 shapes of 16 px, 3 steps per epoch, 3 epochs; `overrides` by dotted name."""
    config = recipe.get_config("tiny")
    values = {
        "pretrained": str(encoder),
        "batch_size": 32,
        "epochs": 3,
        "data.source": "shapes:80",
        "data.split": "train",
        "data.image_size": 16,
        "anchor": 0.1,
        "label_smoothing": 0.1,
    }
    config.update_from_flattened_dict(values | overrides)
    return config


def results(workdir):
    return json.loads((workdir / "results.json").read_text())


def assert_equal(ours, theirs):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def moved(state, encoder):
    differences = jax.tree.map(
        lambda a, b: np.abs(np.asarray(a) - b).max(), state.backbone["params"], encoder.params
    )
    return jax.tree.leaves(differences)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    return checkpoint_of_untrained(tmp_path_factory.mktemp("pretrained"))


@pytest.fixture(scope="module")
def tuned(pretrained, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("tuned")
    return workdir, finetune(config_of(pretrained), workdir, ONE)


def test_every_parameter_is_trained_and_the_last_epoch_counts(pretrained, tuned):
    workdir, state = tuned
    encoder = load_pretrained(pretrained)
    assert state.step == 9 and min(moved(state, encoder)) > 0
    figures = results(workdir)
    lines = [line for line in metrics_lines(workdir) if line["split"] == "val"]
    assert figures["job"] == "finetune" and len(lines) == 3
    assert figures["accuracy_top1"] == lines[-1]["accuracy_top1"]
    assert figures["encoder"] == f"{encoder.origin}, fine-tuned on train"
    assert figures["learning_rate"] == 0.05 and figures["validation_images"] == 80


def test_other_jobs_take_what_it_left(tuned, tmp_path):
    workdir, state = tuned
    encoder = load_pretrained(workdir)
    assert_equal(encoder.params, state.backbone["params"])
    assert_equal(encoder.classifier["kernel"], state.classifier["kernel"][0])
    assert encoder.image_size == 16

    config = evaluation.get_config("tiny")
    config.update_from_flattened_dict(
        {"pretrained": str(workdir), "only": "clean", "sets.clean.source": "shapes:80"}
    )
    evaluate(config, tmp_path / "evaluation", ONE)
    figures = results(tmp_path / "evaluation")
    # Both go over the 80 pictures of the validation split.
    assert figures["sets"]["clean"]["accuracy_top1"] == results(workdir)["accuracy_top1"]
    assert figures["encoder"].endswith("fine-tuned on train")

    knn(tiny_linear_config(workdir, job="knn"), tmp_path / "knn", ONE)
    assert results(tmp_path / "knn")["encoder"] == figures["encoder"]


def test_resumes_to_the_bit(pretrained, tuned, tmp_path, monkeypatch):
    workdir, expected = tuned

    class Interrupting(Progress):
        def advance(self, done):
            super().advance(done)
            if done == 4:
                os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr("nsneg_jax.jobs.probing.training.Progress", Interrupting)
        assert finetune(config_of(pretrained), tmp_path, ONE).step == 4
    assert_equal(finetune(config_of(pretrained), tmp_path, ONE), expected)
    assert results(tmp_path) == results(workdir)


@pytest.mark.slow
def test_a_strong_anchor_holds_the_encoder(pretrained, tuned, tmp_path):
    rates = {"optimizer.learning_rate": 0.01}
    held = finetune(config_of(pretrained, anchor=50.0, **rates), tmp_path / "held", ONE)
    free = finetune(config_of(pretrained, anchor=0.0, **rates), tmp_path / "free", ONE)
    encoder = load_pretrained(pretrained)
    assert sum(moved(held, encoder)) < 0.5 * sum(moved(free, encoder))
    assert free.start == {}


@pytest.mark.slow
def test_statistics_can_stay(pretrained, tmp_path):
    state = finetune(config_of(pretrained, bn_groups=0, epochs=1), tmp_path, ONE)
    assert_equal(state.backbone["stats"], load_pretrained(pretrained).stats)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"bn_groups": 5}, "a divisor of batch_size"),
        ({"bn_groups": 32}, "2 images"),
        ({"optimizer.warmup_epochs": 3}, "less than epochs"),
        ({"optimizer.name": "adma"}, "adma"),
        ({"pretrained": ""}, "workdir"),
    ],
)
def test_wrong_values(pretrained, tmp_path, values, said):
    with pytest.raises(UsageError, match=said):
        finetune(config_of(pretrained, **values), tmp_path / "none", ONE)
    assert not (tmp_path / "none").exists()
