"""The encoder: torchvision's features, shapes, initial values."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_draws import draw, draw_tree
from ml_collections import ConfigDict

from nsneg_jax import models
from nsneg_jax.models.resnet import ARCHS
from nsneg_jax.pytorch.names import from_state_dict, to_state_dict

GOLDEN = Path(__file__).parents[1] / "golden"


def model(**values) -> ConfigDict:
    config = {
        "arch": "resnet18",
        "dim": 128,
        "mlp": True,
        "width": 64,
        "stem": "imagenet",
        "bn_running": "first",
        "dtype": "float32",
    }
    return ConfigDict(config | values)


def golden_features(arch: str, dtype: str) -> np.ndarray:
    encoder, params, stats = models.build(**model(arch=arch, dtype=dtype), seed=1)
    params, stats = (draw_tree(f"{arch}.", tree) for tree in (params, stats))
    images = draw(f"{arch}.images", (2, 3, 224, 224)).transpose(0, 2, 3, 1).astype(dtype)
    return np.asarray(jax.jit(encoder.features)(params, stats, images))


def check_features(features: np.ndarray, arch: str, rtol: float):
    recorded = json.loads((GOLDEN / "resnet_features.json").read_text())[arch]
    np.testing.assert_allclose(features[:, :16], recorded["features_first_16"], rtol=rtol)
    np.testing.assert_allclose(features.mean(axis=1), recorded["features_mean"], rtol=rtol)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), recorded["features_l2"], rtol=rtol)


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_features_float64(arch, float64):
    check_features(golden_features(arch, "float64"), arch, rtol=1e-10)


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_features_float32(arch):
    check_features(golden_features(arch, "float32"), arch, rtol=1e-4)


@pytest.mark.parametrize(
    ("arch", "millions"),
    [("resnet18", 11.17), ("resnet34", 21.28), ("resnet50", 23.5), ("resnet101", 42.5)],
)
def test_size_of_backbone(arch, millions):
    """Parameters without `fc`, as torchvision's."""
    _, params, _ = models.build(**model(arch=arch), seed=0)
    del params["fc"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6 == pytest.approx(
        millions, abs=0.01
    )


@pytest.mark.parametrize(
    ("stem", "stage_side"), [("imagenet", 8), ("small", 32), ("small_stride2", 16)]
)
def test_stems(stem, stage_side):
    encoder, params, stats = models.build(**model(arch="resnet8", width=8, stem=stem), seed=0)
    images = np.zeros((2, 32, 32, 3), np.float32)
    assert encoder.features(params, stats, images).shape == (2, 32)
    # the first stage's activations appear in the program's shapes
    jaxpr = str(jax.make_jaxpr(encoder.features)(params, stats, images))
    assert f"f32[2,{stage_side},{stage_side},8]" in jaxpr


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("mlp", [True, False])
def test_torch_names_round_trip(arch, mlp):
    _, params, stats = models.build(**model(arch=arch, width=8, mlp=mlp), seed=0)
    state_dict = to_state_dict(params, stats)
    for tree in (params, stats):
        jax.tree.map(np.testing.assert_array_equal, from_state_dict(state_dict, tree), tree)
    assert "layer1.0.conv1.weight" in state_dict
    assert ("fc.2.bias" if mlp else "fc.bias") in state_dict


def test_official_layout():
    """The names and shapes of an official checkpoint's query encoder, one for one."""
    layout = json.loads((GOLDEN / "official_checkpoint_layout.json").read_text())
    entries = layout.get("state_dict", layout)
    prefix = "module.encoder_q."
    official = {
        name.removeprefix(prefix): tuple(entry["shape"] if isinstance(entry, dict) else entry[0])
        for name, entry in entries.items()
        if name.startswith(prefix) and not name.endswith("num_batches_tracked")
    }
    _, params, stats = models.build(**model(arch="resnet50"), seed=0)
    ours = {name: array.shape for name, array in to_state_dict(params, stats).items()}
    assert ours == official


def test_initial_values():
    """He fan-out convolutions, PyTorch's uniform linears, unit batch norms; by seed only."""
    _, params, stats = models.build(**model(arch="resnet50"), seed=0)
    state_dict = to_state_dict(params, stats)
    for name, array in state_dict.items():
        if array.ndim == 4 and array.size > 10_000:
            fan_out = array.shape[0] * array.shape[2] * array.shape[3]
            assert array.std() == pytest.approx((2 / fan_out) ** 0.5, rel=0.03), name
            assert abs(array.mean()) < 5 * array.std() / array.size**0.5, name
    for name in ("fc.0.weight", "fc.0.bias", "fc.2.weight"):
        bound = 2048**-0.5
        assert 0.95 * bound < np.abs(state_dict[name]).max() <= bound
        assert state_dict[name].std() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert (state_dict["bn1.weight"] == 1).all() and (state_dict["bn1.bias"] == 0).all()
    again = to_state_dict(*models.build(**model(arch="resnet50"), seed=0)[1:])
    other = to_state_dict(*models.build(**model(arch="resnet50"), seed=1)[1:])
    assert all((again[name] == state_dict[name]).all() for name in state_dict)
    assert not (other["conv1.weight"] == state_dict["conv1.weight"]).any()


def test_bfloat16_keeps_parameters_and_statistics_in_float32():
    encoder, params, stats = models.build(
        **model(arch="resnet8", width=8, dtype="bfloat16"), seed=0
    )
    images = np.random.default_rng(0).normal(size=(8, 32, 32, 3)).astype(np.float32)
    embeddings, new_stats = jax.jit(encoder, static_argnames="groups")(
        params, stats, images, groups=2
    )
    assert embeddings.dtype == "bfloat16"
    for leaf in jax.tree.leaves((params, stats, new_stats)):
        assert leaf.dtype == "float32"


def test_forward_mode_through_training(float64):
    """A tangent of the loss by forward mode is the gradient's product with the direction."""
    encoder, params, stats = models.build(**model(arch="resnet8", width=4, dtype="float64"), seed=0)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(4, 64, 64, 3))
    direction = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), params)

    def loss(params):
        return (encoder(params, stats, images, 2)[0] ** 3).sum()

    tangent = jax.jit(lambda p, d: jax.jvp(loss, (p,), (d,))[1])(params, direction)
    gradient = jax.jit(jax.grad(loss))(params)
    products = jax.tree.map(lambda g, d: (g * d).sum(), gradient, direction)
    np.testing.assert_allclose(tangent, sum(jax.tree.leaves(products)), rtol=1e-9)


@pytest.mark.slow
def test_blocks_that_are_computed_again_change_no_bit(float64):
    images = jnp.asarray(np.random.default_rng(0).normal(size=(8, 32, 32, 3)))
    results = []
    for remat in (False, True):
        encoder, params, stats = models.build(
            "resnet8", dim=8, width=4, dtype="float64", remat=remat
        )

        def loss(params, encoder=encoder, stats=stats):
            embeddings, stats = encoder(params, stats, images, 2)
            return (embeddings**2).sum(), stats

        gradient = jax.value_and_grad(loss, has_aux=True)
        assert ("remat" in str(jax.make_jaxpr(gradient)(params))) == remat
        results.append(jax.jit(gradient)(params))
    jax.tree.map(np.testing.assert_array_equal, *results)
