"""BYOL, SimCLR and MoCo-v3 against plain PyTorch, and what is theirs in a run."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from siamese_torch import Reference, SymmetricMoCo, entries_of
from tiny import PLAIN, tiny_config

from configs import byol, mocov3, patch, simclr
from nsneg_jax.errors import UsageError
from nsneg_jax.jobs.build import build
from nsneg_jax.jobs.pretraining.validation import validate_pretraining
from nsneg_jax.methods.batches import Views
from nsneg_jax.methods.siamese import symmetric_moco
from nsneg_jax.methods.siamese.method import metrics_of, update
from nsneg_jax.methods.siamese.momentum import cosine
from nsneg_jax.parallel import mesh
from nsneg_jax.pytorch.names import to_state_dict

pytestmark = pytest.mark.usefixtures("quick_code")

N, SIZE, STEPS_PER_EPOCH, FEATURES = 16, 16, 5, 16
RECIPES = {"byol": byol, "simclr": simclr, "mocov3": mocov3, "moco": patch}


def config_of(method, **values):
    """The smallest network that PyTorch's form has too, in float64."""
    own = {
        "model.stem": "imagenet",
        "model.bn_groups": 1,
        "model.dtype": "float64",
        "model.head_hidden": 24 if method != "simclr" else 0,
        "negatives.num": 1,
    }
    return tiny_config(RECIPES[method], **own | values)


def drawn(step, negatives):
    """Both views [2, N, S, S, 3], and the negatives of each [2, N, M, S, S, 3]."""
    rng = np.random.default_rng(step)
    shape = (N, SIZE, SIZE, 3)
    return rng.normal(size=(2, *shape)), rng.normal(size=(2, N, negatives, *shape[1:]))


def of_torch(images):
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, 1)))


def assert_equal_networks(entries, network):
    """Compares parameters and statistics with PyTorch's, by entry."""
    theirs = network.state_dict()
    for name, array in entries.items():
        atol = 1e-9 * max(1e-3, np.abs(array).max())
        np.testing.assert_allclose(array, theirs[name].numpy(), rtol=0, atol=atol, err_msg=name)


def replayed(config, devices, steps=3):
    """Steps of ours beside PyTorch's; returns our last state and metrics."""
    if len(jax.devices()) < devices:
        pytest.skip(f"needs {devices} devices")
    method, state = build(config, STEPS_PER_EPOCH)
    reference = Reference(config, jax.device_get(state), FEATURES)
    split = mesh.data_mesh(jax.devices()[:devices])
    state = mesh.put(state, mesh.replicated(split))

    @partial(jax.jit, out_shardings=mesh.replicated(split))
    def step(state, views):
        with jax.sharding.use_abstract_mesh(split.abstract_mesh):
            state, outputs = update(method, state, views)
            return state, metrics_of(method, outputs)

    for number in range(steps):
        images, negatives = drawn(number, config.negatives.num)
        lr = float(method.learning_rate(number))
        theirs = reference.step(
            [of_torch(view) for view in images],
            [[of_torch(of_view[:, m]) for m in range(config.negatives.num)]
             for of_view in negatives],
            lr,
        )  # fmt: skip
        views = Views(images[0], images[1], negatives[0], negatives[1])
        views = mesh.put(jax.tree.map(jnp.asarray, views), mesh.split_batch(split))
        state, metrics = step(state, views)
        np.testing.assert_allclose(metrics["loss"], theirs, rtol=1e-9)
        ours = jax.device_get(state)
        assert_equal_networks(to_state_dict(ours.params_q, ours.stats_q), reference.encoder)
        if reference.predictor is not None:
            assert_equal_networks(entries_of(ours.params_p, ours.stats_p), reference.predictor)
    if method.momentum is not None:
        if config.method == "mocov3":  # ours has already followed for the next step
            reference.follow(reference.step_number)
        assert_equal_networks(to_state_dict(ours.params_k, ours.stats_k), reference.target)
    return jax.device_get(state), jax.device_get(metrics)


