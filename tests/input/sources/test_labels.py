"""Labels from a file: tables, Kaggle's, and small devkits of ImageNet."""

from pathlib import Path

import numpy as np
import pytest
from devkits import WNIDS, devkit, meta
from photo_folder import write_photos

from nsneg_jax.errors import UsageError
from nsneg_jax.input.sources.folders.folder import Folder
from nsneg_jax.input.sources.lists.labels import Labels, validation_wnids


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("folder", ["ILSVRC2012_devkit_t12/", "./", ""])
def test_labels(tmp_path, folder, compressed):
    labels = [4, 1, 1, 2, 3, 4]
    path = devkit(tmp_path / "devkit.tar.gz", labels, meta(do_compression=compressed), folder)
    assert validation_wnids(path) == [WNIDS[i - 1] for i in labels]


def test_what_is_no_devkit(tmp_path):
    good = meta()
    files = {
        "empty": b"",
        "text": b"no archive",
        "cut": Path(devkit(tmp_path / "x", [1], good)).read_bytes()[:300],
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    devkit(tmp_path / "other label", [5], good)
    devkit(tmp_path / "other mat", [1], b"MATLAB 7.3" + bytes(200))
    newer = good[:124] + b"\x00\x02IM" + good[128:]  # the version of a file in HDF5
    devkit(tmp_path / "newer mat", [1], newer)
    devkit(tmp_path / "cut mat", [1], good[:400])
    for name in (*files, "other label", "other mat", "newer mat", "cut mat", "missing"):
        with pytest.raises(UsageError, match=r"ILSVRC2012_devkit_t12.*one wnid per line"):
            validation_wnids(str(tmp_path / name))


def lines(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in rows))
    return str(path)


KAGGLE = (
    "ImageId,PredictionString",
    "ILSVRC2012_val_00000002,n02 10 20 30 40 n02 5 6 7 8 ",
    "ILSVRC2012_val_00000001,n01 1 2 3 4 ",
    "ILSVRC2012_val_00000003,n02 1 2 3 4",
)
VAL = [f"ILSVRC2012_val_0000000{i}.JPEG" for i in (1, 2, 3)]


@pytest.mark.parametrize(
    "place", ["", "ILSVRC", "ILSVRC/Data", "ILSVRC/Data/CLS-LOC", "ILSVRC/Data/CLS-LOC/val"]
)
def test_kaggles_validation_images(tmp_path, place):
    """Its table is found, and the images are those of class folders in all respects."""
    write_photos(tmp_path, VAL, "ILSVRC/Data/CLS-LOC/val")
    lines(tmp_path / place / "LOC_val_solution.csv", *KAGGLE)
    write_photos(tmp_path / "folders", ["n01/" + VAL[0], "n02/" + VAL[1], "n02/" + VAL[2]], "val")
    root = str(tmp_path / "ILSVRC/Data/CLS-LOC")
    ours, theirs = Folder(root, "val"), Folder(str(tmp_path / "folders"), "val")
    assert same(ours, theirs)
    assert same(Folder(f"{root}/val", "val"), theirs)
    assert Folder(root, "val", ["n02"]).labels.tolist() == [0, 0]
    part = Folder(root, "val", ["n09", "n02"], partial=True)
    assert part.labels.tolist() == [1, 1] and part.present.tolist() == [1]


def same(ours, theirs):
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    assert ours.labels.dtype == np.int32 and ours.present.tolist() == theirs.present.tolist()
    for i in range(len(theirs)):
        assert ours.encoded(i) == theirs.encoded(i) and ours.size(i) == theirs.size(i)
        np.testing.assert_array_equal(ours.image(i), theirs.image(i))
    names = [[source.path(i) for i in range(len(source))] for source in (ours, theirs)]
    return ours.classes == theirs.classes and names[0] == names[1]


def test_a_table_of_other_images_is_not_used(tmp_path):
    lines(tmp_path / "LOC_val_solution.csv", *KAGGLE)
    write_photos(tmp_path, ["1.jpg", "2.jpg"], "photos")
    assert Folder(str(tmp_path / "photos"), "train").classes == ("",)
    write_photos(tmp_path, [*VAL, "ILSVRC2012_val_00000004.JPEG"], "val")
    with pytest.raises(UsageError, match=r"does not name 1 of the 4 .*00000004\.JPEG"):
        Folder(str(tmp_path), "val")


@pytest.mark.parametrize(
    ("file", "rows"),
    [
        ("a.csv", ["path,class", "x/1.jpg,golden retriever", "x/2.jpg,cat", "3.jpg,cat"]),
        ("a.csv", ["1,golden retriever,0.5", "2,cat,0.1", "", "3,cat,9"]),
        ("a.tsv", ["val/x/1.jpg\tgolden retriever", "./x/2.jpg\tcat", "val/3.jpg\tcat"]),
        ("a.csv", ['"x/1.jpg", "golden retriever"', "x/2.jpg, cat", "3.jpg, cat", "4.jpg, ant"]),
        ("a.txt", ["\ufeffx/1.jpg dog", "x/2.jpg cat", "3.jpg cat"]),
    ],
)
def test_tables(tmp_path, file, rows):
    write_photos(tmp_path, ["x/1.jpg", "x/2.jpg", "3.jpg"], "val")
    folder = Folder(str(tmp_path), "val", labels=lines(tmp_path / file, *rows))
    dog = "dog" if "dog" in rows[0] else "golden retriever"
    assert folder.classes == ("cat", dog)
    names = [folder.path(i) for i in range(3)]
    assert names == ["cat/3.jpg", "cat/x/2.jpg", f"{dog}/x/1.jpg"]
    assert folder.labels.tolist() == [0, 0, 1]


def test_class_folders_that_a_table_does_not_name_stay_classes(tmp_path):
    write_photos(tmp_path, ["n01/1.JPEG", "n02/1.JPEG"], "train")
    table = lines(tmp_path / "val.csv", *KAGGLE)
    assert Folder(str(tmp_path), "train", labels=table).classes == ("n01", "n02")


def test_wnids_by_number_and_devkit(tmp_path):
    write_photos(tmp_path, VAL, "val")
    wnids = [WNIDS[i] for i in (1, 0, 1)]
    table = lines(tmp_path / "labels.txt", *wnids)
    kit = devkit(tmp_path / "kit.tar.gz", [2, 1, 2], meta())
    for path in (table, kit):
        folder = Folder(str(tmp_path), "val", labels=path)
        assert folder.classes == tuple(sorted(set(wnids)))
        by_name = {folder.path(i): folder.classes[folder.labels[i]] for i in range(3)}
        assert by_name == {f"{w}/{name}": w for w, name in zip(wnids, VAL, strict=True)}
    (tmp_path / "kit.tar.gz").rename(tmp_path / "ILSVRC2012_devkit_t12.tar.gz")
    assert same(Folder(str(tmp_path), "val"), folder)
    assert Labels(table).of("photo_1.jpg") is None


@pytest.mark.parametrize(
    "rows", [[], ["a,b", "c"], ["n01", "n02"], ["1.jpg"], ["1.jpg,", "2.jpg, "]]
)
def test_what_is_no_table(tmp_path, rows):
    path = lines(tmp_path / "labels.csv", *rows)
    with pytest.raises(UsageError, match=r"labels\.csv") as error:
        Labels(path)
    assert "columns" in str(error.value)
    with pytest.raises(UsageError, match=r"missing\.csv"):
        Labels(str(tmp_path / "missing.csv"))
