"""What further benchmarks need: errors relative to AlexNet's, several labels, other categories."""

import json

import numpy as np
import pytest
from photo_folder import write_photos

from nsneg_jax.errors import UsageError
from nsneg_jax.evaluation.classifier import best_ranks
from nsneg_jax.evaluation.protocols import timm
from nsneg_jax.evaluation.protocols.accepted import accepted_of
from nsneg_jax.evaluation.protocols.benchmarks import (
    ALEXNET,
    ALEXNET_CLEAN,
    BENCHMARKS,
    available,
    corruption_errors,
)
from nsneg_jax.evaluation.protocols.imagenet import listed, wnids
from nsneg_jax.evaluation.protocols.objectnet import open_objectnet, read_mapping
from nsneg_jax.evaluation.protocols.real import with_real_labels
from nsneg_jax.input.sources.folders.folder import Folder
from nsneg_jax.methods.probe import UNRANKED

# Top-1 of torchvision's first ResNet-50 on ImageNet-C and its corruption errors in %, which the
# benchmark's paper prints without decimals.
RESNET_50 = {
    "brightness": (68.02, 56.64), "contrast": (39.06, 71.43), "defocus_blur": (38.75, 74.71),
    "elastic_transform": (45.25, 84.75), "fog": (45.83, 66.11), "frost": (38.14, 74.84),
    "gaussian_noise": (29.29, 79.77), "glass_blur": (26.79, 88.61), "impulse_noise": (23.81, 82.58),
}  # fmt: skip


def of_alexnet(**other):
    """AlexNet's accuracies, with others for some corruptions: equal ones at all severities."""
    accuracies = {name: 100 - error for name, error in ALEXNET.items()} | other
    return {name: {str(s): value for s in range(1, 6)} for name, value in accuracies.items()}


@pytest.mark.parametrize("name", RESNET_50)
def test_corruption_errors_are_the_published_ones(name):
    top1, published = RESNET_50[name]
    mce = corruption_errors(of_alexnet(**{name: top1}), None)["mce"]
    assert 15 * mce - 14 * 100 == pytest.approx(published, abs=0.01)


def test_alexnet_itself_has_100():
    found = corruption_errors(of_alexnet(), 100 - ALEXNET_CLEAN)
    assert found == {"mce": pytest.approx(100), "relative_mce": pytest.approx(100)}
    assert corruption_errors(of_alexnet(), None)["relative_mce"] is None
    lacking = of_alexnet()
    del lacking["fog"]["3"]
    assert corruption_errors(lacking, 56.5) == {"mce": None, "relative_mce": None}


def test_benchmarks_have_their_settings():
    assert [len(BENCHMARKS[name].names) for name in ("imagenet-c", "imagenet-c-bar")] == [15, 10]
    assert len(available("imagenet-c-bar")) == 50
    assert len(available("imagenet-c")) >= 95 and ("fog", 5) in available("imagenet-c")
    assert len(listed("imagenet-a")) == 200 and listed("imagenet-a") <= set(wnids())
    hundred = [wnids().index(wnid) for wnid in listed("imagenet-a")]
    assert min(hundred) == 6 and max(hundred) == 988


def test_the_best_of_several_labels_counts():
    outputs = np.array([[3.0, 5, 4, 1], [3, 5, 4, -np.inf], [2, 2, 2, 2]])
    accepted = np.array([[1, 0, 1, 0], [0, 0, 0, 1], [0, 1, 1, 0]], bool)
    assert best_ranks(outputs, accepted).tolist() == [1, UNRANKED, 1]
    table, rows = accepted_of([frozenset({2}), frozenset({0, 1}), frozenset({2})], 3)
    assert table[rows].tolist() == [[False, False, True], [True, True, False], [False, False, True]]


def real_set(tmp_path, labels, names):
    write_photos(tmp_path, [f"{wnids()[7]}/{name}" for name in names], "val")
    (tmp_path / "real.json").write_text(json.dumps(labels))
    classes = (wnids()[7], wnids()[9], wnids()[20])
    source = Folder(str(tmp_path), "val", classes, partial=True)
    return with_real_labels(source, str(tmp_path / "real.json"), classes)


