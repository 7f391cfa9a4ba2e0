"""A run may find its images elsewhere when it resumes, but not other images."""

import jax
import numpy as np
import pytest
from photo_folder import write_photos
from tiny import metrics_lines, tiny_config

from nsneg_jax.errors import UsageError
from nsneg_jax.jobs.pretrain import pretrain

NAMES = [f"{name}/{i:02}.png" for name in ("ant", "bee") for i in range(12)]


def train(root, workdir, steps):
    config = tiny_config(**{"data.source": f"folder:{root}", "total_steps": steps})
    return pretrain(config, workdir, jax.devices()[:1])


def test_data_may_move_but_not_change(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    write_photos(here, NAMES)
    whole = train(here, tmp_path / "whole", 9)
    train(here, tmp_path / "run", 6)
    here.rename(there)
    (there / "train" / "bee").rename(there / "train" / "cat")
    with pytest.raises(UsageError, match=r"bee.*cat|cat.*bee"):
        train(there, tmp_path / "run", 9)
    (there / "train" / "cat").rename(there / "train" / "bee")
    (there / "train" / "ant" / "03.png").rename(there / "train" / "ant" / "13.png")
    with pytest.raises(UsageError, match=r"\b(03|04|13)\.png"):
        train(there, tmp_path / "run", 9)
    (there / "train" / "ant" / "13.png").rename(there / "train" / "ant" / "03.png")
    resumed = train(there, tmp_path / "run", 9)
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    assert metrics_lines(tmp_path / "run") == metrics_lines(tmp_path / "whole")
