"""The encoders in other programs' files: which is taken, what is passed over, what is refused."""

import argparse
import zipfile
from collections import Counter

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from nsneg_jax.errors import UsageError
from nsneg_jax.pytorch.importing import import_file, recognise_file
from nsneg_jax.pytorch.momentum import read_momentum
from nsneg_jax.pytorch.states import PRETRAINING, PROBE, TORCHVISION, parameter_names, recognise
from nsneg_jax.training.checkpoints.checkpoint import find_checkpoint, read_checkpoint

torch = pytest.importorskip("torch")
from official_states import fill, official_content  # noqa: E402, needs torch

from benchmarks.torch_peer import ResNet  # noqa: E402, needs torch

WHOLE = fill(ResNet("resnet18", 10, mlp=False, width=4).state_dict())
BACKBONE = {name: tensor for name, tensor in WHOLE.items() if not name.startswith("fc.")}
OTHER = fill(BACKBONE, seed=1)  # a slower copy, or a student


def under(prefix, entries):
    return {prefix + name: tensor for name, tensor in entries.items()}


def layers(prefix, *numbers):
    return {f"{prefix}.{n}.weight": torch.full((3, 3), float(n + 1)) for n in numbers}


def as_children(entries):
    """Names of torch.nn.Sequential(*list(resnet.children())[:-1])."""
    names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
    places = {name: str(place) for place, name in enumerate(names)}
    split = ((name.partition("."), tensor) for name, tensor in entries.items())
    return {f"{places[module]}.{rest}": tensor for (module, _, rest), tensor in split}


def arrays_of(entries):
    return {name: tensor.numpy() for name, tensor in entries.items()}


@pytest.mark.parametrize(
    ("prefix", "entry"),
    [
        ("_orig_mod.", None),
        ("module._orig_mod.", "model"),
        ("_orig_mod.module.", "teacher"),
        ("backbone.", "state_dict"),
        ("encoder.", None),
        ("model.", "model_state_dict"),
        ("model.module.backbone._orig_mod.encoder.", None),
        ("module.module.model.", "state_dict"),
    ],
)
def test_prefixes_and_entries(prefix, entry, tmp_path):
    named = under(prefix, WHOLE)
    torch.save(named if entry is None else {"epoch": 3, entry: named}, tmp_path / "file.pth")
    found, _, _ = recognise_file(tmp_path / "file.pth")
    assert (found.kind, found.model["arch"], found.passed) == (PROBE, "resnet18", {})
    assert found.encoders[""].keys() == {n for n in WHOLE if not n.endswith("tracked")}
    for name, array in found.encoders[""].items():
        np.testing.assert_array_equal(array, WHOLE[name].numpy())


