"""Conversion from and to PyTorch, against modules and optimisers of PyTorch itself."""

import json
import os
import pickle
import shutil
import sys
from collections import OrderedDict
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny import tiny_config

from nsneg_jax.checkpoint import find_checkpoint, read_checkpoint
from nsneg_jax.convert import main
from nsneg_jax.errors import UsageError
from nsneg_jax.models.torch_names import from_torch_layout, to_state_dict
from nsneg_jax.official import recognise
from nsneg_jax.pretrain import pretrain
from nsneg_jax.pretrained import load_pretrained
from nsneg_jax.torch_export import export
from nsneg_jax.torch_import import import_file

torch = pytest.importorskip("torch")
from benchmarks.torch_peer import ResNet  # noqa: E402, needs torch

LAYOUT = Path(__file__).parent / "golden" / "official_checkpoint_layout.json"
POINTER = 20


def fill(state_dict: dict, seed: int = 0) -> dict:
    """The same entries with random values: every float and every integer is its own."""
    rng = np.random.default_rng(seed)
    filled = OrderedDict()
    for name, tensor in state_dict.items():
        shape = tuple(tensor.shape)
        if name.endswith("queue_ptr"):
            array = np.array([POINTER])
        elif tensor.dtype == torch.int64:
            array = rng.integers(0, 2**40, shape)
        elif name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
            array = rng.uniform(0.5, 1.5, shape)
        else:
            array = rng.normal(0, np.sqrt(2 / max(np.prod(shape[1:]), 1)), shape)
        filled[name] = torch.as_tensor(array).to(tensor.dtype)
    return filled


def moco_module(arch="resnet18", mlp=True, dim=16, keys=72, width=4) -> torch.nn.Module:
    """A module that lists its parameters and buffers as the original's does."""
    model = torch.nn.Module()
    model.encoder_q = ResNet(arch, dim, mlp, width)
    model.encoder_k = ResNet(arch, dim, mlp, width).requires_grad_(False)
    model.register_buffer("queue", torch.zeros(dim, keys))
    model.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.int64))
    return torch.nn.ModuleDict({"module": model})


def sgd_after_a_step(model: torch.nn.Module) -> torch.optim.SGD:
    """The original's optimiser: over both encoders, of which one has gradients."""
    optimizer = torch.optim.SGD(model.parameters(), 0.03, momentum=0.9, weight_decay=1e-4)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()
    return optimizer


def assert_same(state_dict: dict, expected: dict):
    """Names in their order, dtypes and bits."""
    assert list(state_dict) == list(expected)
    for name, tensor in expected.items():
        assert state_dict[name].dtype == tensor.dtype, name
        assert state_dict[name].shape == tensor.shape, name
        assert state_dict[name].numpy().tobytes() == tensor.numpy().tobytes(), name


