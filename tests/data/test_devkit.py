"""The labels of ImageNet's validation images, from small devkits."""

from pathlib import Path

import pytest
from devkits import WNIDS, devkit, meta

from data.imagenet100 import validation_wnids
from nsneg_jax.errors import UsageError


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
        with pytest.raises(UsageError, match=r"ILSVRC2012_devkit_t12.*--val-labels"):
            validation_wnids(str(tmp_path / name))
