"""ViTs against a plain PyTorch form, and what their settings do."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch_vit

from nsneg_jax import models
from nsneg_jax.errors import UsageError
from nsneg_jax.methods import moco as method
from nsneg_jax.methods.batches import ViewMaker, Views
from nsneg_jax.methods.contrast import InfoNCE
from nsneg_jax.methods.optimizer import OPTIMIZERS, make, sgd
from nsneg_jax.methods.views import V2
from nsneg_jax.models.transformers.tokens import interpolated
from nsneg_jax.models.transformers.vit import ARCHS
from nsneg_jax.parallel import mesh
from nsneg_jax.pytorch.names import from_state_dict, in_torch_order, to_state_dict

pytestmark = pytest.mark.usefixtures("quick_code")

GRID, SIZE, FEATURES, HEADS, BLOCKS, DIM = 3, 4, 12, 3, 2, 8
SMALL = {"arch": "vit_tiny", "width": FEATURES // 3, "token_size": SIZE, "blocks": BLOCKS}


def both(positions="sincos", dim=DIM, **settings):
    """Our network in float64 with random values in every parameter, and PyTorch's with the same."""
    settings = SMALL | {"positions": positions, "position_grid": GRID, "dim": dim} | settings
    encoder, params, stats = models.build(**settings, dtype="float64", seed=1)
    rng = np.random.default_rng(2)
    params, stats = jax.tree.map(lambda x: x + 0.2 * rng.normal(size=x.shape), (params, stats))
    theirs = torch_vit.ViT(FEATURES, HEADS, BLOCKS, SIZE, GRID, dim, positions).double()
    theirs.load(to_state_dict(params, stats))
    return encoder, params, stats, theirs


def images(*shape, seed=0, side=GRID * SIZE):
    return np.random.default_rng(seed).normal(size=(*shape, side, side, 3))


