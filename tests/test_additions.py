"""What users add is one file and a config: each seam, with an addition from outside the package."""

import additions
import jax
import numpy as np
import pytest
from tiny import metrics_lines, tiny_config, tiny_linear_config

from nsneg_jax import models
from nsneg_jax.errors import UsageError
from nsneg_jax.jobs import build
from nsneg_jax.jobs.linear import linear
from nsneg_jax.jobs.pretrain import pretrain
from nsneg_jax.methods import optimizer
from nsneg_jax.pretrained import load_pretrained

pytestmark = pytest.mark.usefixtures("quick_code")


def trained(workdir, **values):
    """A pre-training of two steps: its initial and its last state, and its metrics."""
    config = tiny_config(total_steps=2, log_every_steps=1, **values)
    _, start = build.build(config, 5)
    start = jax.device_get(start)
    state = jax.device_get(pretrain(config, workdir, jax.devices()[:2]))
    return start, state, metrics_lines(workdir)


def test_a_method_and_a_network_train_and_are_probed(tmp_path):
    values = {"method": "my_byol", "model.arch": "tiny_vit", "model.width": 8}
    start, state, lines = trained(tmp_path / "run", **values)
    assert isinstance(state, additions.ByolState) and state.step == 2
    assert additions.moved(start.params_q, state.params_q) > 1e-4
    assert additions.moved(start.predictor, state.predictor) > 1e-5
    assert [line["step"] for line in lines] == [1, 2]

    config = tiny_config(total_steps=4, log_every_steps=1, **values)
    assert pretrain(config, tmp_path / "run", jax.devices()[:2]).step == 4  # goes on

    encoder = load_pretrained(tmp_path / "run")
    assert "fc" not in encoder.params and encoder.model["arch"] == "tiny_vit"
    state = linear(tiny_linear_config(tmp_path / "run"), tmp_path / "probe", jax.devices()[:1])
    assert state.classifier["kernel"].shape == (1, 8, 10)


def test_a_loss_and_a_negative_are_names_in_the_config(tmp_path):
    values = {"loss.name": "dcl", "negatives.more": "mean_colour:2@0.5"}
    start, state, lines = trained(tmp_path, **values)
    assert additions.moved(start.params_q, state.params_q) > 1e-4
    method, _ = build.build(tiny_config(**values), 5)
    assert method.loss == additions.DCL(0.2, (2.0, 0.5, 0.5))
    assert method.views.names == ("patch", "mean_colour", "mean_colour 2")
    assert [line["step"] for line in lines] == [1, 2]


@pytest.mark.parametrize(
    "name",
    [
        "lion",
        pytest.param("adamw", marks=pytest.mark.slow),
        pytest.param("lars", marks=pytest.mark.slow),
    ],
)
def test_an_optimiser_is_a_name_in_the_config(name, tmp_path):
    values = {"optimizer.name": name, "optimizer.learning_rate": 1e-2}
    start, state, _ = trained(tmp_path, **values)
    assert additions.moved(start.params_q, state.params_q) > 1e-5


def test_warm_up_grows_to_the_rate():
    plain, warm = (
        optimizer.learning_rate_schedule("cosine", 0.4, 5, 10, warmup_epochs=epochs)
        for epochs in (0, 2)
    )
    rates = np.array([float(warm(step)) for step in range(50)])
    expected = np.array([float(plain(step)) for step in range(50)])
    np.testing.assert_allclose(rates[:10], expected[:10] * np.arange(1, 11) / 10, rtol=1e-6)
    np.testing.assert_allclose(rates[10:], expected[10:], rtol=1e-6)


def test_lars_and_adamw_leave_vectors_undecayed():
    params = {"kernel": np.ones((2, 2), np.float32), "bias": np.ones(2, np.float32)}
    zero = jax.tree.map(np.zeros_like, params)
    for name in ("adamw", "lars"):
        made = optimizer.make(name, lambda step: 0.1, momentum=0.9, weight_decay=0.5)
        updates, _ = made.update(zero, made.init(params), params)
        assert np.abs(updates["kernel"]).max() > 0 and np.abs(updates["bias"]).max() == 0


def test_what_is_not_known_is_refused():
    for wrong in (
        *({"method": "mocco"}, {"model.arch": "resnet9"}, {"optimizer.name": "sdg"}),
        *({"loss.name": "infonze"}, {"negatives.more": "mean_color@1"}),
    ):
        (value,) = wrong.values()
        with pytest.raises(UsageError, match=value):
            pretrain(tiny_config(**wrong), "nowhere", jax.devices()[:1])
    with pytest.raises(UsageError, match="widht"):
        models.build("resnet8", widht=4)
    with pytest.raises(ValueError, match="resnet8"):
        models.register("resnet8", additions.TinyViT)
    models.register("tiny_vit", additions.TinyViT)  # a config file may be executed twice
