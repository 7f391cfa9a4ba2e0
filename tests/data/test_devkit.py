"""The labels of ImageNet's validation images, from devkits written by SciPy."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from data.devkit import read_mat, validation_wnids
from nsneg_jax.errors import UsageError

WNIDS = ["n02119789", "n02100735", "n02110185", "n02096294"]


def meta(**options):
    """meta.mat as in the devkit: an array of structs with numbers, strings and lists."""
    fields = [
        ("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("gloss", object),
        ("num_children", object), ("children", object), ("wordnet_height", object),
        ("num_train_images", object),
    ]  # fmt: skip
    synsets = np.empty((len(WNIDS), 1), fields)
    for i, wnid in enumerate(WNIDS):
        children = np.arange(i, dtype=np.uint16)
        row = (float(i + 1), wnid, "kit fox, Vulpes", "a grey fox", i, children, 0.0, 1300.0)
        synsets[i, 0] = row
    file = io.BytesIO()
    savemat(file, {"synsets": synsets, "note": "é"}, **options)
    return file.getvalue()


def devkit(path, labels, mat, folder="ILSVRC2012_devkit_t12/"):
    files = {
        "readme.txt": b"hello",
        "data/meta.mat": mat,
        "data/ILSVRC2012_validation_ground_truth.txt": "".join(f"{i}\n" for i in labels).encode(),
    }
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(folder + name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return str(path)


@pytest.mark.parametrize("compressed", [False, True])
def test_read_mat(compressed):
    variables = read_mat(meta(do_compression=compressed))
    assert variables["note"] == "é"
    assert [s["WNID"] for s in variables["synsets"]] == WNIDS
    assert [s["ILSVRC2012_ID"] for s in variables["synsets"]] == [1, 2, 3, 4]
    assert variables["synsets"][3]["children"] == (0, 1, 2)
    assert variables["synsets"][0]["words"] == "kit fox, Vulpes"
    assert len(variables["synsets"][0]) == 8


@pytest.mark.parametrize("folder", ["ILSVRC2012_devkit_t12/", "./", ""])
def test_labels(tmp_path, folder):
    labels = [4, 1, 1, 2, 3, 4]
    path = devkit(tmp_path / "devkit.tar.gz", labels, meta(do_compression=True), folder)
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
    devkit(tmp_path / "cut mat", [1], good[:400])
    for name in (*files, "other label", "other mat", "cut mat", "missing"):
        with pytest.raises(UsageError, match=r"ILSVRC2012_devkit_t12.*--val-labels"):
            validation_wnids(str(tmp_path / name))
