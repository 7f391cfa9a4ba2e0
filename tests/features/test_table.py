"""Tables of features: what each format holds, and reading it back."""

import json

import numpy as np
import pytest

from nsneg_jax.errors import UsageError
from nsneg_jax.features.table import FORMATS, Table, read_table, write_table

NAMES = ("cat/a.jpg", "dog/é x.png", "dog/odd\udcff.jpg")


def table(**changes) -> Table:
    values = {
        "features": np.arange(12, dtype=np.float32).reshape(3, 4) / 7,
        "labels": np.array([0, 1, 1], np.int32),
        "indices": np.array([0, 2, 5], np.int32),
        "names": NAMES,
        "splits": ("train", "train", "val"),
        "classes": ("cat", "dog"),
        "about": {"encoder": "runs/patch, step 7", "image_size": 32},
    }
    return Table(**(values | changes))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("labelled", [True, False])
def test_comes_back(tmp_path, form, labelled):
    if form == "parquet":
        pytest.importorskip("pyarrow")
    unlabelled = {"classes": ("",), "labels": np.zeros(3, np.int32), "splits": ("",) * 3}
    written = table(**({} if labelled else unlabelled))
    path = tmp_path / f"features.{form}"
    write_table(path, written, form)
    found = read_table(path)
    for name in ("features", "labels", "indices"):
        np.testing.assert_array_equal(getattr(found, name), getattr(written, name))
        assert getattr(found, name).dtype == getattr(written, name).dtype
    assert list(found.names)[:2] == list(NAMES)[:2]
    assert found.names[2] in (NAMES[2], "dog/odd\\udcff.jpg")  # escaped where only UTF-8 will do
    assert list(found.splits) == list(written.splits)
    assert found.classes == written.classes and found.about == written.about
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_columns_of_parquet(tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("nsneg_jax.features.table._ROWS_AT_ONCE", 2)
    write_table(tmp_path / "f.parquet", table(), "parquet")
    found = parquet.read_table(tmp_path / "f.parquet")
    assert found.column_names == ["name", "split", "label", "class", "index", "features"]
    assert found["class"].to_pylist() == ["cat", "dog", "dog"]
    assert found["split"].to_pylist() == ["train", "train", "val"]
    np.testing.assert_array_equal(np.stack(found["features"].to_numpy()), table().features)
    assert json.loads(found.schema.metadata[b"about"])["image_size"] == 32
    assert parquet.ParquetFile(tmp_path / "f.parquet").num_row_groups == 2
    write_table(tmp_path / "g.parquet", table(classes=("",), splits=("",) * 3), "parquet")
    found = parquet.read_table(tmp_path / "g.parquet")
    assert all(found[name].null_count == 3 for name in ("split", "label", "class"))


def test_files_of_earlier_versions(tmp_path):
    arrays = {name: getattr(table(), name) for name in ("features", "labels", "indices")}
    np.savez(tmp_path / "features.npz", **arrays, classes=np.array(("cat", "dog")))
    found = read_table(tmp_path / "features.npz")
    assert found.classes == ("cat", "dog") and list(found.names) == ["0", "2", "5"]
    np.testing.assert_array_equal(found.features, arrays["features"])


@pytest.mark.parametrize("form", FORMATS)
def test_damaged_files_are_named(tmp_path, form):
    path = tmp_path / f"features.{form}"
    with pytest.raises(UsageError, match="There is no file"):
        read_table(path)
    path.write_bytes(b"PK damaged")
    with pytest.raises(UsageError, match="cannot be read"):
        read_table(path)