def load(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def torch_features(encoder: torch.nn.Module, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return encoder.eval().features(torch.tensor(images).movedim(-1, 1)).numpy()


@pytest.fixture(scope="module")
def resnet50(tmp_path_factory):
    """A file as the layout of an official one, and the workdir it was imported into."""
    folder = tmp_path_factory.mktemp("resnet50")
    layout = json.loads(LAYOUT.read_text())
    empty = {
        name: torch.empty(entry["shape"], dtype=getattr(torch, entry["dtype"]), device="meta")
        for name, entry in layout["state_dict"].items()
    }
    state_dict = fill(empty)
    content = {"epoch": 200, "arch": "resnet50", "state_dict": state_dict}
    torch.save(content, folder / "checkpoint_0199.pth.tar")
    summary = import_file(folder / "checkpoint_0199.pth.tar", folder / "run")
    return folder / "run", state_dict, summary


def test_official_resnet50_goes_in_and_out_bit_for_bit(resnet50, tmp_path):
    workdir, state_dict, summary = resnet50
    words = " ".join(summary.split())
    assert "official pre-training state: resnet50, mlp head, dim 128, queue of 16,384" in words
    assert f"keys {len(state_dict)}, all accounted for" in words
    assert "197,800 = epoch 200 x 989 steps" in words and "--images" in words
    assert "none in the file" in words
    export(workdir, tmp_path / "again.pth.tar")
    again = load(tmp_path / "again.pth.tar")
    assert_same(again["state_dict"], state_dict)
    assert (again["epoch"], again["arch"]) == (200, "resnet50")


def test_official_resnet50_features(resnet50):
    workdir, state_dict, _ = resnet50
    images = np.random.default_rng(1).normal(size=(2, 64, 64, 3)).astype(np.float32)
    reference = ResNet("resnet50", 128, True)
    prefix = "module.encoder_q."
    reference.load_state_dict(
        {n.removeprefix(prefix): t for n, t in state_dict.items() if n.startswith(prefix)}
    )
    ours = load_pretrained(workdir)
    features = jax.jit(ours.encoder.features)(ours.params, ours.stats, images)
    expected = torch_features(reference, images)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    assert ours.model["arch"] == "resnet50" and ours.classifier is None


@pytest.mark.parametrize(
    ("arch", "mlp", "prefix"),
    [
        ("resnet18", True, "module."),
        ("resnet18", False, ""),
        ("resnet50", True, ""),
    ],
)
def test_pretraining_state(arch, mlp, prefix, tmp_path):
    """With the optimizer of PyTorch, whose buffers come back under the same numbers."""
    module = moco_module(arch, mlp)
    optimizer = sgd_after_a_step(module).state_dict()
    state_dict = fill(module.state_dict())
    state_dict = {name.replace("module.", prefix): t for name, t in state_dict.items()}
    content = {"epoch": 3, "state_dict": state_dict, "optimizer": optimizer}
    if mlp:  # else derived from the keys
        content["arch"] = arch
    torch.save(content, tmp_path / "file.pth.tar")
    summary = import_file(tmp_path / "file.pth.tar", tmp_path / "run", images=80, batch_size=16)
    head = "mlp head" if mlp else "linear head"
    assert f"{arch}, width 4, {head}, dim 16, queue of 72" in summary

    export(tmp_path / "run", tmp_path / "again.pth")
    again = load(tmp_path / "again.pth")
    assert_same(again["state_dict"], state_dict)
    assert again["epoch"] == 3
    restored = torch.optim.SGD(moco_module(arch, mlp).parameters(), 1.0)
    restored.load_state_dict(again["optimizer"])
    restored = restored.state_dict()
    assert restored["param_groups"] == optimizer["param_groups"]
    assert restored["state"].keys() == optimizer["state"].keys()
    for number, entry in optimizer["state"].items():
        buffer = restored["state"][number]["momentum_buffer"]
        assert torch.equal(buffer, entry["momentum_buffer"]), number


@pytest.mark.parametrize("arch", ["resnet8", "resnet34", "resnet50", "resnet101"])
def test_arch_is_derived(arch):
    state_dict = ResNet(arch, 10, mlp=False, width=4).state_dict()
    arrays = {name: tensor.numpy() for name, tensor in state_dict.items()}
    assert recognise(arrays, "file").model["arch"] == arch
    del arrays["layer2.0.conv1.weight"]
    with pytest.raises(UsageError, match=rf"{arch}, misses layer2\.0\.conv1\.weight"):
        recognise(arrays, "file")


def test_where_entries_go(tmp_path):
    """Each encoder's own values, the step, and the queue's row that is written next."""
    module = moco_module()
    state_dict = fill(module.state_dict())
    optimizer = sgd_after_a_step(module).state_dict()
    content = {"epoch": 3, "arch": "resnet18", "state_dict": state_dict, "optimizer": optimizer}
    torch.save(content, tmp_path / "file.pth")
    import_file(tmp_path / "file.pth", tmp_path / "run", images=95, batch_size=16)
    folder = find_checkpoint(tmp_path / "run")
    state, _ = read_checkpoint(folder)
    assert folder.name == "15" and state["step"] == 15  # 3 epochs of 95 // 16
    assert state["opt_state"][1][1]["count"] == 15
    for part, name in (("q", "encoder_q"), ("k", "encoder_k")):
        kernel = state[f"params_{part}"]["layer2"]["block0"]["downsample"]["conv"]["kernel"]
        expected = state_dict[f"module.{name}.layer2.0.downsample.0.weight"].numpy()
        np.testing.assert_array_equal(kernel[0, 0], expected[:, :, 0, 0].T)
        expected = state_dict[f"module.{name}.bn1.running_var"].numpy()
        np.testing.assert_array_equal(state[f"stats_{part}"]["bn1"]["var"], expected)
    columns = state_dict["module.queue"].numpy()
    next_row = 15 * 16 % 72  # moco.queue_pointer
    np.testing.assert_array_equal(state["queue"][next_row], columns[:, POINTER])
    np.testing.assert_array_equal(state["queue"][next_row - 1], columns[:, POINTER - 1])
    trace = state["opt_state"][1][0]["trace"]
    first, last = optimizer["state"][0], optimizer["state"][len(optimizer["state"]) - 1]
    np.testing.assert_array_equal(
        trace["conv1"]["kernel"], from_torch_layout(first["momentum_buffer"].numpy())
    )
    np.testing.assert_array_equal(trace["fc"]["output"]["bias"], last["momentum_buffer"].numpy())


@pytest.mark.parametrize(
    ("classes", "prefix", "around", "kind"),
    [
        (100, "module.", {"epoch": 60, "best_acc1": torch.tensor(80.0)}, "linear-probe state"),
        (1000, "module.", {"epoch": 100, "arch": "resnet18"}, "linear-probe state"),
        (10, "", None, "linear-probe state"),
        (1000, "", None, "torchvision ResNet"),
        (1000, "", {}, "torchvision ResNet"),
        (0, "", None, "torchvision ResNet"),
    ],
)
def test_backbones(classes, prefix, around, kind, tmp_path):
    """A probe's and torchvision's states, raw (None) or in a dict with other entries."""
    network = ResNet("resnet18", classes or 1, mlp=False, width=8)
    state_dict = fill(network.state_dict())
    if not classes:
        del state_dict["fc.weight"], state_dict["fc.bias"], network.fc
    network.load_state_dict(state_dict)
    named = {prefix + name: tensor for name, tensor in state_dict.items()}
    content = named if around is None else {**around, "state_dict": named}
    torch.save(content, tmp_path / "file.pth")
    summary = import_file(tmp_path / "file.pth", tmp_path / "run")
    fc = f"fc of {classes:,} classes" if classes else "without fc"
    assert f"{kind}: resnet18, width 8, {fc}" in summary
    assert f"{len(named)}, all accounted for" in summary

    ours = load_pretrained(tmp_path / "run")
    images = np.random.default_rng(1).normal(size=(3, 32, 32, 3)).astype(np.float32)
    features = np.asarray(jax.jit(ours.encoder.features)(ours.params, ours.stats, images))
    expected = torch_features(network, images)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    assert ours.classes is None
    if classes:
        logits = features @ ours.classifier["kernel"] + ours.classifier["bias"]
        expected = network.fc(torch.tensor(expected)).detach().numpy()
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    else:
        assert ours.classifier is None

    export(tmp_path / "run", tmp_path / "again.pth.tar")
    assert_same(load(tmp_path / "again.pth.tar")["state_dict"], named)
    export(tmp_path / "run", tmp_path / "again.safetensors")
    arrays = load_file(tmp_path / "again.safetensors")
    assert arrays.keys() == state_dict.keys()
    again = {n: t for n, t in state_dict.items() if not n.endswith("num_batches_tracked")}
    for name, tensor in again.items():
        np.testing.assert_array_equal(arrays[name], tensor.numpy())
    import_file(tmp_path / "again.safetensors", tmp_path / "run2")
    jax.tree.map(
        np.testing.assert_array_equal, load_pretrained(tmp_path / "run2").params, ours.params
    )


def test_old_file_without_counters(tmp_path):
    state_dict = fill(ResNet("resnet18", 1000, mlp=False, width=8).state_dict())
    state_dict = {n: t for n, t in state_dict.items() if "num_batches" not in n}
    torch.save(state_dict, tmp_path / "file.pth")
    import_file(tmp_path / "file.pth", tmp_path / "run")
    export(tmp_path / "run", tmp_path / "again.pth")
    assert_same(load(tmp_path / "again.pth")["state_dict"], state_dict)


BLOCK = "module.encoder_q.layer1.0."


def change(edit):
    def changed(content):
        edit(content)
        return content

    return changed


DAMAGES = {
    "missing": (
        change(lambda c: c["state_dict"].pop(f"{BLOCK}conv2.weight")),
        f"misses {BLOCK}conv2.weight",
    ),
    "missing counter": (
        change(lambda c: c["state_dict"].pop("module.encoder_k.bn1.num_batches_tracked")),
        "misses module.encoder_k.bn1.num_batches_tracked",
    ),
    "missing queue": (change(lambda c: c["state_dict"].pop("module.queue")), "module.queue"),
    "missing encoder_k": (
        change(lambda c: [c["state_dict"].pop(n) for n in [*c["state_dict"]] if "_k." in n]),
        "misses module.encoder_k.conv1.weight, module.encoder_k.bn1.weight",
    ),
    "surplus": (
        change(lambda c: c["state_dict"].update({f"{BLOCK}conv9.weight": torch.zeros(1)})),
        f"has, beyond what belongs to it, {BLOCK}conv9.weight",
    ),
    "surplus block": (
        change(lambda c: c["state_dict"].update({f"{BLOCK}7.bn1.bias": torch.zeros(4)})),
        f"{BLOCK}7.bn1.bias",
    ),
    "surplus without prefix": (
        change(lambda c: c["state_dict"].update({"temperature": torch.zeros(1)})),
        "temperature",
    ),
    "first convolution": (
        change(lambda c: c["state_dict"].update({"module.encoder_q.conv1.weight": torch.zeros(5)})),
        "module.encoder_q.conv1.weight of shape (5,), expected (4, 3, 7, 7)",
    ),
    "shape": (
        change(lambda c: c["state_dict"].update({f"{BLOCK}bn2.bias": torch.zeros(7)})),
        f"{BLOCK}bn2.bias of shape (7,), expected (4,)",
    ),
    "queue of rows": (
        change(lambda c: c["state_dict"].update({"module.queue": torch.zeros(72, 16)})),
        "module.queue of shape (72, 16), expected (16, 16)",
    ),
    "half precision": (
        change(lambda c: c["state_dict"].update({f"{BLOCK}bn2.bias": torch.zeros(4).half()})),
        f"{BLOCK}bn2.bias in",
    ),
    "bfloat16": (
        change(lambda c: c["state_dict"].update({f"{BLOCK}bn2.bias": torch.zeros(4).bfloat16()})),
        "bfloat16",
    ),
    "no tensor": (change(lambda c: c["state_dict"].update({f"{BLOCK}x": 3})), f"{BLOCK}x"),
    "other arch": (change(lambda c: c.update(arch="resnet34")), "'resnet34', but its keys"),
    "empty queue": (
        change(lambda c: c["state_dict"].update({"module.queue": torch.zeros(16, 0)})),
        "module.queue of shape (16, 0)",
    ),
    "arch of another type": (change(lambda c: c.update(arch=["resnet18"])), "['resnet18']"),
    "unknown arch": (change(lambda c: c.update(arch="vgg16")), "'vgg16'"),
    "epoch": (change(lambda c: c.update(epoch="three")), "'epoch'"),
    "buffer missing": (
        change(lambda c: c["optimizer"]["state"].pop(2)), "misses bn1.bias"
    ),
    "buffer of another shape": (
        change(lambda c: c["optimizer"]["state"][0].update(momentum_buffer=torch.zeros(3))),
        "conv1.weight of shape (3,)",
    ),
    "no optimizer": (change(lambda c: c.update(optimizer=[1, 2])), "torch.optim.SGD"),
    "list": (lambda c: [c["state_dict"]], "holds a list"),
    "other names": (
        lambda c: {"state_dict": {"blocks.0.attn.qkv.weight": torch.zeros(3)}},
        "blocks.0.attn.qkv.weight",
    ),
    "empty": (lambda c: {}, "neither a pre-training state"),
}  # fmt: skip


@pytest.fixture(scope="module")
def official_content():
    module = moco_module()
    optimizer = sgd_after_a_step(module).state_dict()
    state_dict = fill(module.state_dict())
    return {"epoch": 3, "arch": "resnet18", "state_dict": state_dict, "optimizer": optimizer}


@pytest.mark.parametrize("damage", DAMAGES)
def test_refused_by_name(damage, official_content, tmp_path, capsys):
    edit, expected = DAMAGES[damage]
    optimizer = official_content["optimizer"]
    state = {number: dict(entry) for number, entry in optimizer["state"].items()}
    content = official_content | {
        "state_dict": dict(official_content["state_dict"]),
        "optimizer": optimizer | {"state": state},
    }
    torch.save(edit(content), tmp_path / "file.pth")
    assert main(["import", str(tmp_path / "file.pth"), str(tmp_path / "run")]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert message.startswith("error: ") and expected in message, message
    assert not (tmp_path / "run").exists()


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, flag: Path):
        self.flag = flag

    def __reduce__(self):
        return os.mkdir, (str(self.flag),)


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize("place", ["state_dict", "optimizer"])
def test_pickle_that_would_run_code_runs_nothing(archive, place, official_content, tmp_path):
    flag = tmp_path / "ran"
    content = official_content | {place: Payload(flag)}
    path = tmp_path / "file.pth"
    torch.save(content, path, _use_new_zipfile_serialization=archive)
    with pytest.raises(UsageError, match=r"asks for posix\.mkdir.*nothing of it ran"):
        import_file(path, tmp_path / "run")
    assert not flag.exists() and not (tmp_path / "run").exists()
    torch.load(path, weights_only=False)
    assert flag.exists()  # the payload is a real one


def test_damaged_files(official_content, tmp_path):
    def refused(path: Path, expected: str):
        with pytest.raises(UsageError, match=expected) as error:
            import_file(path, tmp_path / "run")
        assert str(path) in str(error.value)
        assert not (tmp_path / "run").exists()

    for archive in (True, False):
        path = tmp_path / f"cut{archive}.pth"
        torch.save(official_content, path, _use_new_zipfile_serialization=archive)
        whole = path.read_bytes()
        for part in (0.1, 0.9):
            path.write_bytes(whole[: int(part * len(whole))])
            refused(path, "cut off or damaged")
    text = tmp_path / "text.pth"
    text.write_text("<html>404</html>")
    refused(text, "no PyTorch checkpoint")
    with (tmp_path / "plain.pth").open("wb") as file:
        pickle.dump([1, 2, 3], file, protocol=2)
    refused(tmp_path / "plain.pth", "plain.pth")
    (tmp_path / "empty.pth").touch()
    refused(tmp_path / "empty.pth", "cut off or damaged")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00\x00")
    refused(tmp_path / "cut.safetensors", "cannot be read as safetensors")
    refused(tmp_path / "nowhere.pth", "There is no file")


def test_without_torch(official_content, tmp_path, monkeypatch):
    torch.save(official_content, tmp_path / "file.pth")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UsageError, match="pip install torch"):
        import_file(tmp_path / "file.pth", tmp_path / "run")


def test_folder_with_checkpoints_is_left_alone(official_content, tmp_path):
    torch.save(official_content, tmp_path / "file.pth")
    import_file(tmp_path / "file.pth", tmp_path / "run", images=80, batch_size=16)
    with pytest.raises(UsageError, match="already holds checkpoints"):
        import_file(tmp_path / "file.pth", tmp_path / "run", images=160, batch_size=16)
    assert find_checkpoint(tmp_path / "run").name == "15"


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    """A run stopped in the middle of an epoch, and its checkpoint as an official file."""
    folder = tmp_path_factory.mktemp("tiny")
    pretrain(tiny_config(total_steps=8), folder / "run", jax.devices()[:1])
    summary = export(folder / "run", folder / "tiny.pth.tar")
    assert "torchvision has no such network" in summary
    assert "step 8 is in the middle of epoch 2" in summary
    return folder


def test_our_own_run_goes_on_from_its_export(tiny_run, tmp_path):
    before, _ = read_checkpoint(find_checkpoint(tiny_run / "run"))
    import_file(tiny_run / "tiny.pth.tar", tmp_path / "imported")
    after, progress = read_checkpoint(find_checkpoint(tmp_path / "imported"))
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert progress["model"] == tiny_config().model.to_dict()
    shutil.copytree(tiny_run / "run", tmp_path / "original")
    config = tiny_config(total_steps=13)
    states = [
        jax.device_get(pretrain(config, tmp_path / name, jax.devices()[:1]))
        for name in ("original", "imported")
    ]
    jax.tree.map(np.testing.assert_array_equal, *states)

    # trained on, it is a run of ours: pointer and counters are its own
    export(tmp_path / "imported", tmp_path / "on.pth")
    state_dict = load(tmp_path / "on.pth")["state_dict"]
    assert state_dict["module.queue_ptr"].item() == 13 * 16 % 72
    assert state_dict["module.encoder_q.bn1.num_batches_tracked"] == 13
    assert state_dict["module.encoder_k.bn1.num_batches_tracked"] == 26  # one negative
    np.testing.assert_array_equal(state_dict["module.queue"].numpy().T, states[0].queue)


def test_export_is_what_the_original_reads(tiny_run):
    content = load(tiny_run / "tiny.pth.tar")
    assert content["epoch"] == 1 and content["arch"] == "resnet8"
    group = content["optimizer"]["param_groups"][0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.03, 0.9, 1e-4)
    state, _ = read_checkpoint(find_checkpoint(tiny_run / "run"))
    for part in "qk":
        for name, array in to_state_dict(state[f"params_{part}"], state[f"stats_{part}"]).items():
            exported = content["state_dict"][f"module.encoder_{part}.{name}"]
            np.testing.assert_array_equal(exported.numpy(), array)
    parameters = len(jax.tree.leaves(state["params_q"]))
    assert group["params"] == list(range(2 * parameters))
    assert len(content["optimizer"]["state"]) == parameters


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"model.width": 8}, "model.width is 4 there and 8 in this run"),
        ({"model.mlp": False, "model.dim": 9}, "model.dim is 8 there and 9 in this run"),
        ({"model.stem": "small"}, "model.stem is 'small_stride2' there"),
        ({"moco.queue_size": 80}, r"queue has shape \(72, 8\) in the checkpoint, \(80, 8\)"),
    ],
)
def test_imported_checkpoint_of_another_config(tiny_run, tmp_path, values, expected):
    import_file(tiny_run / "tiny.pth.tar", tmp_path)
    with pytest.raises(UsageError, match=expected):
        pretrain(tiny_config(**values), tmp_path, jax.devices()[:1])
    assert not (tmp_path / "config.json").exists()