@pytest.mark.usefixtures("float64")
def test_byol_is_pytorch_s():
    _, metrics = replayed(config_of("byol"), 1)
    assert "accuracy_top1" not in metrics and "negative_similarity" not in metrics
    assert {"nonsemantic_similarity", "positive_similarity", "embedding_std"} <= metrics.keys()


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("devices", [1, 8])
def test_an_anchor_is_a_term_of_pytorch_s_loss(devices):
    """Of the loss that has a gradient: the figure in the metrics is without it."""
    values = {"optimizer.anchor": 2.0, "negatives.kind": "none", "negatives.num": 0}
    held, _ = replayed(config_of("byol", **values), devices)
    began = build(config_of("byol"), STEPS_PER_EPOCH)[1]
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), held.params_q, began.params_q)
    assert all(leaf > 0 for leaf in jax.tree.leaves(moved))


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize(
    ("method", "values"),
    [
        *((method, {"optimizer.anchor": 2.0}) for method in ("byol", "simclr", "mocov3")),
        ("byol", {"negatives.num": 3, "negatives.alpha": 0.2}),
        ("byol", {"siamese.merge_passes": False}),
        ("byol", {"negatives.kind": "none", "negatives.num": 0, "negatives.alpha": 0.0}),
        ("simclr", {}),
        ("simclr", {"negatives.num": 2, "siamese.negative_gradient": True}),
        ("simclr", {"siamese.merge_passes": False}),
        ("simclr", {"negatives.kind": "none", "negatives.num": 0, "negatives.alpha": 0.0}),
        ("mocov3", {}),
        ("mocov3", {"model.head": "mocov3_vit", "negatives.num": 2}),
        ("mocov3", {"siamese.merge_passes": False}),
        ("mocov3", {"negatives.kind": "none", "negatives.num": 0, "negatives.alpha": 0.0}),
    ],
)
def test_each_method_is_pytorch_s(method, values, devices):
    _, metrics = replayed(config_of(method, **values), devices)
    if method != "byol":
        assert 0 <= metrics["accuracy_top1"] <= metrics["accuracy_top5"] <= 100


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("anchor", [0.0, 2.0])
def test_symmetric_moco_is_pytorch_s(anchor, devices):
    values = {"moco.symmetric": True, "model.head_hidden": 0, "negatives.num": 2}
    values |= {"optimizer.anchor": anchor}
    config = config_of("moco", **values)
    method, state = build(config, STEPS_PER_EPOCH)
    reference = SymmetricMoCo(config, jax.device_get(state))
    split = mesh.data_mesh(jax.devices()[:devices])
    state = mesh.put(state, mesh.replicated(split))

    @partial(jax.jit, out_shardings=mesh.replicated(split))
    def step(state, directions):
        with jax.sharding.use_abstract_mesh(split.abstract_mesh):
            return symmetric_moco.update(method, state, directions)

    for number in range(3):
        images, negatives = drawn(number, 2)
        theirs = reference.step(
            [of_torch(view) for view in images],
            [[of_torch(of_view[:, m]) for m in range(2)] for of_view in negatives],
            float(method.learning_rate(number)),
        )
        directions = (
            (Views(images[0], images[1], negatives[0]), None),
            (Views(images[1], images[0], negatives[1]), None),
        )
        directions = mesh.put(jax.tree.map(jnp.asarray, directions), mesh.split_batch(split))
        state, outputs = step(state, directions)
        np.testing.assert_allclose(outputs.loss.mean(), theirs, rtol=1e-9)
        ours = jax.device_get(state)
        np.testing.assert_allclose(ours.queue, reference.queue.numpy(), atol=1e-9)
        assert_equal_networks(to_state_dict(ours.params_q, ours.stats_q), reference.encoder)
        assert_equal_networks(to_state_dict(ours.params_k, ours.stats_k), reference.target)


def test_momentum_rises_to_1():
    by_step = cosine(0.9, 20)
    np.testing.assert_allclose(
        [by_step(s) for s in (0, 10, 20, 25)], [0.9, 0.95, 1.0, 1.0], rtol=1e-6
    )
    assert cosine(0.9, 20, ahead=1)(4) == by_step(5)


@pytest.mark.slow
def test_negatives_of_the_key_view_are_made_of_it():
    method, _ = build(tiny_config(byol, **PLAIN | {"model.dtype": "float32"}), STEPS_PER_EPOCH)
    crops = np.random.default_rng(0).integers(0, 256, (2, 4, SIZE, SIZE, 3), np.uint8)
    batch = {"query": jnp.asarray(crops[0]), "key": jnp.asarray(crops[1])}
    views = method.views(0, batch)
    plain = replace(method.views, of_both=False)(0, batch)
    assert plain.key_negatives is None
    for name in ("query", "key", "negatives"):
        np.testing.assert_array_equal(getattr(views, name), getattr(plain, name))
    for view, negatives in ((views.query, views.negatives), (views.key, views.key_negatives)):
        colours = np.asarray(view).reshape(4, -1, 3)
        made = np.asarray(negatives).reshape(4, -1, 3)
        for i in range(4):
            assert {*map(tuple, made[i])} <= {*map(tuple, colours[i])}
    batch = {"query": batch["key"], "key": batch["query"]}
    swapped = method.views(0, batch, swapped=True)
    np.testing.assert_array_equal(swapped.query, views.key)
    np.testing.assert_array_equal(swapped.key, views.query)
    np.testing.assert_array_equal(swapped.negatives, views.key_negatives)
    assert (np.asarray(method.views(0, batch).negatives) != np.asarray(swapped.negatives)).any()


def test_weights_of_byol_s_negatives_stay_below_1():
    validate_pretraining(config_of("byol", **{"negatives.alpha": 0.99}), 1)
    for values in (
        {"negatives.alpha": 1.0},
        {"negatives.alpha": 0.5, "negatives.num": 2},
        {"negatives.kind": "patch+texture", "negatives.texture_source": "made"},
    ):
        with pytest.raises(UsageError, match=r"negatives\.alpha"):
            validate_pretraining(config_of("byol", **values), 1)
    validate_pretraining(config_of("simclr", **{"negatives.alpha": 2.0}), 1)


@pytest.mark.parametrize(("method", "choices"), [("byol", 0), ("simclr", 32), ("mocov3", 17)])
def test_choices_of_the_contrast_task(method, choices):
    built, _ = build(config_of(method, **{"model.dtype": "float32"}), STEPS_PER_EPOCH)
    assert built.choices(16) == choices
