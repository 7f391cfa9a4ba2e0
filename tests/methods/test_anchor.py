"""The pull to the starting weights beside plain NumPy, with each optimiser, whole and split."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nsneg_jax.methods import optimizer
from nsneg_jax.models.encoder import HEAD
from nsneg_jax.parallel import mesh

pytestmark = pytest.mark.usefixtures("quick_code")

ANCHOR, RATE, MOMENTUM, DECAY, STEPS = 0.4, 0.1, 0.9, 0.01, 5
SHAPES = {"conv.kernel": (16, 6), "conv.bias": (6,), "fc.kernel": (6, 8)}


def drawn(seed):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape) for name, shape in SHAPES.items()}


def tree_of(flat):
    tree = {}
    for name, leaf in flat.items():
        section, _, entry = name.partition(".")
        tree.setdefault(section, {})[entry] = leaf
    return tree


def slope(params, step):
    """The gradient of some loss, which has nothing of an anchor."""
    return {name: np.sin(leaf + step) for name, leaf in params.items()}


def in_numpy(name):
    """Parameters after each step, of the loss with half the squared distance as a term."""
    params, start = drawn(0), drawn(0)
    first = {each: np.zeros(shape) for each, shape in SHAPES.items()}
    second = {each: np.zeros(shape) for each, shape in SHAPES.items()}
    for step in range(STEPS):
        gradients = slope(params, step)
        for each, leaf in params.items():
            gradient = gradients[each]
            if not each.startswith(HEAD):
                gradient = gradient + ANCHOR * (leaf - start[each])
            decay = DECAY if name == "sgd" or leaf.ndim > 1 else 0
            if name == "adamw":
                first[each] = MOMENTUM * first[each] + (1 - MOMENTUM) * gradient
                second[each] = 0.999 * second[each] + 0.001 * gradient**2
                mean = first[each] / (1 - MOMENTUM ** (step + 1))
                square = second[each] / (1 - 0.999 ** (step + 1))
                change = mean / (np.sqrt(square) + 1e-8) + decay * leaf
                params[each] = leaf - RATE * change
                continue
            gradient = gradient + decay * leaf
            scale = RATE if name == "lars" else 1
            if name == "lars" and leaf.ndim > 1:
                scale *= 0.001 * np.linalg.norm(leaf) / np.linalg.norm(gradient)
            first[each] = MOMENTUM * first[each] + scale * gradient
            params[each] = leaf - (1 if name == "lars" else RATE) * first[each]
        yield dict(params)


def ours(name, devices, *, with_predictor, split):
    """The same by the package: parameters alone or before a predictor's, the state split or not."""
    made = optimizer.make(
        name, optax.constant_schedule(RATE), momentum=MOMENTUM, weight_decay=DECAY
    )
    made = optimizer.anchored(made, ANCHOR)
    on = mesh.data_mesh(jax.devices()[:devices])
    params = jax.tree.map(jnp.asarray, tree_of(drawn(0)))
    trained = (params, {"fc": {"bias": jnp.ones(3)}}) if with_predictor else params
    whole, state = mesh.replicated(on), made.init(trained)
    if split:
        places = jax.tree.map(lambda leaf: mesh.split_longest(on, leaf.shape), state)
    else:
        places = jax.tree.map(lambda leaf: whole, state)
    trained, state = mesh.put(trained, whole), mesh.put(state, places)

    @functools.partial(jax.jit, out_shardings=(whole, places), donate_argnums=(0, 1))
    def step(trained, state, number):
        gradients = jax.tree.map(lambda leaf: jnp.sin(leaf + number), trained)
        updates, state = made.update(gradients, state, trained)
        return optax.apply_updates(trained, updates), state

    for number in range(STEPS):
        trained, state = step(trained, state, number)
        yield jax.device_get(trained), state


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("devices", "split"), [(1, False), (8, False), (8, True)])
@pytest.mark.parametrize("with_predictor", [False, True])
@pytest.mark.parametrize("name", ["sgd", "adamw", "lars"])
def test_each_optimiser_is_numpys(name, with_predictor, devices, split):
    found = ours(name, devices, with_predictor=with_predictor, split=split)
    for expected, (trained, _) in zip(in_numpy(name), found, strict=True):
        params = trained[0] if with_predictor else trained
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12),
            params,
            tree_of(expected),
        )


@pytest.mark.usefixtures("float64")
def test_devices_share_the_start():
    *_, (_, state) = ours("sgd", 8, with_predictor=True, split=True)
    assert state.start.keys() == {"conv"}
    kernel = state.start["conv"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (2, 6)
    np.testing.assert_array_equal(kernel, drawn(0)["conv.kernel"])


def test_a_predictor_and_its_head_are_free():
    made = optimizer.anchored(optax.sgd(1.0), 0.5)
    params = (
        {"conv": jnp.zeros(2), HEAD: jnp.zeros(2)},
        {HEAD: jnp.zeros(2), "conv": jnp.zeros(2)},
    )
    state = made.init(params)
    moved = jax.tree.map(lambda leaf: leaf + 2, params)
    nothing = jax.tree.map(jnp.zeros_like, params)
    (encoder, predictor), _ = made.update(nothing, state, moved)
    np.testing.assert_array_equal(encoder["conv"], [-1, -1])
    for free in (encoder[HEAD], predictor[HEAD], predictor["conv"]):
        np.testing.assert_array_equal(free, 0)
