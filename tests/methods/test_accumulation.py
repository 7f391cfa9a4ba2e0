"""Gradients summed over parts of a batch: the step of the whole batch, in less memory."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import PLAIN, tiny_config

from configs import byol, mocov3, patch, simclr
from nsneg_jax.errors import UsageError
from nsneg_jax.jobs.build import METHODS, build, build_moco
from nsneg_jax.jobs.fields.memory import check_memory
from nsneg_jax.jobs.pretraining.validation import validate_pretraining
from nsneg_jax.methods import shuffling
from nsneg_jax.methods.accumulation import Parts, gradient
from nsneg_jax.parallel import mesh
from nsneg_jax.training.step import compile_step

pytestmark = pytest.mark.usefixtures("quick_code")

N, SIZE, STEPS = 32, 16, 3
VIT = {
    "model.arch": "vit_tiny",
    "model.width": 4,
    "model.blocks": 2,
    "model.token_size": 8,
    "model.position_grid": 2,
}
CASES = {
    "moco": (patch, {"negatives.num": 2}),
    "mean": (patch, {"model.bn_running": "mean"}),
    "ifm and mochi": (
        patch,
        {
            "loss.name": "ifm",
            "loss.epsilon": 0.1,
            "mochi.hardest": 16,
            "mochi.pairs": 5,
            "mochi.with_query": 3,
            "mochi.warmup_epochs": 0,
        },
    ),
    "more, apart": (patch, {"moco.merge_passes": False, "negatives.more": "low_frequency@1"}),
    "symmetric": (patch, {"moco.symmetric": True}),
    "symmetric mean": (patch, {"moco.symmetric": True, "model.bn_running": "mean"}),
    "byol": (byol, {"model.head_hidden": 24}),
    "mocov3": (mocov3, {"model.head_hidden": 24, "model.bn_running": "mean"}),
    "mocov3 vit": (mocov3, {"model.head_hidden": 24, "model.head": "mocov3_vit", **VIT}),
    "vit": (patch, {**VIT, "model.freeze_tokens": True}),
    "remat": (patch, {"model.remat": True}),
}
FAST = {("moco", 8, 2), ("byol", 1, 2)}
RUNS = [
    pytest.param(*run, marks=[] if run in FAST else [pytest.mark.slow])
    for name in CASES
    for run in ((name, 1, 2), (name, 1, 4), (name, 8, 2))
]


def config_of(name, **values):
    recipe, own = CASES[name]
    # The heads' batch norm of two values is so steep that rounding grows to 1e-9 in two steps.
    size = N if recipe is patch else 2 * N
    common = {"batch_size": size, "model.bn_groups": 16, "moco.queue_size": 72}
    return tiny_config(recipe, **PLAIN | common | own | values)


def batch_of(step, n):
    crops = np.random.default_rng(step).integers(0, 256, (2, n, SIZE, SIZE, 3), np.uint8)
    return {"query": crops[0], "key": crops[1]}


def run(config, devices):
    """Several steps; returns the states and metrics of all of them."""
    if len(jax.devices()) < devices:
        pytest.skip(f"needs {devices} devices")
    validate_pretraining(config, devices)
    split = mesh.data_mesh(jax.devices()[:devices])
    method, state = build(config, 5)
    state = mesh.put(state, mesh.replicated(split))
    step, found = compile_step(method, split), []
    for number in range(STEPS):
        batch = jax.device_put(batch_of(number, config.batch_size), mesh.split_batch(split))
        state, metrics = step(state, batch)
        found.append(jax.device_get((state, metrics)))
    return found


_whole = {}


def undivided(name, devices):
    if (name, devices) not in _whole:
        _whole[name, devices] = run(config_of(name), devices)
    return _whole[name, devices]


def assert_close(ours, theirs):
    close = partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9)
    jax.tree.map(close, ours, theirs)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("name", "devices", "parts"), RUNS)
def test_parts_take_the_step_of_the_whole_batch(name, devices, parts):
    """Parameters, statistics, queue, optimiser and metrics, after each step."""
    theirs = undivided(name, devices)
    ours = run(config_of(name, **{"optimizer.accumulate": parts}), devices)
    assert_close(ours, theirs)
    before, after = theirs[0][0].params_q, theirs[-1][0].params_q
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), before, after)
    assert max(jax.tree.leaves(moved)) > 1e-4


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_a_split_queue_and_optimizer():
    values = {"moco.shard_queue": True, "optimizer.shard": True, "optimizer.accumulate": 2}
    assert_close(run(config_of("moco", **values), 8), undivided("moco", 8))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("running", ["first", "mean"])
def test_the_gradient_is_the_mean_over_parts(running):
    """Against the plain mean of the gradients of rows 0-2, 3-5, ..., by hand."""
    rng = np.random.default_rng(0)
    x, w = jnp.asarray(rng.normal(size=(12, 5))), jnp.asarray(rng.normal(size=5))
    before = {"seen": jnp.asarray(0.3), "fixed": jnp.asarray(rng.normal(size=7))}

    def loss_fn(w, stats, rows):
        # on one device the copies have one row
        y = jnp.tanh(rows @ w[0])
        seen = stats["seen"] * 0.9 + 0.1 * y.mean()
        return (y**2).mean(), ({"seen": seen, "fixed": stats["fixed"]}, y)

    got, (stats, results) = gradient(loss_fn, w, before, x, Parts(4, running))
    y = np.tanh(x @ w)
    np.testing.assert_allclose(got, (2 * y * (1 - y**2)) @ x / 12, rtol=1e-12)
    np.testing.assert_allclose(results, y, rtol=1e-12)
    new = y[:3] if running == "first" else y
    np.testing.assert_allclose(stats["seen"], 0.27 + 0.1 * new.mean(), rtol=1e-12)
    np.testing.assert_array_equal(stats["fixed"], before["fixed"])


def test_parts_have_rows_of_every_device():
    if len(jax.devices()) < 4:
        pytest.skip("needs 4 devices")
    split = mesh.data_mesh(jax.devices()[:4])
    with jax.sharding.use_abstract_mesh(split.abstract_mesh):
        parts = shuffling.parts(np.arange(24), 3)
        np.testing.assert_array_equal(shuffling.joined(parts), np.arange(24))
        both = jnp.concatenate([parts, 100 + parts], axis=1)
        first, second = np.split(shuffling.joined(both, 2), 2)
    np.testing.assert_array_equal(first, np.arange(24))
    np.testing.assert_array_equal(second, 100 + np.arange(24))
    np.testing.assert_array_equal(parts[1], [2, 3, 8, 9, 14, 15, 20, 21])


@pytest.mark.parametrize("name", ["moco", "symmetric", "byol"])
def test_similarities_need_no_parts(name):
    """So that a run of 4 parts on one device can be looked at on eight."""
    devices = mesh.data_mesh()
    if devices.size < 8:
        pytest.skip("needs 8 devices")
    values = {"model.dtype": "float32", "optimizer.accumulate": 4}
    config = config_of(name, **values)
    method, state = build(config, 5)
    batch = batch_of(0, config.batch_size)

    def found(state, batch):
        with jax.sharding.use_abstract_mesh(devices.abstract_mesh):
            return method.similarities(state, batch)

    sides = 1 if name == "moco" else 2
    assert jax.eval_shape(found, state, batch).positive.shape == (sides * config.batch_size,)
    split = partial(method.step, state, batch)
    refused = pytest.raises(ValueError, match="16 batch-norm groups are not shared evenly by 32")
    with jax.sharding.use_abstract_mesh(devices.abstract_mesh), refused:
        jax.eval_shape(split)


def refused(text, devices=1, recipe=patch, **values):
    with pytest.raises(UsageError) as error:
        validate_pretraining(tiny_config(recipe, **values), devices)
    message = str(error.value)
    assert message.startswith("optimizer.accumulate is ") and text in message, message
    assert "--config.optimizer.accumulate=VALUE" in message


def test_parts_that_are_not_the_step_are_refused():
    four = {"optimizer.accumulate": 4, "batch_size": 64}
    refused("one of 1, 2, 3, 6:", **four | {"model.bn_groups": 6, "batch_size": 96})
    refused("must be 1: a part has whole", **four | {"model.bn_groups": 1})
    refused("one of 1, 2:", 8, **four | {"model.bn_groups": 16})
    refused("a multiple of 8", 8, **four | {"model.bn_groups": 4})
    refused("a multiple of 8", 8, **four | {"model.bn_groups": 4, "optimizer.accumulate": 2})
    refused("both sides of every pair", recipe=simclr, **four)
    # the predictor has batch norm, whatever the encoder has
    refused("one of 1, 2:", recipe=mocov3, **four | VIT)
    refused("one of 1, 2, 4, 8, 16, ", **four | VIT | {"optimizer.accumulate": 3})
    refused("one of 1, 2, 4, 8:", 8, **four | VIT | {"optimizer.accumulate": 16})


def test_parts_that_are_the_step_are_accepted():
    four = {"optimizer.accumulate": 4, "batch_size": 64}
    for devices, values in (
        (1, {"model.bn_groups": 4}),
        (2, {"model.bn_groups": 8}),
        (8, {"model.bn_groups": 32}),
        (8, {**VIT, "model.bn_groups": 1}),
    ):
        validate_pretraining(tiny_config(**four | values), devices)
    validate_pretraining(tiny_config(byol, **four | {"model.bn_groups": 4}), 1)


def test_a_method_of_ones_own_is_refused(monkeypatch):
    monkeypatch.setitem(METHODS, "own", build_moco)
    refused("only 'moco', 'byol', 'mocov3' divide", **{"method": "own", "optimizer.accumulate": 2})


def compiled_memory(parts):
    """Temporary memory of a step of large activations on one device, bytes."""
    values = {"data.image_size": 32, "model.width": 16, "model.stem": "imagenet"}
    config = tiny_config(
        **values,
        **{"batch_size": 128, "moco.queue_size": 128, "model.bn_groups": 8},
        **{"views.jitter_probability": 0.0, "views.grayscale_probability": 0.0},
        **{"moco.merge_passes": False, "optimizer.accumulate": parts},
    )
    method, state = build(config, 5)
    devices = mesh.data_mesh(jax.devices()[:1])
    batch = jax.ShapeDtypeStruct((128, 32, 32, 3), jnp.uint8)
    lowered = compile_step(method, devices).lower(state, {"query": batch, "key": batch})
    return lowered.compile().memory_analysis().temp_size_in_bytes


@pytest.mark.slow
def test_memory_falls_with_the_parts():
    whole, half, quarter = map(compiled_memory, (1, 2, 4))
    assert half < 0.75 * whole and quarter < 0.6 * whole


def test_the_bound_of_memory_knows_parts(monkeypatch):
    values = {"batch_size": 4096, "model.bn_groups": 8, "data.image_size": 64}
    configs = [
        tiny_config(**values, **{"model.width": 256, "optimizer.accumulate": parts})
        for parts in (1, 8)
    ]
    devices = mesh.data_mesh(jax.devices()[:1])
    monkeypatch.setattr("nsneg_jax.jobs.fields.memory.host_memory", lambda: 4 * 2**30)
    with pytest.raises(UsageError, match="batch_size"):
        check_memory(configs[0], devices)
    check_memory(configs[1], devices)
