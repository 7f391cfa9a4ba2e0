"""Data sets of TFDS: labels and order of a folder of the same files, and no TensorFlow."""

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tfds_sets import jpeg, prepare

from nsneg_jax.errors import UsageError
from nsneg_jax.input.decode import UnreadableImage
from nsneg_jax.input.loading import Loaders, Steps
from nsneg_jax.input.pipeline import pretrain_batches
from nsneg_jax.input.sources import tfds
from nsneg_jax.input.sources.folders.folder import Folder
from nsneg_jax.input.sources.source import open_source
from nsneg_jax.input.sources.tfds import NotPrepared, Tfds

ROOT = Path(tfds.__file__).parents[3]
pytestmark = pytest.mark.usefixtures("quick_code")
# numbered by TFDS in another order than that of the names; the last has no images
LABELS = ["n03", "n01", "n04", "n02", "n05"]


def files(images=40):
    """(label, file name, file), with names as ImageNet's and, in part, as ImageNet-R's."""
    rng = np.random.default_rng(0)
    found = []
    for number in rng.permutation(images):
        label = LABELS[number % 4]
        name = f"{label}_{number}.JPEG" if number % 2 else f"{label}/x_{number}.JPEG"
        found.append((label, name, jpeg(tuple(rng.integers(0, 256, 3)), (20 + number, 30))))
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The data sets, and a folder of the same files."""
    root = tmp_path_factory.mktemp("tfds")
    splits = {"train": files(), "validation": files(12)}
    prepare(root, "photographs", splits, LABELS)
    prepare(root, "nameless", {"test": files(8)}, LABELS, files=False)
    for label, name, image in splits["train"]:
        path = root / "folder" / "train" / label / os.path.basename(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
    return root


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """The user's cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "nsneg_jax"


def first_batches(source):
    options = {"image_size": 16, "crop_scale": (0.2, 1.0), "seed": 3}
    return list(pretrain_batches(source, Steps(8, 0, 6), Loaders(2), **options))


def test_labels_order_and_batches_are_the_folders(data):
    folder = Folder(str(data / "folder"), "train")
    source = Tfds("photographs", "train", folder.classes, data_dir=str(data))
    assert source.name == "tfds:photographs [train]"
    assert source.classes == folder.classes == ("n01", "n02", "n03", "n04")
    assert source.labels.dtype == np.int32 and source.labels.tolist() == folder.labels.tolist()
    paths = [folder.path(i) for i in range(len(folder))]
    assert [source.path(i) for i in range(len(source))] == paths
    for i in range(len(folder)):
        assert source.encoded(i) == folder.encoded(i)
    for ours, theirs in zip(first_batches(source), first_batches(folder), strict=True):
        for name in theirs:
            np.testing.assert_array_equal(ours[name], theirs[name])
    assert any("array_record" in file for file in source.files())
    assert all(map(os.path.isfile, source.files()))
    with pytest.raises(IndexError):
        source.image(len(source))


def test_workers_get_a_copy(data):
    source = Tfds("photographs", "train", data_dir=str(data))
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy.image(7), source.image(7))


def test_classes_are_chosen_by_name(data):
    whole = Tfds("photographs", "train", data_dir=str(data))
    assert whole.classes == tuple(sorted(LABELS)) and len(whole) == 40
    assert whole.present.tolist() == [0, 1, 2, 3]
    spec = "tfds:photographs:1.0.0"
    options = {"image_size": 8, "tfds_dir": str(data)}
    some = open_source(spec, "train", classes="n04,n01", **options)
    folder = Folder(str(data / "folder"), "train", ("n01", "n04"))
    assert some.classes == folder.classes and some.labels.tolist() == folder.labels.tolist()
    assert [some.path(i) for i in range(20)] == [folder.path(i) for i in range(20)]
    with pytest.raises(
        UsageError, match=r"1 of the 2 classes .* tfds:photographs.*: n9\. Classes there: n01"
    ):
        open_source(spec, "train", classes="n01,n9", **options)
    with pytest.raises(UsageError, match=r"1 of the 2 classes asked for have no image .*: n05"):
        open_source(spec, "train", classes="n01,n05", **options)


