"""Vision transformers in other programs' files, and ours for them."""

import json
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny import checkpoint_of_untrained, tiny_config

from nsneg_jax.errors import UsageError
from nsneg_jax.jobs.build import build
from nsneg_jax.jobs.opening import to_json
from nsneg_jax.pretrained import load_pretrained
from nsneg_jax.pytorch.exporting import export
from nsneg_jax.pytorch.importing import import_file, recognise_file
from nsneg_jax.pytorch.loading import load
from nsneg_jax.pytorch.names import from_state_dict, to_state_dict
from nsneg_jax.pytorch.states import PRETRAINING, PROBE, TRANSFORMER, recognise
from nsneg_jax.pytorch.transformers.names import from_hugging_face
from nsneg_jax.training.checkpoints.checkpoint import (
    Checkpoints,
    find_checkpoint,
    read_checkpoint,
)

torch = pytest.importorskip("torch")
import torch_vit  # noqa: E402, needs torch

pytestmark = pytest.mark.usefixtures("quick_code")

FEATURES, SIZE, GRID, BLOCKS = 192, 4, 3, 2
SIDE = SIZE * GRID


@cache
def network(heads=3, positions="learnable"):
    """A ViT-Ti with two blocks and random values."""
    torch.manual_seed(heads)
    vit = torch_vit.ViT(FEATURES, heads, BLOCKS, SIZE, GRID, positions=positions).float()
    with torch.no_grad():
        for each in vit.parameters():
            if each.requires_grad:
                each.add_(0.05 * torch.randn(each.shape))
    return vit


def entries(**settings):
    return {
        name: array.detach().clone() for name, array in network(**settings).state_dict().items()
    }


def under(prefix, named):
    return {prefix + name: tensor for name, tensor in named.items()}


def head(outputs=7):
    return {"head.weight": torch.randn(outputs, FEATURES), "head.bias": torch.randn(outputs)}


def layers(prefix, *numbers):
    return {f"{prefix}.{n}.weight": torch.randn(3, 3) for n in numbers}


HUGGING_FACE = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
    "norm.": "layernorm.",
}


def as_hugging_face(named):
    renamed = {}
    for name, tensor in named.items():
        name = name.replace("blocks.", "encoder.layer.")
        if "attn.qkv" in name:
            for part, third in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                renamed[name.replace("attn.qkv", f"attention.attention.{part}")] = third.clone()
            continue
        for ours, theirs in HUGGING_FACE.items():
            name = name.replace(ours, theirs)
        renamed[name] = tensor
    return renamed


def files():
    plain, fixed = entries(), entries(positions="sincos")
    lagging = {name: tensor + 1 for name, tensor in fixed.items()}
    slow = {name: tensor + 1 for name, tensor in plain.items()}
    return {
        "timm": (plain | head(), "timm", PROBE),
        "a backbone": (plain, "timm", TRANSFORMER),
        "MoCo-v3": (
            {
                "epoch": 300,
                "arch": "vit_tiny",
                "state_dict": under("module.base_encoder.", fixed | layers("head", 0, 3))
                | under("module.momentum_encoder.", lagging | layers("head", 0, 3))
                | under("module.", layers("predictor", 0, 3)),
            },
            "MoCo v3",
            TRANSFORMER,
        ),
        "MoCo-v3's probe": (
            {"state_dict": under("module.", fixed | head()), "best_acc1": 1.0, "epoch": 9},
            "MoCo's linear evaluation",
            PROBE,
        ),
        "DINO": (
            {
                "student": under("module.backbone.", slow)
                | under("module.", layers("head.mlp", 0)),
                "teacher": under("backbone.", plain) | layers("head.mlp", 0),
                "epoch": 100,
            },
            "DINO",
            TRANSFORMER,
        ),
        "Hugging Face": (
            under("vit.", as_hugging_face(plain)) | {"vit.pooler.dense.bias": torch.zeros(3)},
            "Hugging Face",
            TRANSFORMER,
        ),
    }


DINOV2 = {"layernorm_before": "norm1", "layernorm_after": "norm2", "intermediate.dense": "mlp.fc1"}


