"""The golden trajectories of the PyTorch original; `--golden DIR` replays those in another folder.

On an accelerator: `pytest tests/methods/test_parity.py -k one_device --device default`.
"""

import gc
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from replay import Replay, run, trajectories


def pytest_generate_tests(metafunc):
    if "trajectory" in metafunc.fixturenames:
        paths = trajectories(metafunc.config.getoption("golden"))
        marks = [()] * len(paths)
        if metafunc.function is test_one_device:  # two processes differ from four in number only
            marks = [[pytest.mark.slow] if path.stem == "two_processes" else [] for path in paths]
        if metafunc.function is test_eight_devices:
            marks[1:] = [pytest.mark.slow] * (len(paths) - 1)
        parameters = [
            pytest.param(path, id=path.stem, marks=mark)
            for path, mark in zip(paths, marks, strict=True)
        ]
        metafunc.parametrize("trajectory", parameters)


@pytest.fixture(autouse=True)
def free_memory():
    """The replays and their programs take gigabytes."""
    yield
    gc.collect()
    jax.clear_caches()


def test_one_device(trajectory, float64, record_property):
    worst = run(trajectory, devices=1, merge_passes=True)
    record_property("worst_relative_error", worst)  # read by benchmarks.gpu


@pytest.mark.slow
def test_float32_from_exact_states(trajectory, float64):
    """The trajectory in float64, and each step in float32 from the exact previous state.

    A float32 error grows a hundredfold per step where a ReLU or a maximum flips, so a continuous
    float32 trajectory would only allow loose bounds.
    """
    golden = json.loads(trajectory.read_text())
    exact = Replay(golden, "float64", devices=1, merge_passes=True)
    rounded = Replay(golden, "float32", devices=1, merge_passes=True)
    for s in range(golden["config"]["steps"]):
        rounded.state = jax.tree.map(
            lambda x: x.astype("float32") if x.dtype == "float64" else jnp.copy(x), exact.state
        )
        rounded.check_step(s, rtol=1e-3)
        exact.check_step(s, rtol=1e-9)
    exact.check_final(rtol=1e-9)
    rounded.check_final(rtol=1e-3)


def test_eight_devices(trajectory, float64):
    run(trajectory, devices=8, merge_passes=True, texture=True)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 8])
def test_separate_passes(trajectory, devices, float64):
    run(trajectory, devices, merge_passes=False)


@pytest.mark.slow
@pytest.mark.parametrize("parts", [2, 4])
def test_parts_of_the_queries(trajectory, parts, float64):
    """`optimizer.accumulate`, where the trajectory has the batch-norm groups for it."""
    if json.loads(trajectory.read_text())["processes"] % parts:
        pytest.skip(f"needs a multiple of {parts} processes")
    run(trajectory, devices=1, merge_passes=True, parts=parts)


@pytest.mark.slow
def test_float32_left_alone(trajectory):
    golden = json.loads(trajectory.read_text())
    replay = Replay(golden, "float32", devices=1, merge_passes=True)
    for s, recorded in enumerate(golden["steps"]):
        loss = replay.step(s).loss.mean()
        np.testing.assert_allclose(loss, recorded["loss"], rtol=1e-3 if s < 2 else 1e-2)
