"""Conversion from and to PyTorch, against modules and optimisers of PyTorch itself."""

import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny import tiny_config

from nsneg_jax.errors import UsageError
from nsneg_jax.jobs.pretrain import pretrain
from nsneg_jax.pretrained import load_pretrained
from nsneg_jax.pytorch.command import main
from nsneg_jax.pytorch.exporting import export
from nsneg_jax.pytorch.importing import import_file
from nsneg_jax.pytorch.names import from_torch_layout, to_state_dict
from nsneg_jax.training.checkpoints.checkpoint import find_checkpoint, read_checkpoint

torch = pytest.importorskip("torch")
from official_states import (  # noqa: E402, needs torch
    POINTER,
    fill,
    moco_module,
    official_content,
    sgd_after_a_step,
)

from benchmarks.torch_peer import ResNet  # noqa: E402, needs torch

pytestmark = pytest.mark.usefixtures("quick_code")
LAYOUT = Path(__file__).parents[1] / "golden" / "official_checkpoint_layout.json"


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


def test_where_entries_go(tmp_path):
    """Each encoder's own values, the step, and the queue's row that is written next."""
    content = official_content()
    state_dict, optimizer = content["state_dict"], content["optimizer"]
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


def test_folder_with_checkpoints_is_left_alone(tmp_path):
    torch.save(official_content(), tmp_path / "file.pth")
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
    # A file does not say what only other networks have.
    assert progress["model"].items() <= tiny_config().model.to_dict().items()
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
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.12, 0.9, 1e-4)
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


def test_imported_epoch_of_another_length_is_reported(tiny_run, tmp_path, capsys):
    import_file(tiny_run / "tiny.pth.tar", tmp_path, images=160, batch_size=16)
    pretrain(tiny_config(total_steps=10), tmp_path, jax.devices()[:1])
    said = capsys.readouterr().out
    assert re.search(r"\b10 steps .* batches of 16\b.*\b5 in batches of", said)


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
