"""What conversion refuses: keys that are not all accounted for, damaged files, code in a pickle."""

import os
import pickle
import sys
from pathlib import Path

import pytest

from nsneg_jax.errors import UsageError
from nsneg_jax.pytorch.command import main
from nsneg_jax.pytorch.importing import import_file
from nsneg_jax.pytorch.states import recognise

torch = pytest.importorskip("torch")
from official_states import official_content  # noqa: E402, needs torch

from benchmarks.torch_peer import ResNet  # noqa: E402, needs torch


@pytest.mark.parametrize("arch", ["resnet8", "resnet34", "resnet50", "resnet101"])
def test_arch_is_derived(arch):
    state_dict = ResNet(arch, 10, mlp=False, width=4).state_dict()
    arrays = {name: tensor.numpy() for name, tensor in state_dict.items()}
    assert recognise(arrays, "file").model["arch"] == arch
    del arrays["layer2.0.conv1.weight"]
    with pytest.raises(UsageError, match=rf"{arch}, misses layer2\.0\.conv1\.weight"):
        recognise(arrays, "file")


BLOCK = "module.encoder_q.layer1.0."
NAN = torch.tensor([1.0, 2.0, float("nan"), 3.0])


@pytest.fixture(scope="module")
def content():
    return official_content()


def change(edit):
    def changed(c):
        edit(c)
        return c

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
    "whole numbers": (
        change(lambda c: c["state_dict"].update({f"{BLOCK}bn2.bias": torch.zeros(4).char()})),
        f"{BLOCK}bn2.bias in",
    ),
    "not a number": (
        change(lambda c: c["state_dict"].update({f"{BLOCK}bn2.running_var": NAN})),
        f"{BLOCK}bn2.running_var in",
    ),
    "infinite in half precision": (
        change(lambda c: c["state_dict"].update({f"{BLOCK}bn2.bias": (1 / NAN.isnan()).half()})),
        f"{BLOCK}bn2.bias in",
    ),
    "not a number in the queue": (
        change(lambda c: c["state_dict"]["module.queue"].__setitem__((3, 7), float("nan"))),
        "module.queue in",
    ),
    "not a number in the momentum": (
        change(lambda c: c["optimizer"]["state"][2].update(momentum_buffer=NAN)),
        "the momentum of bn1.bias in",
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
    "list": (lambda c: [c["state_dict"]], "holds a list"),
    "other names": (
        lambda c: {"state_dict": {"blocks.0.attn.qkv.weight": torch.zeros(3)}},
        "blocks.0.attn.qkv.weight",
    ),
    "another stem": (
        lambda c: {"conv1.0.weight": torch.zeros(2, 3, 3, 3), "layer1.0.bn1.bias": torch.ones(2)},
        "has no first convolution",
    ),
    "empty": (lambda c: {}, "neither a pre-training state"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_refused_by_name(damage, content, tmp_path, capsys):
    edit, expected = DAMAGES[damage]
    optimizer = content["optimizer"]
    state = {number: dict(entry) for number, entry in optimizer["state"].items()}
    copy = content | {
        "state_dict": {name: tensor.clone() for name, tensor in content["state_dict"].items()},
        "optimizer": optimizer | {"state": state},
    }
    torch.save(edit(copy), tmp_path / "file.pth")
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
def test_pickle_that_would_run_code_runs_nothing(archive, place, content, tmp_path):
    flag = tmp_path / "ran"
    path = tmp_path / "file.pth"
    torch.save(content | {place: Payload(flag)}, path, _use_new_zipfile_serialization=archive)
    with pytest.raises(UsageError, match=r"asks for posix\.mkdir.*nothing of it ran"):
        import_file(path, tmp_path / "run")
    assert not flag.exists() and not (tmp_path / "run").exists()
    torch.load(path, weights_only=False)
    assert flag.exists()  # the payload is a real one


def test_damaged_files(content, tmp_path):
    def refused(path: Path, expected: str):
        with pytest.raises(UsageError, match=expected) as error:
            import_file(path, tmp_path / "run")
        assert str(path) in str(error.value)
        assert not (tmp_path / "run").exists()

    for archive in (True, False):
        path = tmp_path / f"cut{archive}.pth"
        torch.save(content, path, _use_new_zipfile_serialization=archive)
        whole = path.read_bytes()
        for part in (0.1, 0.9):
            path.write_bytes(whole[: int(part * len(whole))])
            refused(path, "damaged")
    text = tmp_path / "text.pth"
    text.write_text("<html>404</html>")
    refused(text, "no PyTorch checkpoint")
    with (tmp_path / "plain.pth").open("wb") as file:
        pickle.dump([1, 2, 3], file, protocol=2)
    refused(tmp_path / "plain.pth", "plain.pth")
    (tmp_path / "empty.pth").touch()
    refused(tmp_path / "empty.pth", "damaged")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00\x00")
    refused(tmp_path / "cut.safetensors", "cannot be read as safetensors")
    refused(tmp_path / "nowhere.pth", "There is no file")


def test_without_torch(content, tmp_path, monkeypatch):
    torch.save(content, tmp_path / "file.pth")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UsageError, match=r"nsneg_jax\[torch\]"):
        import_file(tmp_path / "file.pth", tmp_path / "run")