def test_labels_of_a_classifier(data):
    classes = ("n9", "n03", "n05", "n01")
    source = Tfds("photographs", "train", classes, partial=True, data_dir=str(data))
    folder = Folder(str(data / "folder"), "train", classes, partial=True)
    assert source.classes == classes
    assert source.labels.tolist() == folder.labels.tolist() == [1] * 10 + [3] * 10
    assert source.present.tolist() == [1, 3]
    with pytest.raises(UsageError, match=r"None of the 1 classes .*: n9\."):
        Tfds("photographs", "train", ("n9",), partial=True, data_dir=str(data))


def test_splits(data):
    assert len(Tfds("photographs", "val", data_dir=str(data))) == 12
    assert len(Tfds("photographs", ".", data_dir=str(data))) == 12
    assert len(Tfds("photographs", "train[:25%]", data_dir=str(data))) == 10
    nameless = Tfds("nameless", ".", data_dir=str(data))
    assert nameless.name == "tfds:nameless [test]"
    assert sorted(nameless.path(i)[4:] for i in range(8)) == [f"{i:08}" for i in range(8)]
    with pytest.raises(UsageError, match=r"'test'.*\btrain, validation"):
        Tfds("photographs", "test", data_dir=str(data))


def test_labels_are_read_once(data, cache, monkeypatch):
    before = Tfds("photographs", "train", data_dir=str(data))
    (kept,) = cache.iterdir()
    with monkeypatch.context() as patched:
        patched.setattr(tfds, "_scan", None)
        again = Tfds("photographs", "train", data_dir=str(data))
    assert again.labels.tolist() == before.labels.tolist()
    assert [again.path(i) for i in range(40)] == [before.path(i) for i in range(40)]
    kept.write_bytes(kept.read_bytes()[:100])
    assert len(Tfds("photographs", "train", data_dir=str(data))) == 40
    # a data set that was prepared anew is another one
    info = data / "photographs" / "1.0.0" / "dataset_info.json"
    os.utime(info, (1, 1))
    Tfds("photographs", "train", data_dir=str(data))
    assert len(list(cache.iterdir())) == 2


def test_without_a_cache_they_are_read_at_each_start(data, cache, capsys):
    cache.parent.mkdir()
    cache.write_text("no folder")
    assert len(Tfds("photographs", "train", data_dir=str(data))) == 40
    messages = capsys.readouterr().err
    assert "reading the labels of tfds:photographs [train], once: 40 records" in messages
    assert "the labels are not kept" in messages


def test_what_is_not_prepared_is_told_with_the_command(data, monkeypatch):
    build = r"`tfds build imagenet_r --file_format=array_record --data_dir=/nowhere`"
    with pytest.raises(NotPrepared, match=rf"imagenet_r is not prepared in /nowhere\. .*{build}"):
        Tfds("imagenet_r", "test", data_dir="/nowhere")
    with pytest.raises(NotPrepared, match=r"tfds build photographs:2\.0\.0 "):
        Tfds("photographs:2.0.0", "train", data_dir=str(data))
    with pytest.raises(NotPrepared, match=r"tfds build photographs/small "):
        Tfds("photographs/small", "train", data_dir=str(data))
    monkeypatch.setenv("TFDS_DATA_DIR", "/elsewhere")
    with pytest.raises(NotPrepared, match=r"not prepared in /elsewhere"):
        Tfds("photographs", "train")
    monkeypatch.setenv("TFDS_DATA_DIR", str(data))
    assert len(Tfds("photographs", "val")) == 12
    for spec in ("", "a b", "photographs:new", "photographs/", "../photographs"):
        with pytest.raises(UsageError, match=r"must be 'tfds:NAME\[/CONFIG\]\[:VERSION\]'"):
            Tfds(spec, "train", data_dir=str(data))


