"""The labels of ImageNet's validation images, from devkits written by SciPy."""

from pathlib import Path

import pytest
from devkits import WNIDS, devkit, meta

from data.devkit import read_mat, validation_wnids
from nsneg_jax.errors import UsageError


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
