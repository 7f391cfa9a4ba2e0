"""A linear probe as the original writes it: torchvision's 1000 outputs, 100 of them trained."""

import csv
import json
import shutil

import jax
import numpy as np
import pytest
from answering import ONE, a_config
from PIL import Image
from tiny import tiny_linear_config

from nsneg_jax.errors import UsageError
from nsneg_jax.evaluation.cue_conflict import read_categories
from nsneg_jax.evaluation.protocols.imagenet import IMAGENET_1K
from nsneg_jax.input.sources.lists.class_list import class_names
from nsneg_jax.jobs.evaluate import evaluate
from nsneg_jax.jobs.linear import linear
from nsneg_jax.pretrained import load_pretrained
from nsneg_jax.pytorch.importing import import_file
from nsneg_jax.training.checkpoints.checkpoint import Checkpoints, find_checkpoint, read_checkpoint

torch = pytest.importorskip("torch")
from official_states import fill  # noqa: E402, needs torch

from benchmarks.torch_peer import ResNet  # noqa: E402, needs torch

WNIDS = tuple(sorted(class_names(str(IMAGENET_1K))[3::10]))
SIDE, EACH = 32, 2
ELSEWHERE = 640  # an output that is no class


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """The workdir of an imported probe, the pictures, and PyTorch's top-1 and top-5 on them."""
    folder = tmp_path_factory.mktemp("official")
    rng = np.random.default_rng(0)
    pictures = []
    for wnid in WNIDS:
        colours = rng.integers(0, 256, (4, 4, 3))
        for i in range(EACH):
            tiles = np.clip(colours + rng.integers(-20, 21, colours.shape), 0, 255)
            pixels = tiles.astype(np.uint8).repeat(SIDE // 4, 0).repeat(SIDE // 4, 1)
            path = folder / "data" / "val" / wnid / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
            pictures.append(pixels)
    views = np.stack(pictures).astype(np.float32) / 255
    views = (views - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    labels = torch.arange(len(WNIDS)).repeat_interleave(EACH)
    network = ResNet("resnet18", 1000, mlp=False, width=8)
    network.load_state_dict(fill(network.state_dict()))
    # the head of main_lincls.py, trained on half of the pictures
    network.fc.weight.data.normal_(0, 0.01, generator=torch.Generator().manual_seed(0))
    network.fc.bias.data.zero_()
    with torch.no_grad():
        features = network.eval().features(torch.tensor(views).movedim(-1, 1))
    optimizer = torch.optim.SGD(network.fc.parameters(), 0.009, momentum=0.9)
    for _ in range(100):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network.fc(features[::EACH]), labels[::EACH])
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        # five classes are mistaken for outputs that are no class
        for parameter, more in ((network.fc.weight, 0), (network.fc.bias, 0.5)):
            parameter[ELSEWHERE : ELSEWHERE + 5] = parameter[:100:20] + more
        logits = network.fc(features)
    answers = logits.topk(5).indices
    right = answers == labels[:, None]
    expected = [100 * right[:, :k].any(dim=1).float().mean().item() for k in (1, 5)]
    assert (answers[:, 0] >= 100).any() and 50 < expected[0] < expected[1]
    state_dict = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    around = {"epoch": 60, "arch": "resnet18", "best_acc1": torch.tensor(80.0)}
    content = around | {"state_dict": state_dict, "optimizer": optimizer.state_dict()}
    torch.save(content, folder / "model_best.pth.tar")
    import_file(folder / "model_best.pth.tar", folder / "probe")
    return folder, expected


def test_evaluate_is_pytorchs_accuracy(official, tmp_path, capsys):
    folder, expected = official
    sets = {"sets.clean.source": f"folder:{folder / 'data'}", "sets.clean.resize": 0}
    config = a_config(folder / "probe", "clean", **sets, **{"data.image_size": SIDE})
    results = evaluate(config, tmp_path / "out", ONE)
    figures = results["sets"]["clean"]
    assert figures["images"] == 200 and figures["classes"] == 100 and figures["ways"] == 1000
    found = [figures["accuracy_top1"], figures["accuracy_top5"]]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert results["outputs"] == 1000 and "first 100 of 1,000" in results["output_rule"]
    assert results["output_rule"] in capsys.readouterr().out
    with pytest.raises(UsageError, match=r"--config\.classes=FILE"):
        config.classes = str(IMAGENET_1K)
        evaluate(config, tmp_path / "other", ONE)


def test_outputs_that_are_no_class_decide_no_cue_conflict(official, tmp_path):
    """They are in no category; 100 of the 1000 outputs are classes."""
    folder, _ = official
    known = sorted({c for wnid, c in read_categories().items() if wnid in WNIDS})
    shape, texture = known[:2]
    picture = next((folder / "data").rglob("*.png"))
    place = tmp_path / "cues" / shape / f"{shape}1-{texture}1.png"
    place.parent.mkdir(parents=True)
    shutil.copy(picture, place)
    sets = {"sets.clean.source": f"folder:{folder / 'data'}"}
    sets |= {"sets.cue_conflict.source": f"folder:{tmp_path / 'cues'}"}
    config = a_config(folder / "probe", "clean,cue_conflict", **sets)
    results = evaluate(config, tmp_path / "out", ONE)
    assert results["outputs"] == 1000
    assert results["sets"]["cue_conflict"]["categories"] == known
    with (tmp_path / "out" / "cue_conflict.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["category"] == shape and row["object_response"] in known


def test_evaluate_only_is_pytorchs_accuracy(official, tmp_path):
    folder, expected = official
    config = tiny_linear_config(
        folder / "probe",
        evaluate_only=True,
        **{"data.source": f"folder:{folder / 'data'}", "data.image_size": SIDE},
    )
    linear(config, tmp_path, ONE)
    results = json.loads((tmp_path / "results.json").read_text())
    found = [results["accuracy_top1"], results["accuracy_top5"]]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert results["outputs"] == 1000 and results["validation_images"] == 200


def test_a_checkpoint_that_is_not_finite_is_refused(official, tmp_path):
    folder, _ = official
    state, progress = read_checkpoint(find_checkpoint(folder / "probe"))
    state["backbone"]["stats"]["bn1"]["var"][2] = np.nan
    with Checkpoints(tmp_path / "nan", keep=1) as checkpoints:
        checkpoints.save(0, jax.tree.map(np.asarray, state), progress)
    with pytest.raises(UsageError, match=r"stats\.bn1\.var"):
        load_pretrained(tmp_path / "nan")