def changed(data, tmp_path, **fields):
    """A copy of the data set whose description has other fields."""
    folder = tmp_path / "photographs" / "1.0.0"
    folder.mkdir(parents=True)
    for path in (data / "photographs" / "1.0.0").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    info = folder / "dataset_info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | fields))
    return folder


def test_other_file_formats_cannot_be_read_at_random(data, tmp_path):
    changed(data, tmp_path, fileFormat="tfrecord")
    with pytest.raises(NotPrepared, match=r"as tfrecord files.*--file_format=array_record"):
        Tfds("photographs", "train", data_dir=str(tmp_path))


def test_other_features_are_named(data, tmp_path):
    folder = changed(data, tmp_path)
    features = json.loads((folder / "features.json").read_text())
    known = features["featuresDict"]["features"]
    known["picture"] = known.pop("image")
    (folder / "features.json").write_text(json.dumps(features))
    with pytest.raises(UsageError, match=r"features 'image' .* has file_name, label, picture"):
        Tfds("photographs", "train", data_dir=str(tmp_path))


def test_damaged_records_are_named(data, tmp_path, cache):
    folder = changed(data, tmp_path)
    source = Tfds("photographs", "train", data_dir=str(tmp_path))
    (shard,) = folder.glob("*train*")
    damaged = bytearray(shard.read_bytes())
    middle = damaged.index(bytes(1000)) // 2  # of the records, which are followed by zeros
    damaged[middle : middle + 8] = b"damaged!"
    shard.write_bytes(damaged)
    source = Tfds("photographs", "train", data_dir=str(tmp_path))
    unreadable = []
    for i in range(40):
        try:
            width = 20 + int(source.path(i).split("_")[1].removesuffix(".JPEG"))
            assert source.image(i).shape == (30, width, 3)
        except UnreadableImage as error:
            unreadable.append(str(error))
    assert len(unreadable) == 1
    assert re.search(r"n0\d/\S+ of tfds:photographs \[train\]", unreadable[0])
    for kept in cache.iterdir():
        kept.unlink()
    with pytest.raises(
        UsageError, match=r"Record \d+ of tfds:photographs \[train\] cannot be read"
    ):
        Tfds("photographs", "train", data_dir=str(tmp_path))


JOB = """
import sys
from pathlib import Path
import conftest  # for the same devices and compilation cache
import jax
from tiny import metrics_lines, tiny_config
from nsneg_jax.input.labelled import evaluation_batches
from nsneg_jax.input.loading import Loaders
from nsneg_jax.input.splits import open_split
from nsneg_jax.jobs.pretrain import pretrain
data, workdir = map(Path, sys.argv[1:])
classes = {"data.source": "tfds:photographs", "data.classes": "n01,n03", "data.tfds_dir": str(data)}
config = tiny_config(**classes, total_steps=2, epochs=4)
pretrain(config, workdir, jax.devices()[:1])
assert [line["step"] for line in metrics_lines(workdir)] == [2]
source = open_split(config.data, "val")
assert len(source) == 6
views = list(evaluation_batches(source, 4, Loaders(1), image_size=16, resize=0))
assert [view["valid"].sum() for view in views] == [4, 2]
assert "tensorflow_datasets" in sys.modules and "tensorflow" not in sys.modules
"""


@pytest.mark.slow
def test_pre_training_and_evaluation_without_tensorflow(data, tmp_path):
    """Where TensorFlow is installed it is not imported either: here, one that cannot be."""
    fake = tmp_path / "fake" / "tensorflow"
    fake.mkdir(parents=True)
    (fake / "__init__.py").write_text("raise AssertionError('TensorFlow is imported')")
    path = os.pathsep.join(map(str, (fake.parent, ROOT, ROOT / "tests", ROOT / "tests/helpers")))
    done = subprocess.run(
        [sys.executable, "-c", JOB, str(data), str(tmp_path / "run")],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "done: 2 steps" in done.stdout