def test_real_labels_are_by_number(tmp_path):
    """An image without a label, or with those of other classes only, is left out."""
    names = [f"ILSVRC2012_val_{number:08}.JPEG" for number in (4, 2, 3, 1)]
    source, accepted = real_set(tmp_path, [[20, 9], [], [8], [7, 8]], names)
    paths = [source.path(image).rpartition("_")[2] for image in range(len(source))]
    assert paths == ["00000001.JPEG", "00000004.JPEG"]
    assert accepted.table[accepted.rows].tolist() == [[False, True, True], [True, False, False]]
    assert source.labels.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([[7]], ["x.jpg"], "is none of the 1"),
        ([[7]], ["ILSVRC2012_val_00000002.JPEG"], "is none of the 1"),
        ([[1000]], ["ILSVRC2012_val_00000001.JPEG"], "list of class indices"),
        ({"1": [7]}, ["ILSVRC2012_val_00000001.JPEG"], "list of class indices"),
        ([[8]], ["ILSVRC2012_val_00000001.JPEG"], "No image of"),
    ],
)
def test_other_real_labels_are_refused(tmp_path, labels, names, message):
    with pytest.raises(UsageError, match=message):
        real_set(tmp_path, labels, names)


@pytest.mark.parametrize("first", [0, 1])
def test_the_mapping_of_objectnet(tmp_path, first):
    """Lines of its labels count from 0 or 1; a category has one class of ImageNet or more."""
    labels = ["kit fox", "digital clock", "banana", "analog clock"]
    indices = [278, 530, 954, 409]
    mappings = tmp_path / "mappings"
    mappings.mkdir()
    files = {
        "folder_to_objectnet_label.json": {"clock": "Clock", "fruit": "Banana", "bag": "Bag"},
        "objectnet_to_imagenet_1k.json": {
            "Clock": "analog clock; digital clock",
            "Banana": "banana",
        },
        "pytorch_to_imagenet_2012_id.json": {str(i): n + first for n, i in enumerate(indices)},
    }
    for name, content in files.items():
        (mappings / name).write_text(json.dumps(content))
    with pytest.raises(UsageError, match="imagenet_to_label_2012_v2"):
        read_mapping(str(mappings))
    (mappings / "imagenet_to_label_2012_v2").write_text("\n".join(labels) + "\n")
    found = read_mapping(str(mappings))
    assert found == {"clock": (wnids()[409], wnids()[530]), "fruit": (wnids()[954],)}
    write_photos(tmp_path, ["clock/1.jpg", "fruit/2.jpg", "bag/3.jpg"], "images")
    source, accepted = open_objectnet(str(tmp_path), "images", (wnids()[530],), border=2)
    assert [source.path(i) for i in range(len(source))] == ["clock/1.jpg"]
    assert accepted.table.tolist() == [[True]]
    whole = Folder(str(tmp_path), "images", ("clock",)).image(0)
    np.testing.assert_array_equal(source.image(0), whole[2:-2, 2:-2])
    with pytest.raises(UsageError, match="share none"):
        open_objectnet(str(tmp_path), "images", ("cat",), border=2)


def test_rows_like_timms(tmp_path):
    entry = {"accuracy_top1": 71.23456, "accuracy_top5": 90.5}
    path = timm.file_of(tmp_path / "results.csv", "sketch")
    assert path.name == "results-sketch.csv"
    path.write_text(timm.table(path, timm.row("ours", entry, 23_712_932, 224, 256)))
    better = entry | {"accuracy_top1": 80.0}
    path.write_text(timm.table(path, timm.row("better", better, 25_557_032, 224, 0)))
    assert path.read_text().splitlines() == [
        "model,top1,top1_err,top5,top5_err,param_count,img_size,crop_pct,interpolation",
        "better,80.000,20.000,90.500,9.500,25.56,224,1.000,bilinear",
        "ours,71.235,28.765,90.500,9.500,23.71,224,0.875,bilinear",
    ]
    path.write_text(timm.table(path, timm.row("ours", better, 1, 224, 256)))
    assert len(path.read_text().splitlines()) == 3
    assert timm.row("ours", {"accuracy_top1": None, "accuracy_top5": None}, 1, 224, 0) is None
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match="has the columns a, b"):
        timm.check(tmp_path / "results.csv", ["sketch"])