def to_torch(images):
    return torch.from_numpy(np.moveaxis(images, -1, -3).copy())


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "settings",
    [
        {"positions": "sincos"},
        slow({"positions": "learnable", "freeze_tokens": False, "remat": True}),
        slow({"positions": "learnable", "token_pooling": "mean", "freeze_tokens": False}),
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_features_and_gradients_are_pytorchs(settings, float64):
    encoder, params, stats, theirs = both(dim=0, **settings)
    x = images(4)
    values, gradients = jax.jit(
        jax.value_and_grad(lambda p: (encoder.features(p, stats, x) ** 3).sum())
    )(params)

    mean = settings.get("token_pooling") == "mean"
    found = theirs.tokens(to_torch(x))[:, 1:].mean(1) if mean else theirs(to_torch(x))
    loss = (found**3).sum()
    loss.backward()
    np.testing.assert_allclose(values, loss.item(), rtol=1e-9)
    ours = to_state_dict(gradients)
    trained = {name for name, each in theirs.named_parameters() if each.requires_grad}
    frozen = set(to_state_dict(stats))
    assert frozen == set() or frozen == {"patch_embed.proj.weight", "patch_embed.proj.bias"}
    assert set(ours) == trained - frozen
    for name, each in theirs.named_parameters():
        if name in ours:
            scale = each.grad.abs().max().item()
            np.testing.assert_allclose(
                ours[name], each.grad.numpy(), rtol=1e-9, atol=1e-9 * scale, err_msg=name
            )


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 8])
def test_steps_of_moco_are_pytorchs(devices, float64):
    encoder, params, stats, theirs = both()
    batch, keys, rate, momentum, temperature, alpha = 16, 48, 0.5, 0.9, 0.2, 2.0
    moco = method.MoCo(
        encoder=encoder,
        dim=DIM,
        optimizer=sgd(lambda step: rate, momentum=0.9, weight_decay=1e-3),
        learning_rate=lambda step: rate,
        loss=InfoNCE(temperature, (alpha,)),
        views=ViewMaker(
            recipe=V2, patches=1, texture=False, patch_range=(1, 6), dtype="float64", seed=0
        ),
        queue_size=keys,
        momentum=momentum,
        groups=1,
        merge_passes=True,
    )
    fixed = to_state_dict(stats)
    over = mesh.data_mesh(jax.devices()[:devices])
    state = mesh.put(moco.init(params, stats), mesh.replicated(over))

    def update(state, views):
        with jax.sharding.use_abstract_mesh(over.abstract_mesh):
            return method.update(moco, state, views)

    update = jax.jit(update, out_shardings=mesh.replicated(over))
    lagging = both()[3]
    for each in lagging.parameters():
        each.requires_grad_(False)
    for each in theirs.patch_embed.parameters():
        each.requires_grad_(False)
    trained = [each for each in theirs.parameters() if each.requires_grad]
    optimizer = torch.optim.SGD(trained, rate, momentum=0.9, weight_decay=1e-3)
    queue = torch.from_numpy(np.asarray(state.queue).copy())
    for step in range(3):
        query, key, negative = images(3, batch, seed=10 + step)
        views = mesh.put(Views(query, key, negative[:, None]), mesh.split_batch(over))
        state, outputs = update(state, views)
        # Ours writes the oldest rows, theirs the first.
        place = step * batch
        loss, rolled = torch_vit.moco_step(
            theirs,
            lagging,
            torch.roll(queue, -place, 0),
            [to_torch(x) for x in (query, key, negative)],
            alpha=alpha,
            momentum=momentum,
            temperature=temperature,
            optimizer=optimizer,
        )
        queue = torch.roll(rolled, place, 0)
        np.testing.assert_allclose(outputs.loss.mean(), loss, rtol=1e-9)
    np.testing.assert_allclose(state.queue, queue.numpy(), rtol=1e-9, atol=1e-9)
    for network, params in ((theirs, state.params_q), (lagging, state.params_k)):
        arrays = dict(network.named_parameters())
        for name, array in to_state_dict(params).items():
            expected = arrays[name].detach().numpy()
            np.testing.assert_allclose(array, expected, rtol=1e-9, atol=1e-9, err_msg=name)
    for stats in (state.stats_q, state.stats_k):
        jax.tree.map(np.testing.assert_array_equal, to_state_dict(stats), fixed)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_optimiser_holds_the_frozen_projection(name):
    _, params, stats = models.build(**SMALL, dim=0)
    assert set(to_state_dict(stats)) == {"patch_embed.proj.weight", "patch_embed.proj.bias"}
    assert "patch_embed" not in params
    state = make(name, lambda step: 0.1, momentum=0.9, weight_decay=0.5).init(params)
    assert "patch_embed" not in str(jax.tree_util.tree_flatten_with_path(state)[0])
    _, params, stats = models.build(**SMALL, dim=0, freeze_tokens=False)
    assert stats == {} and "patch_embed" in params


@pytest.mark.parametrize("side", [2, 5])
def test_positions_are_interpolated_as_pytorch_does(side, float64):
    positions = np.random.default_rng(0).normal(size=(1, 1 + GRID**2, 4))
    found = interpolated(jnp.asarray(positions), side, side + 1)
    grid = torch.from_numpy(positions[:, 1:]).reshape(1, GRID, GRID, 4).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(grid, (side, side + 1), mode="bicubic")
    expected = expected.permute(0, 2, 3, 1).reshape(-1, 4).numpy()
    np.testing.assert_allclose(found[0, 1:], expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(found[0, 0], positions[0, 0])


@cache
def published(arch):
    """Names and shapes of a published network without its head."""
    factor = ARCHS[arch][0]
    theirs = torch_vit.ViT(64 * factor, ARCHS[arch][1], 12, 16, 14)
    return {name: tuple(each.shape) for name, each in theirs.named_parameters()}


@pytest.mark.parametrize(
    ("arch", "millions"), [slow("vit_tiny", 5.52), ("vit_small", 21.67), slow("vit_base", 85.80)]
)
def test_structure_is_the_published_networks(arch, millions):
    """Names, order and shapes are timm's, and so is the number of parameters."""
    _, params, stats = models.structure(arch, dim=0, positions="learnable")
    zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), (params, stats))
    found = {name: array.shape for name, array in to_state_dict(*zeros).items()}
    expected = published(arch)
    assert found == expected and in_torch_order(found) == list(expected)
    count = sum(np.prod(shape) for shape in expected.values()) / 1e6
    assert count == pytest.approx(millions, abs=0.005)


