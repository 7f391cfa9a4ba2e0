"""Checkpoints with another structure, or none, are reported by name."""

import gc
import sys
from functools import partial

import jax
import numpy as np
import pytest

from nsneg_jax.errors import RunError, UsageError
from nsneg_jax.training.checkpoints.checkpoint import (
    Checkpoints,
    find_checkpoint,
    read_checkpoint,
    read_progress,
)

STATE = {"layer": {"kernel": np.ones((2, 3), np.float32)}, "pair": (np.ones(1), np.ones(2))}


@pytest.fixture
def workdir(tmp_path):
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        for step in (4, 12):
            checkpoints.save(step, jax.tree.map(partial(np.multiply, step), STATE), {"step": step})
    return tmp_path


def kernel(**values) -> dict:
    return STATE | {"layer": {"kernel": np.ones((2, 3), np.float32)} | values}


@pytest.mark.parametrize(
    ("like", "expected"),
    [
        (kernel(bias=np.ones(3)), "layer.bias is missing in the checkpoint"),
        (STATE | {"layer": {}}, "layer.kernel is in the checkpoint, but not in this run"),
        (
            kernel(kernel=np.ones((2, 4), np.float32)),
            "layer.kernel has shape (2, 3) in the checkpoint, (2, 4) in this run",
        ),
        (
            kernel(kernel=np.ones((2, 3), np.int32)),
            "layer.kernel has dtype float32 in the checkpoint, int32 in this run",
        ),
        (STATE | {"pair": (np.ones(1),)}, "pair.1 is in the checkpoint, but not in this run"),
    ],
)
def test_other_structure_is_told_by_its_first_entry(workdir, like, expected):
    with Checkpoints(workdir, keep=3) as checkpoints, pytest.raises(UsageError) as error:
        checkpoints.restore(12, like)
    assert expected in str(error.value)
    assert str(workdir / "checkpoints" / "12") in str(error.value)
    assert len(str(error.value)) < 400


def test_restore_and_progress(workdir, float64):
    with Checkpoints(workdir, keep=3) as checkpoints:
        like = jax.tree.map(jax.numpy.asarray, STATE)
        state, progress = checkpoints.restore(4, like)
        assert progress == read_progress(checkpoints.folder / "4") == {"step": 4}
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, 4 * b), state, STATE)


def test_every_nth_is_kept_besides_the_latest(tmp_path):
    def kept() -> list[int]:
        return sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir())

    with Checkpoints(tmp_path, keep=2, keep_every=6) as checkpoints:
        for step in range(2, 18, 2):
            checkpoints.save(step, STATE, {})
    assert kept() == [6, 12, 14, 16]
    with Checkpoints(tmp_path, keep=1, keep_every=12) as checkpoints:  # the next start may change
        assert checkpoints.latest_step() == 16
        checkpoints.save(18, STATE, {})
    assert kept() == [12, 18]


def test_damaged_checkpoint_is_told(workdir):
    (workdir / "checkpoints" / "12" / "state" / "_METADATA").unlink()
    with Checkpoints(workdir, keep=3) as checkpoints, pytest.raises(RunError, match="damaged"):
        checkpoints.restore(12, STATE)


def test_find_and_read(workdir):
    latest = workdir / "checkpoints" / "12"  # by number: 4 sorts after 12 by name
    for path in (workdir, workdir / "checkpoints", latest, str(latest)):
        assert find_checkpoint(path) == latest
    state, progress = read_checkpoint(latest)
    assert progress == {"step": 12}
    np.testing.assert_array_equal(state["pair"][1], [12, 12])
    assert isinstance(state["layer"]["kernel"], np.ndarray)
    state, _ = read_checkpoint(latest, "layer", "queue")
    assert state.keys() == {"layer"}


def test_a_save_leaves_no_memory_behind(tmp_path):
    """tensorstore leaves 700 objects per save of these 100 arrays unless it is kept from it."""
    state = {f"array {i}": jax.numpy.zeros(3) for i in range(100)}
    with Checkpoints(tmp_path, keep=1) as checkpoints:

        def objects_after(steps: range) -> int:
            for step in steps:
                checkpoints.save(step, state, {})
            assert not checkpoints.failed(wait=True)
            gc.collect()
            return sys.getallocatedblocks()

        before = objects_after(range(4))
        assert objects_after(range(4, 8)) - before < 4 * 300
