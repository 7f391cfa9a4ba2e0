"""Opening a job: refused before anything is written, and resumed only with its own config."""

import json

import jax
import numpy as np
import pytest
from tiny import tiny_linear_config

from nsneg_jax.errors import UsageError
from nsneg_jax.jobs.opening import open_run
from nsneg_jax.jobs.validation import validate_linear


def opened(workdir, **overrides):
    config = tiny_linear_config("runs/patch", **overrides)
    return open_run(
        config, workdir, None, validate_linear, dtype=config.dtype, precision=config.precision
    )


def test_nothing_is_written_until_it_is_claimed(tmp_path):
    with pytest.raises(UsageError, match="epochs"):
        opened(tmp_path / "run", epochs=0)
    run = opened(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert run.devices.size == jax.device_count()
    assert run.computation == {"dtype": "float32", "precision": "float32", "device": "cpu"}
    run.claim()
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == run.config
    path = run.write_results({"job": "linear"})
    assert path == tmp_path / "run" / "results.json"
    assert json.loads(path.read_text()) == {"job": "linear"}


def test_a_run_goes_on_with_its_own_config_alone(tmp_path):
    run = opened(tmp_path)
    with run.resumable(keep=1) as resumption:
        assert resumption.step is None
        run.claim(resumption)
        resumption.checkpoints.save(3, {"x": np.zeros(2)}, {})
    with opened(tmp_path, **{"data.threads": 1}).resumable(keep=1) as resumed:
        assert resumed.step == 3
    with (
        pytest.raises(UsageError, match="seed was 0 and is 1"),
        opened(tmp_path, seed=1).resumable(keep=1),
    ):
        pass


def test_data_may_move_if_the_run_knows_them(tmp_path):
    folder, moved = ({"data.source": f"folder:/{place}"} for place in ("a", "b"))
    for name, progress in (("earlier", {}), ("now", {"data": {"images": 3}})):
        run = opened(tmp_path / name, **folder)
        with run.resumable(keep=1) as resumption:
            run.claim(resumption)
            resumption.checkpoints.save(3, {"x": np.zeros(2)}, progress)
    with (
        pytest.raises(UsageError, match=r"data\.source was"),
        opened(tmp_path / "earlier", **moved).resumable(keep=1),
    ):
        pass
    with (
        pytest.raises(UsageError, match=r"data\.source was"),
        opened(tmp_path / "now", **{"data.source": "shapes:80"}).resumable(keep=1),
    ):
        pass
    run = opened(tmp_path / "now", **moved)
    with run.resumable(keep=1) as resumption:
        run.claim(resumption)
    now = json.loads((tmp_path / "now" / "config.json").read_text())
    assert now["data"]["source"] == "folder:/b"
