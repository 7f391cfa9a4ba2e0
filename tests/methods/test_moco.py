"""Pieces of the method that the golden trajectories do not show one by one."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_config

from configs import texture
from nsneg_jax.jobs.build import build
from nsneg_jax.methods import moco, shuffling
from nsneg_jax.parallel import mesh
from nsneg_jax.training.step import compile_step

pytestmark = pytest.mark.usefixtures("quick_code")


@pytest.fixture(scope="module")
def crops():
    crops = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 16, 3), np.uint8)
    return {"query": crops[0], "key": crops[1]}


def assert_close(a, b, tolerance):
    close = partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance)
    jax.tree.map(close, jax.device_get(a), jax.device_get(b))


@pytest.mark.parametrize("batch", [4, 6, 7, 24])
def test_queue_is_a_ring(batch):
    """Against a plain loop; 24 rows, so that 7 does not divide them and 24 fills them."""
    queue = np.full((24, 2), -1.0, np.float32)
    ours = jnp.asarray(queue)
    place = 0
    for step in range(9):
        keys = np.random.default_rng(step).normal(size=(batch, 2)).astype(np.float32)
        assert moco.queue_pointer(jnp.int32(step), batch, 24) == place
        ours = moco.enqueue(ours, jnp.asarray(keys), jnp.int32(step))
        for key in keys:
            queue[place] = key
            place = (place + 1) % 24
        np.testing.assert_array_equal(ours, queue)


def test_queue_pointer_does_not_overflow():
    step = 2**31 - 5
    assert moco.queue_pointer(jnp.int32(step), 4096, 65536) == step * 4096 % 65536
    assert moco.queue_pointer(jnp.int32(step), 500, 16384) == step * 500 % 16384


def test_each_kind_of_negatives_has_its_weight():
    settings = {"negatives.kind": "patch+texture", "negatives.num": 2, "negatives.alpha": 3.0}
    method, _ = build(tiny_config(texture, **settings, **{"negatives.texture_alpha": 0.5}), 5)
    assert method.loss.alphas == (3, 3, 0.5)
    assert method.views.patches == 2 and method.views.texture
    method, _ = build(tiny_config(texture, **settings), 5)
    assert method.loss.alphas == (3, 3, 3)


def test_merged_and_separate_passes_agree(crops, float64):
    config = tiny_config(**{"model.dtype": "float64", "negatives.num": 2})
    method, state = build(config, 5)
    merged, separate = (
        jax.jit(partial(moco.train_step, replace(method, merge_passes=merge)))(state, crops)
        for merge in (True, False)
    )
    assert_close(merged, separate, 1e-11)


def test_key_encoder_gets_no_gradient_and_negatives_no_place_in_the_queue(crops):
    method, state = build(tiny_config(), 5)
    state, _ = jax.jit(partial(moco.train_step, method))(state, crops)
    start = build(tiny_config(), 5)[1]
    # the query encoder was the same before the step: m k + (1 - m) q is k up to rounding
    assert_close(state.params_k, start.params_k, 1e-6)
    rows = np.flatnonzero((np.asarray(state.queue) != np.asarray(start.queue)).any(axis=1))
    np.testing.assert_array_equal(rows, np.arange(16))
    np.testing.assert_allclose(np.linalg.norm(state.queue, axis=1), 1, rtol=1e-5)


def test_permuted_views_are_the_same_views(crops):
    """Shuffling moves crops with their draws: un-permuted, nothing has changed."""
    method, _ = build(tiny_config(**{"negatives.num": 2}), 5)
    permutations = method.views.draw_orders(jnp.int32(3), 16)
    for row in np.asarray(permutations):
        np.testing.assert_array_equal(np.sort(row), np.arange(16))
    make = jax.jit(method.views)
    arranged = shuffling.arrange(crops, permutations, texture=False)
    plain, shuffled = make(jnp.int32(3), crops), make(jnp.int32(3), arranged, permutations)
    np.testing.assert_array_equal(plain.query, shuffled.query)
    np.testing.assert_allclose(plain.key[permutations[0]], shuffled.key, atol=1e-5)
    for m in range(2):
        moved = plain.negatives[permutations[1 + m], m]
        np.testing.assert_allclose(moved, shuffled.negatives[:, m], atol=1e-5)


def test_step_draws_anew(crops):
    method, _ = build(tiny_config(), 5)
    make = jax.jit(method.views)
    first, again, second = make(jnp.int32(0), crops), make(jnp.int32(0), crops), make(1, crops)
    np.testing.assert_array_equal(first.negatives, again.negatives)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        # a key view may be left as it is by both draws
        assert (np.asarray(a) != np.asarray(b)).any(axis=(-1, -2, -3)).mean() > 0.8


def test_bfloat16_keeps_the_state_in_float32(crops):
    method, state = build(tiny_config(**{"model.dtype": "bfloat16"}), 5)
    devices = mesh.data_mesh()
    state, metrics = compile_step(method, devices)(
        jax.device_put(state, mesh.replicated(devices)), crops
    )
    for leaf in jax.tree.leaves((state, metrics)):
        assert leaf.dtype in ("float32", "int32")
    assert np.isfinite(metrics["loss"])
