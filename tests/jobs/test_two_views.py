"""BYOL, SimCLR and MoCo-v3 as runs: resumed, on other devices, reported, probed and exported."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny import PLAIN, checkpoint_of_untrained, metrics_lines, tiny_config, tiny_linear_config

from configs import byol, mocov3, patch, simclr
from nsneg_jax.analysis.similarities import measure
from nsneg_jax.errors import UsageError
from nsneg_jax.jobs.linear import linear
from nsneg_jax.jobs.pretrain import pretrain
from nsneg_jax.methods import siamese
from nsneg_jax.models.encoder import HEAD
from nsneg_jax.pretrained import load_pretrained
from nsneg_jax.pytorch.exporting import export
from nsneg_jax.training.workdir import CONFIG, check_workdir

pytestmark = pytest.mark.usefixtures("quick_code")

RECIPES = {"byol": byol, "simclr": simclr, "mocov3": mocov3, "moco": patch}
SMALL = {"model.bn_groups": 1, "model.head_hidden": 24, "log_every_steps": 1}


def run_of(method, workdir, devices=1, **values):
    config = tiny_config(RECIPES[method], **SMALL | values)
    return jax.device_get(pretrain(config, workdir, jax.devices()[:devices]))


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize(
    "head",
    ["byol", *(pytest.param(head, marks=pytest.mark.slow) for head in ("simclr", "mocov3"))],
)
def test_the_head_is_dropped_with_its_statistics(head, tmp_path):
    values = {"method": head, "model.head": head, "model.head_hidden": 24}
    run = checkpoint_of_untrained(tmp_path / "run", **values)
    loaded = load_pretrained(run, image_size=16, resize=0)
    assert HEAD not in loaded.params and HEAD not in loaded.stats
    assert loaded.head is not None and loaded.head_stats["norm0"]["mean"].shape == (24,)
    export(run, tmp_path / "out.safetensors")
    names = load_file(tmp_path / "out.safetensors").keys()
    assert "conv1.weight" in names and not any(name.startswith("fc.") for name in names)
    if head == "byol":
        images = np.zeros((2, 16, 16, 3), np.uint8)
        assert loaded.embed(images, head=True, batch_size=2).shape == (2, 8)


def test_a_run_of_an_earlier_version_goes_on(tmp_path):
    """Its config.json has neither heads nor the section of these methods."""
    config = json.loads(tiny_config().to_json())
    before = json.loads(tiny_config().to_json())
    del before["siamese"], before["model"]["head"], before["model"]["head_hidden"]
    (tmp_path / CONFIG).write_text(json.dumps(before))
    check_workdir(config, tmp_path)
    config["model"]["head"] = "byol"
    with pytest.raises(UsageError, match=r"model\.head"):
        check_workdir(config, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("method", siamese.NAMES)
def test_a_run_resumes_to_the_bit_and_is_used(method, tmp_path):
    whole = run_of(method, tmp_path / "whole", total_steps=6)
    run_of(method, tmp_path / "parts", total_steps=3)
    parts = run_of(method, tmp_path / "parts", total_steps=6)
    assert_equal(whole, parts)
    lines = metrics_lines(tmp_path / "whole")
    assert lines == metrics_lines(tmp_path / "parts")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]

    measured = measure(tmp_path / "whole", batches=1)
    kinds = {"positive", "patch"} | ({"others"} if method != "byol" else set())
    assert measured["kinds"].keys() == kinds and measured["images"] == 32
    others = {"simclr": 32 * 30, "mocov3": 32 * 15}
    for kind, figures in measured["kinds"].items():
        assert sum(figures["counts"]) == (others[method] if kind == "others" else 32)
        assert min(figures["counts"]) >= 0

    state = linear(
        tiny_linear_config(tmp_path / "whole", epochs=1),
        tmp_path / "probe",
        jax.devices()[:1],
    )
    assert state.classifier["kernel"].shape == (1, 16, 10)
    export(tmp_path / "whole", tmp_path / "out.pth")
    export(tmp_path / "whole", tmp_path / "folder")
    card = Path(tmp_path / "folder" / "README.md").read_text()
    assert f"- {method}\n" in card and "queue" not in card


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("method", [*siamese.NAMES, "moco"])
def test_eight_devices_are_one(method, tmp_path):
    values = PLAIN | {"model.bn_groups": 1, "total_steps": 3}
    if method == "moco":  # with shuffling
        values |= {"model.bn_groups": 8, "moco.symmetric": True}
    one, eight = (run_of(method, tmp_path / str(devices), devices, **values) for devices in (1, 8))

    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9 * max(1e-3, np.abs(a).max()))

    jax.tree.map(close, one, eight)
