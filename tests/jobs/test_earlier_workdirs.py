"""Workdirs of a version whose modules lay flat, and whose configs had three fields less.

`earlier/workdirs.tar.gz` has a pre-training of seven steps and a probe of two epochs on it, made by
that version; `earlier/two_steps_on.npz` is what it made of the former in two steps more.
"""

import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny import tiny_config, tiny_linear_config

from nsneg_jax import load_pretrained
from nsneg_jax.errors import UsageError
from nsneg_jax.jobs.linear import linear
from nsneg_jax.jobs.pretrain import pretrain

EARLIER = Path(__file__).with_name("earlier")
ONE = jax.devices()[:1]


@pytest.fixture
def workdirs(tmp_path):
    # tarfile has no filters before Python 3.11.4, and wants one from 3.12 on
    subprocess.run(["tar", "-xzf", EARLIER / "workdirs.tar.gz", "-C", tmp_path], check=True)
    return tmp_path


def test_pre_training_goes_on(workdirs):
    state = pretrain(tiny_config(total_steps=9), workdirs / "patch", ONE)
    assert state.step == 9
    with np.load(EARLIER / "two_steps_on.npz") as expected:
        np.testing.assert_allclose(state.queue, expected["queue"], atol=1e-5)
        np.testing.assert_allclose(state.params_q["conv1"]["kernel"], expected["conv1"], atol=1e-5)


def test_another_config_is_refused(workdirs):
    with pytest.raises(UsageError, match=r"optimizer\.name was 'sgd' and is 'lars'"):
        pretrain(tiny_config(total_steps=9, **{"optimizer.name": "lars"}), workdirs / "patch", ONE)


def test_encoder_and_probe_are_read(workdirs):
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    for name in ("patch", "probe"):
        encoder = load_pretrained(workdirs / name)
        features = encoder.embed(images)
        assert features.shape == (3, 16) and np.isfinite(features).all()
    assert encoder.classes[:2] == ("disc", "triangle")
    assert encoder.classifier["kernel"].shape == (16, 10)


def test_finished_probe_is_not_trained_again(workdirs):
    # the encoder is in the probe's checkpoint: its own run may be gone
    unset = {"data.source": "", "data.image_size": 0, "data.resize": -1}  # as at its first start
    config = tiny_linear_config("/tmp/oldrun/patch", epochs=2, **unset)
    state = linear(config, workdirs / "probe", ONE)
    assert state.step == 6