def test_initial_values():
    """Uniform by Xavier's rule with q, k and v apart; a class token of almost nothing."""
    _, params, stats = models.build("vit_small", blocks=1, dim=16, mlp=False, seed=3)
    arrays = to_state_dict(params, stats)
    for name, (inputs, outputs) in {
        "blocks.0.attn.qkv.weight": (384, 384),
        "blocks.0.attn.proj.weight": (384, 384),
        "blocks.0.mlp.fc1.weight": (384, 1536),
        "blocks.0.mlp.fc2.weight": (1536, 384),
        "patch_embed.proj.weight": (768, 384),
    }.items():
        bound = (6 / (inputs + outputs)) ** 0.5
        assert 0.99 * bound < np.abs(arrays[name]).max() <= bound, name
        assert arrays[name].std() == pytest.approx(bound / 3**0.5, rel=0.02), name
    assert 0 < np.abs(arrays["cls_token"]).max() < 1e-5
    assert not arrays["blocks.0.mlp.fc1.bias"].any()
    again = to_state_dict(*models.build("vit_small", blocks=1, dim=16, mlp=False, seed=3)[1:])
    assert all((again[name] == array).all() for name, array in arrays.items())
    tree = from_state_dict(arrays, params)
    jax.tree.map(np.testing.assert_array_equal, tree, params)


@pytest.mark.slow
def test_float32_and_bfloat16_agree_with_float64(float64):
    encoder, params, stats, _ = both()
    x = images(4)
    exact, _ = jax.jit(lambda *given: encoder(*given, None))(params, stats, x)
    for dtype, error in (("float32", 2e-5), ("bfloat16", 0.1)):
        encoder, like, _ = models.structure(**SMALL, dim=DIM, position_grid=GRID, dtype=dtype)
        narrow = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (params, stats))
        assert {leaf.dtype for leaf in jax.tree.leaves(like)} == {np.dtype("float32")}

        def loss(params, encoder=encoder, stats=narrow[1], dtype=dtype):
            y = encoder(params, stats, jnp.asarray(x, dtype), None)[0]
            return (y.astype(jnp.float32) ** 2).sum(), y

        gradients, y = jax.jit(jax.grad(loss, has_aux=True))(narrow[0])
        assert y.dtype == dtype
        assert {leaf.dtype for leaf in jax.tree.leaves(gradients)} == {np.dtype("float32")}
        difference = np.abs(np.asarray(y, np.float64) - exact).max() / np.abs(exact).max()
        assert 0 < difference < error, dtype


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"attention_heads": 5}, "5"),
        ({"width": 2}, "sincos"),
        ({"positions": "sinus"}, "sinus"),
        ({"token_pooling": "max"}, "max"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, named):
    with pytest.raises(UsageError, match=named):
        models.structure(**SMALL | settings)


def test_images_that_tokens_do_not_tile_are_refused():
    encoder, params, stats = models.structure(**SMALL, dim=0)
    with pytest.raises(UsageError, match="18 x 18"):
        jax.eval_shape(encoder.features, params, stats, images(1, side=18))


def test_frozen_values_are_no_statistics():
    assert models.has_batch_norm("resnet8", width=4)
    assert not models.has_batch_norm(**SMALL)