def test_imported_epoch_of_another_length_is_told(tiny_run, tmp_path, capsys):
    import_file(tiny_run / "tiny.pth.tar", tmp_path, images=160, batch_size=16)
    pretrain(tiny_config(total_steps=10), tmp_path, jax.devices()[:1])
    said = capsys.readouterr().out
    assert "imported as of 10 steps an epoch" in said and "here there are 5" in said


def test_small_stem_must_be_told(tiny_run, tmp_path, capsys):
    content = load(tiny_run / "tiny.pth.tar")
    del content["nsneg_jax"]
    torch.save(content, tmp_path / "file.pth")
    arguments = ["import", str(tmp_path / "file.pth"), str(tmp_path / "run")]
    assert main(arguments) == 2
    assert "--stem small_stride2" in " ".join(capsys.readouterr().err.split())
    assert main([*arguments, "--stem", "small", "--images", "80", "--batch_size", "16"]) == 0
    assert load_pretrained(tmp_path / "run").model["stem"] == "small"
    assert (tmp_path / "run" / "checkpoints" / "5").is_dir()


def test_export_to_safetensors(tiny_run, tmp_path):
    export(tiny_run / "run" / "checkpoints" / "8", tmp_path / "tiny.safetensors")
    arrays = load_file(tmp_path / "tiny.safetensors")
    state, _ = read_checkpoint(find_checkpoint(tiny_run / "run"))
    expected = to_state_dict(state["params_q"], state["stats_q"])
    expected = {name: array for name, array in expected.items() if not name.startswith("fc.")}
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays.pop(name), array)
    assert all(name.endswith("num_batches_tracked") for name in arrays)
    import_file(tmp_path / "tiny.safetensors", tmp_path / "run")
    ours, again = (load_pretrained(path) for path in (tiny_run / "run", tmp_path / "run"))
    jax.tree.map(np.testing.assert_array_equal, ours.params, again.params)
    assert again.model["stem"] == "small_stride2"


@pytest.mark.parametrize(
    ("out", "expected"), [("x.onnx", "must end in"), ("nowhere/x.pth", "no folder")]
)
def test_export_is_refused(tiny_run, tmp_path, capsys, out, expected):
    assert main(["export", str(tiny_run / "run"), str(tmp_path / out)]) == 2
    assert expected in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


def test_failed_write_leaves_nothing(tiny_run, tmp_path, monkeypatch):
    def fail(content, path):
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    (tmp_path / "x.pth").write_text("before")
    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        export(tiny_run / "run", tmp_path / "x.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["x.pth"]
    assert (tmp_path / "x.pth").read_text() == "before"