MLP = layers("fc", 0, 2)
LAYOUTS = {
    "MoCo v3": (
        under("module.base_encoder.", BACKBONE | layers("fc", 0, 3))
        | under("module.momentum_encoder.", OTHER | layers("fc", 0, 3))
        | layers("module.predictor", 0, 3),
        {},
        {"module.base_encoder.fc": 2, "module.momentum_encoder": 124 - 2, "module.predictor": 2},
    ),
    "SimSiam": (
        under("module.encoder.", BACKBONE | layers("fc", 0, 3, 6)) | layers("module.predictor", 0),
        {},
        {"module.encoder.fc": 3, "module.predictor": 1},
    ),
    "solo-learn": (
        under("backbone.", BACKBONE)
        | under("momentum_backbone.", OTHER)
        | layers("projector", 0)
        | {"classifier.weight": torch.zeros(10, 32), "queue": torch.zeros(2, 4, 8)},
        {"pytorch-lightning_version": "1.9.0", "epoch": 399},
        {"momentum_backbone": 120, "projector": 1, "classifier": 1, "queue": 1},
    ),
    "lightly": (
        under("backbone.", as_children(BACKBONE))
        | under("backbone_momentum.", as_children(OTHER))
        | layers("projection_head.layers", 0, 3),
        {},
        {"backbone_momentum": 120, "projection_head": 2},
    ),
    "DINO": (
        under("backbone.", BACKBONE) | layers("head.mlp", 0, 2),
        {"entry": "teacher", "student": under("module.backbone.", OTHER)},
        {"head": 2},
    ),
    "SwAV": (
        under("module.", BACKBONE)
        | layers("module.projection_head", 0, 3)
        | {"module.prototypes.weight": torch.zeros(3, 3)},
        {},
        {"module.projection_head": 2, "module.prototypes": 1},
    ),
    "timm": (
        WHOLE,
        {"arch": "resnet18.a1_in1k", "version": 2, "args": argparse.Namespace(a=1)},
        {},
    ),
    "torchvision": (BACKBONE, {}, {}),
    "the query encoder of MoCo v2 alone": (
        under("module.encoder_q.", BACKBONE | MLP),
        {"arch": "resnet18"},
        {"module.encoder_q.fc": 2},
    ),
    "the query encoder of MoCo v1 alone": (
        under("encoder_q.", WHOLE),
        {},
        {"encoder_q.fc": 2},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(name, tmp_path):
    entries, around, passed = LAYOUTS[name]
    around = dict(around)
    torch.save({around.pop("entry", "state_dict"): entries, **around}, tmp_path / "file.pth")
    found, _, _ = recognise_file(tmp_path / "file.pth")
    assert (found.layout, found.passed) == (name, Counter(passed))
    assert found.kind == (PROBE if name == "timm" else TORCHVISION)
    for entry, tensor in BACKBONE.items():
        if not entry.endswith("tracked"):
            np.testing.assert_array_equal(found.encoders[""][entry], tensor.numpy())
    assert ("fc.weight" in found.encoders[""]) == (name == "timm")
    missing = next(key for key in entries if key.endswith("bn2.running_mean"))
    rest = {key: array for key, array in arrays_of(entries).items() if key != missing}
    with pytest.raises(UsageError, match=r"layer1\.0\.bn2\.running_mean"):
        recognise(rest, "file", around=around)


def test_whole_states_of_moco():
    content = official_content()
    found = recognise(arrays_of(content["state_dict"]), "file")
    assert (found.kind, found.layout, found.prefix) == (PRETRAINING, "MoCo v2", "module.")
    compiled = {n.replace("_q.", "_q._orig_mod."): t for n, t in content["state_dict"].items()}
    again = recognise(under("model.", arrays_of(compiled)), "file")
    assert (again.kind, again.prefix) == (PRETRAINING, "model.")
    for part, arrays in found.encoders.items():
        for name, array in arrays.items():
            np.testing.assert_array_equal(again.encoders[part][name], array)


def test_several_encoders_are_refused():
    with pytest.raises(UsageError, match=r"several encoders: left\.\*, right\.\*"):
        recognise(arrays_of(under("left.", BACKBONE) | under("right.", OTHER)), "file")
    with pytest.raises(UsageError, match=r"two entries for conv1\.weight"):
        recognise(arrays_of(BACKBONE | under("_orig_mod.", BACKBONE)), "file")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_converted(dtype, tmp_path):
    """All of it, or only the convolutions, as mixed precision stores it."""
    for only in ("", "conv"):
        halves = {
            name: tensor.to(dtype) if tensor.is_floating_point() and only in name else tensor
            for name, tensor in WHOLE.items()
        }
        torch.save(halves, tmp_path / "file.pth")
        found, _, _ = recognise_file(tmp_path / "file.pth")
        assert found.converted == str(dtype).removeprefix("torch.")
        assert found.model["dtype"] == "float32"
        for name, array in found.encoders[""].items():
            assert array.dtype == np.float32
            np.testing.assert_array_equal(array, halves[name].float().numpy())


def adam(content):
    parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(130)]
    optimizer = torch.optim.Adam(parameters[: 2 * len(content["optimizer"]["state"])])
    for parameter in parameters:
        parameter.grad = torch.ones(2)
    optimizer.step()
    return optimizer.state_dict()


OPTIMIZERS = {
    "empty groups": lambda content: {"state": {}, "param_groups": []},
    "empty": lambda content: {},
    "a list": lambda content: [1, 2],
    "none": lambda content: None,
    "before the first step": lambda content: content["optimizer"] | {"state": {}},
    "Adam's": adam,
    "of another network": lambda content: torch.optim.SGD(
        [torch.nn.Parameter(torch.zeros(2))], 0.1, momentum=0.9
    ).state_dict(),
}


@pytest.fixture(scope="module")
def content():
    return official_content()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_other_optimizers_are_passed_over(name, content):
    found = recognise(arrays_of(content["state_dict"]), "file")
    query = found.encoders["encoder_q."]
    parameters = {n: query[n] for n in parameter_names(found.params)}
    assert len(parameters) == 64
    momentum, why = read_momentum(OPTIMIZERS[name](content), parameters, "file")
    assert momentum is None and "'optimizer'" in why


def test_without_momentum_it_starts_from_zero(content, tmp_path):
    empty = {"state": {}, "param_groups": []}
    torch.save(content | {"optimizer": empty}, tmp_path / "file.pth")
    summary = import_file(tmp_path / "file.pth", tmp_path / "run", images=80, batch_size=16)
    (line,) = (line for line in summary.splitlines() if line.startswith("momentum"))
    assert "'optimizer' is empty" in line and "starts from zero" in line
    state, progress = read_checkpoint(find_checkpoint(tmp_path / "run"), "opt_state")
    leaves = jax.tree.leaves(state["opt_state"][1][0]["trace"])
    assert len(leaves) == 64 and not any(leaf.any() for leaf in leaves)
    assert progress["official"]["settings"] is None


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 102530333\n"
HTML = b"\n<!DOCTYPE html><html><title>Virus scan warning</title></html>"
XML = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>"
KINDS = {
    "web page": (HTML, "is a web page with the title 'Virus scan warning'"),
    "XML": (XML, "is a web page"),
    "LFS": (LFS, "Git LFS pointer to a file of 102,530,333 bytes"),
    "text": (b"Not found\n", "is a text file, which begins 'Not found'"),
    "gzip": (b"\x1f\x8b\x08\x00" + bytes(50), "is a gzip file"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(50), "is an HDF5 file"),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", KINDS)
def test_other_files_are_named(name, suffix, tmp_path):
    written, expected = KINDS[name]
    (tmp_path / f"file{suffix}").write_bytes(written)
    refused(tmp_path / f"file{suffix}", expected)


def refused(path, expected):
    with pytest.raises(UsageError) as error:
        recognise_file(path)
    assert expected in str(error.value) and str(path) in str(error.value)
    assert "weights_only" not in str(error.value)


def test_archives_and_programs_are_named(tmp_path):
    path = tmp_path / "file.pth"
    torch.save(BACKBONE, tmp_path / "inner.pth")
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(tmp_path / "inner.pth", "folder/inner.pth")
    refused(path, "is a zip archive of folder/inner.pth")
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    refused(path, "is a TorchScript program")
    with path.open("wb") as file:
        np.savez(file, a=np.zeros(2))
    refused(path, "is a NumPy archive")
    path.write_bytes(b"\x00\x01garbage\x02")
    refused(path, "is no PyTorch checkpoint")


def test_the_contents_decide_not_the_suffix(tmp_path):
    save_file(arrays_of(BACKBONE), tmp_path / "file.pth")
    torch.save(BACKBONE, tmp_path / "file.safetensors")
    for name in ("file.pth", "file.safetensors"):
        found, _, _ = recognise_file(tmp_path / name)
        np.testing.assert_array_equal(found.encoders[""]["conv1.weight"], BACKBONE["conv1.weight"])
