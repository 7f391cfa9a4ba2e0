"""A pre-training whose embeddings collapse: reported once, or stopped with everything saved."""

import json

import jax
import numpy as np
import pytest
from tiny import metrics_lines, tiny_config

from nsneg_jax.errors import RunError, UsageError
from nsneg_jax.input.shapes.source import Shapes
from nsneg_jax.jobs.pretrain import pretrain
from nsneg_jax.jobs.pretraining.validation import validate_pretraining

pytestmark = pytest.mark.usefixtures("quick_code")
# without colours, whose programs take long to compile
CHANGES = {"collapse_steps": 3, "total_steps": 9, "views.jitter_probability": 0.0}
CHANGES |= {"views.grayscale_probability": 0.0}


@pytest.fixture
def equal_images(monkeypatch):
    """Every image is black, so every embedding is the same."""
    black = np.zeros((16, 16, 3), np.uint8)
    monkeypatch.setattr(Shapes, "image", lambda source, index: black)


def train(workdir, **values):
    return pretrain(tiny_config(**CHANGES | values), workdir, jax.devices()[:1])


def test_a_collapse_is_reported_once_or_stops_the_run(tmp_path, equal_images, capfd):
    whole = train(tmp_path / "warned", on_collapse="warn")
    said = capfd.readouterr().out
    assert whole.step == 9 and said.count("has collapsed: in steps 4 to 6") == 1
    assert not (tmp_path / "warned" / "results.json").exists()
    lines = metrics_lines(tmp_path / "warned")
    assert all(line["embedding_std"] < 1e-3 for line in lines)

    workdir = tmp_path / "stopped"
    for _ in range(2):  # the same command again stops at once
        with pytest.raises(RunError, match="has collapsed") as error:
            train(workdir, on_collapse="stop")
        assert "step 6" in str(error.value) and str(workdir / "results.json") in str(error.value)
        results = json.loads((workdir / "results.json").read_text())
        assert (results["stopped"], results["step"]) == ("collapse", 6)
        assert results["collapse"]["means"]["embedding_std"] < 1e-3
        assert {path.name for path in (workdir / "checkpoints").iterdir()} == {"4", "6"}
        assert metrics_lines(workdir) == lines[:2]

    capfd.readouterr()
    resumed = train(workdir, on_collapse="warn")
    assert "has collapsed" not in capfd.readouterr().out
    assert not (workdir / "results.json").exists()
    jax.tree.map(np.testing.assert_array_equal, *map(jax.device_get, (whole, resumed)))
    assert metrics_lines(workdir) == lines


@pytest.mark.parametrize(
    ("field", "value"),
    [("on_collapse", "ignore"), ("collapse_steps", 0), ("watchdog_minutes", -1.0)],
)
def test_values_out_of_range_are_named(field, value):
    with pytest.raises(UsageError, match=f"{field} is {value!r}"):
        validate_pretraining(tiny_config(**{field: value}), 1)
