"""The examples run as their files say."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import checkpoint_of_untrained, tiny_config

from nsneg_jax import load_pretrained
from nsneg_jax.files import write_json

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.usefixtures("quick_code")


def run(name: str, *arguments: object) -> str:
    """What an example prints."""
    ran = subprocess.run(
        [sys.executable, "-m", f"examples.{name}", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_features(tmp_path):
    workdir = checkpoint_of_untrained(tmp_path / "run")
    write_json(workdir / "config.json", json.loads(tiny_config().to_json()))
    rng = np.random.default_rng(0)
    for name in ("b.jpg", "in/a.jpg"):
        path = tmp_path / "photographs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (30, 20, 3), dtype=np.uint8)).save(path)
    out = tmp_path / "features.npy"
    assert "2 photographs, 16 features" in run("features", workdir, tmp_path / "photographs", out)
    paths = [tmp_path / "photographs" / name for name in ("b.jpg", "in/a.jpg")]
    np.testing.assert_allclose(np.load(out), load_pretrained(workdir).embed(paths), atol=1e-6)


def test_own_loop():
    lines = [line.split() for line in run("own_loop", 61).splitlines()]
    losses = {int(step): float(loss) for _, step, _, loss in lines}
    assert list(losses) == [0, 20, 40, 60]
    # the first is against random keys, which are easier to tell from
    assert losses[60] < losses[20] - 0.1
