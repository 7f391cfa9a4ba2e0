"""Any folder of images: flat or nested, with or without splits and classes."""

from pathlib import Path

import numpy as np
import pytest
from photo_folder import write_photos

from nsneg_jax.errors import UsageError
from nsneg_jax.input.sources.classes import UNLABELLED
from nsneg_jax.input.sources.folders.folder import Folder
from nsneg_jax.input.sources.folders.layout import place_of
from nsneg_jax.input.sources.protocol import has_classes


def write(root, *names):
    return str(write_photos(root, names, split=""))


def paths(source):
    return [source.path(i) for i in range(len(source))]


def test_images_directly_in_the_folder(tmp_path):
    root = write(tmp_path, "b.jpg", "A.png", "2019/07/x.jpg", "2019/a.jpg", ".trash/z.jpg")
    folder = Folder(root, "train")
    assert paths(folder) == ["2019/07/x.jpg", "2019/a.jpg", "A.png", "b.jpg"]
    assert folder.classes == UNLABELLED and not has_classes(folder)
    assert folder.labels.tolist() == [0] * 4 and folder.labels.dtype == np.int32
    assert folder.present.tolist() == [0] and folder.present.dtype == np.int32
    assert folder.image(1).shape[2] == 3 and folder.encoded(2) == (tmp_path / "A.png").read_bytes()
    assert paths(Folder(root, ".")) == paths(folder)


@pytest.mark.parametrize("given", ["{}", "{}/", "{}/train"])
def test_a_flat_split(tmp_path, given):
    write(tmp_path, "train/b.jpg", "train/a.jpg", "val/c.jpg")
    (tmp_path / "train" / "annotations").mkdir()
    (tmp_path / "train" / "annotations" / "a.xml").write_text("no image")
    folder = Folder(given.format(tmp_path), "train")
    assert paths(folder) == ["a.jpg", "b.jpg"] and not has_classes(folder)


def test_folders_directly_in_the_root_are_classes(tmp_path):
    root = write(tmp_path, "cat/1.jpg", "dog/x/2.jpg", "ant/3.jpg")
    (tmp_path / "videos" / "2019").mkdir(parents=True)
    for split in ("train", "."):
        folder = Folder(root, split)
        assert folder.classes == ("ant", "cat", "dog")
        assert paths(folder) == ["ant/3.jpg", "cat/1.jpg", "dog/x/2.jpg"]
    assert Folder(root, "train", ["dog"]).classes == ("dog",)
    # Only 'train' may be left out: images of another split would be those trained on.
    with pytest.raises(UsageError, match=r"no split 'val'\. Folders there: ant, cat"):
        Folder(root, "val")


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_path_of_the_split_itself(tmp_path, split):
    write(tmp_path, "train/cat/1.jpg", "train/dog/2.jpg", "val/cat/3.jpg", "val/dog/4.jpg")
    own = Folder(str(tmp_path / split), split)
    assert paths(own) == paths(Folder(str(tmp_path), split))
    # The other split is beside it.
    other = {"train": "val", "val": "train"}[split]
    with pytest.raises(UsageError, match=f"data.source=folder:{tmp_path}, "):
        Folder(str(tmp_path / split), other)


@pytest.mark.parametrize("below", ["imagenet", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC"])
def test_a_folder_above_the_data_folder(tmp_path, below):
    write(tmp_path, f"{below}/train/cat/1.jpg", f"{below}/val/3.jpg")
    with pytest.raises(UsageError, match=f"data.source=folder:{tmp_path}/{below}, "):
        Folder(str(tmp_path), "train")


def test_other_splits_are_not_trained_on(tmp_path):
    root = write(tmp_path, "Training/1.jpg", "test/2.jpg")
    with pytest.raises(UsageError, match=r"no split 'train'\. Folders there: Training, test"):
        Folder(root, "train")


def test_images_in_and_beside_folders_of_a_split(tmp_path):
    root = write(tmp_path, "train/cat/1.jpg", "train/dog/2.jpg", "train/README.jpg")
    with pytest.raises(UsageError, match=r"README\.jpg.*cat/1\.jpg.*data\.classes"):
        Folder(root, "train")
    assert paths(Folder(root, "train", ["cat"])) == ["cat/1.jpg"]
    assert paths(Folder(root, "train", ["dog", "ant"], partial=True)) == ["dog/2.jpg"]
    assert len(Folder(f"{root}/train", "train")) == 3


def test_classes_of_a_flat_folder_are_not_there(tmp_path):
    root = write(tmp_path, "val/1.jpg", "val/2.jpg")
    for partial in (False, True):
        with pytest.raises(UsageError, match=r"has no classes: images such as \d\.jpg.*: cat, dog"):
            Folder(root, "val", ["dog", "cat"], partial)


def test_relative_paths(tmp_path, monkeypatch):
    write(tmp_path, "photos/a.jpg", "photos/x/b.jpg")
    for start, given in (("photos", "."), ("photos/x", ".."), (".", "photos"), ("photos", "./")):
        monkeypatch.chdir(tmp_path / start)
        folder = Folder(given, "train")
        assert paths(folder) == ["a.jpg", "x/b.jpg"] and folder.image(1).ndim == 3


def test_the_place_of_a_split(tmp_path):
    write(tmp_path, "train/train/1.jpg", "train/val/1.jpg")
    assert place_of(str(tmp_path), "train") == (str(tmp_path / "train"), False)
    inner = str(tmp_path / "train")
    assert place_of(inner, "train") == (str(Path(inner) / "train"), False)
    assert place_of(inner, ".") == (inner, True)