def as_dinov2(named):
    """Hugging Face's names for DINOv2, which differ from its ViT's in some parts."""
    renamed = as_hugging_face({key: each for key, each in named.items() if ".ls" not in key})
    found = {}
    for name, tensor in renamed.items():
        for before, after in DINOV2.items():
            name = name.replace(before, after)
        if "attention" not in name:
            name = name.replace("output.dense", "mlp.fc2")
        found[name] = tensor
    for name, tensor in named.items():
        if ".ls" in name:
            name = name.replace("blocks.", "encoder.layer.").replace(".ls", ".layer_scale")
            found[name.replace("gamma", "lambda1")] = tensor
    return found


def write(path, content):
    torch.save(content, path)
    return path


def features(found, x):
    encoder, *trees = found
    return np.asarray(jax.jit(encoder.features)(*trees, jnp.asarray(x)))


def images(side=SIDE):
    return np.random.default_rng(0).normal(size=(3, side, side, 3)).astype(np.float32)


def expected(vit, x):
    with torch.no_grad():
        return vit(torch.from_numpy(np.moveaxis(x, -1, 1).copy())).numpy()


@pytest.mark.parametrize("name", files())
def test_each_program_is_recognised(name, tmp_path):
    content, program, kind = files()[name]
    found, _, _ = recognise_file(write(tmp_path / "file.pth", content))
    assert (found.layout, found.kind) == (program, kind)
    model, fixed = found.model, "MoCo-v3" in name
    assert (model["arch"], model["width"], model["blocks"]) == ("vit_tiny", 64, BLOCKS)
    assert (model["token_size"], model["position_grid"]) == (SIZE, GRID)
    assert model["positions"] == ("sincos" if fixed else "learnable")
    assert model["freeze_tokens"] is fixed
    arrays = to_state_dict(
        *(from_state_dict(found.encoders[""], tree) for tree in (found.params, found.stats))
    )
    given = entries(positions="sincos" if fixed else "learnable")
    assert set(arrays) == set(given) - ({"pos_embed"} if fixed else set())
    for key, array in arrays.items():
        np.testing.assert_array_equal(array, given[key].numpy(), err_msg=key)
    assert ("fc.weight" in found.encoders[""]) == (kind == PROBE)


def test_names_of_dinov2_at_hugging_face():
    scales = {
        f"blocks.{b}.ls{n}.gamma": torch.rand(FEATURES) for b in range(BLOCKS) for n in (1, 2)
    }
    given = {name: tensor.numpy() for name, tensor in (entries() | scales).items()}
    theirs = {name: tensor.numpy() for name, tensor in as_dinov2(entries() | scales).items()}
    assert "encoder.layer.1.layer_scale2.lambda1" in theirs
    found, renamed = from_hugging_face(under("dinov2.", theirs))
    assert renamed and set(found) == set(given)
    for name, array in given.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.slow
def test_features_are_pytorchs(tmp_path):
    """Of a file with LayerScale, as DINOv2's; also at another size, with positions between."""
    given = entries()
    scales = {
        f"blocks.{b}.ls{n}.gamma": torch.rand(FEATURES) for b in range(BLOCKS) for n in (1, 2)
    }
    path = write(tmp_path / "v2.pth", given | scales | {"mask_token": torch.zeros(1, FEATURES)})
    loaded = load(path)
    assert (loaded.image_size, loaded.resize) == (SIDE, 256)
    handles = []
    for b, block in enumerate(network().blocks):
        for n, module in ((1, block.attn), (2, block.mlp)):
            gamma = scales[f"blocks.{b}.ls{n}.gamma"]
            hook = lambda _, __, output, gamma=gamma: output * gamma  # noqa: E731
            handles.append(module.register_forward_hook(hook))
    try:
        wanted = expected(network(), images())
    finally:
        for handle in handles:
            handle.remove()
    trees = loaded.encoder, loaded.params, loaded.stats
    np.testing.assert_allclose(features(trees, images()), wanted, rtol=1e-4, atol=1e-4)
    assert features(trees, images(2 * SIDE)).shape == (3, FEATURES)


