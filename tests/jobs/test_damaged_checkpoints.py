"""A run whose newest checkpoint is damaged goes on from the one before, to the same bits."""

import json

import jax
import numpy as np
import pytest
from tiny import damage, metrics_lines, tiny_config, tiny_linear_config

from nsneg_jax.errors import RunError, UsageError
from nsneg_jax.jobs.linear import linear
from nsneg_jax.jobs.pretrain import pretrain


def test_pretraining(tmp_path, capsys):
    devices = jax.devices()[:1]
    expected = jax.device_get(pretrain(tiny_config(), tmp_path / "whole", devices))
    workdir = tmp_path / "run"
    pretrain(tiny_config(total_steps=12), workdir, devices)
    damage(workdir / "checkpoints" / "12")
    state = pretrain(tiny_config(), workdir, devices)
    captured = capsys.readouterr()
    assert "goes on from step 8" in captured.err
    assert "; 8 done before" in captured.out
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), expected)
    steps = [line["step"] for line in metrics_lines(workdir)]
    assert steps == sorted(set(steps))

    for step in (workdir / "checkpoints").iterdir():
        damage(step)
    with pytest.raises(RunError, match="no whole checkpoint"):
        pretrain(tiny_config(), workdir, devices)

    # A probe of it does not start either, and says why.
    with pytest.raises(UsageError, match="is damaged"):
        linear(tiny_linear_config(workdir), tmp_path / "probe", devices)


def test_probe(tmp_path, capsys):
    devices = jax.devices()[:1]
    pretrain(tiny_config(total_steps=4), tmp_path / "encoder", devices)
    config, workdir = tiny_linear_config(tmp_path / "encoder"), tmp_path / "probe"
    linear(config, workdir, devices)
    expected = (workdir / "results.json").read_text()
    assert sorted(each.name for each in (workdir / "checkpoints").iterdir()) == ["12", "9"]
    damage(workdir / "checkpoints" / "12")
    (workdir / "results.json").unlink()
    linear(config, workdir, devices)
    assert "goes on from step 9" in capsys.readouterr().err
    assert (workdir / "results.json").read_text() == expected


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\x00", b"\0" * 100, None])
def test_a_damaged_config_is_made_again_from_the_checkpoint(tmp_path, content):
    devices = jax.devices()[:1]
    path = tmp_path / "config.json"
    pretrain(tiny_config(total_steps=1), tmp_path, devices)
    before = json.loads(path.read_text())
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(UsageError, match="learning_rate"):
        pretrain(tiny_config(**{"optimizer.learning_rate": 9.0}), tmp_path, devices)
    pretrain(tiny_config(total_steps=1), tmp_path, devices)
    assert json.loads(path.read_text()) == before