@pytest.mark.parametrize(
    ("content", "heads", "number"),
    [
        ({"positions": "sincos"}, None, 12),
        ({"positions": "learnable"}, None, 6),
        ({"positions": "learnable"}, 8, 8),
    ],
    ids=str,
)
def test_heads_are_guessed_or_given(content, heads, number):
    vit = torch_vit.ViT(384, 6, 1, SIZE, GRID, **content).float()
    arrays = {name: each.detach().numpy() for name, each in vit.state_dict().items()}
    found = recognise(arrays, "file", heads=heads)
    assert found.model["arch"] == "vit_small"
    assert found.model["attention_heads"] == (0 if number == 12 else number)


def without(name):
    return {key: tensor for key, tensor in entries().items() if key != name}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (without("blocks.1.attn.qkv.bias"), "blocks.1.attn.qkv.bias"),
        (entries() | {"register_tokens": torch.zeros(1, 4, FEATURES)}, "register_tokens"),
        (entries() | {"pos_embed": torch.zeros(1, 12, FEATURES)}, "pos_embed"),
        (entries() | {"patch_embed.proj.weight": torch.zeros(80, 3, 4, 4)}, "80 features"),
        ({"arch": "vit_small", "state_dict": entries()}, "vit_small"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_networks_are_refused(content, named, tmp_path):
    with pytest.raises(UsageError, match=named):
        import_file(write(tmp_path / "file.pth", content), tmp_path / "out")
    assert not (tmp_path / "out").exists()


SETTINGS = {
    "model.arch": "vit_tiny",
    "model.token_size": 4,
    "model.blocks": 1,
    "model.attention_heads": 2,
    "model.width": 4,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return checkpoint_of_untrained(tmp_path_factory.mktemp("vit") / "run", **SETTINGS)


@pytest.mark.parametrize("out", ["vit.safetensors", "vit"])
def test_an_export_has_timms_names_and_comes_back(out, run, tmp_path):
    export(run, tmp_path / out, image_size=16, resize=0)
    weights = tmp_path / out
    if weights.is_dir():
        config = json.loads((weights / "config.json").read_text())
        assert config["pretrained_cfg"]["first_conv"] == "patch_embed.proj"
        assert config["model_args"] == {"num_heads": 2, "img_size": 16}
        weights = weights / "model.safetensors"
    theirs = torch_vit.ViT(12, 2, 1, 4, 4).float()
    arrays = load_file(weights)
    assert set(arrays) == set(theirs.state_dict())
    theirs.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    x = images(16)
    before, after = load_pretrained(run), load(tmp_path / out)
    unseen = ("dim", "mlp", "head", "head_hidden", "stem", "remat")
    assert after.model | dict.fromkeys(unseen) == before.model | dict.fromkeys(unseen)
    found = [features((each.encoder, each.params, each.stats), x) for each in (before, after)]
    np.testing.assert_array_equal(*found)
    np.testing.assert_allclose(found[0], expected(theirs, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_whole_pre_training_comes_back(optimizer, tmp_path):
    config = tiny_config(**SETTINGS | {"optimizer.name": optimizer})
    fields = to_json(config)
    progress = {"window": {}, "images": 80, "batch_size": 16, "negatives": 1}
    progress |= {name: fields[name] for name in ("model", "optimizer")}
    run = tmp_path / "run"
    with Checkpoints(run, keep=1) as checkpoints:
        checkpoints.save(7, build(config, 5)[1], progress)
    export(run, tmp_path / "vit.pth")
    import_file(tmp_path / "vit.pth", tmp_path / "again")
    found, _, _ = recognise_file(tmp_path / "vit.pth")
    assert found.kind == PRETRAINING and found.model["attention_heads"] == 2
    before, after = (
        read_checkpoint(find_checkpoint(each))[0] for each in (run, tmp_path / "again")
    )
    for name in ("params_q", "stats_q", "params_k", "stats_k", "queue"):
        jax.tree.map(np.testing.assert_array_equal, before[name], after[name])


def test_a_safetensors_file_of_another_program(tmp_path):
    arrays = {name: tensor.numpy() for name, tensor in entries().items()}
    save_file(arrays, tmp_path / "model.safetensors")
    found, _, _ = recognise_file(tmp_path / "model.safetensors")
    assert found.kind == TRANSFORMER
