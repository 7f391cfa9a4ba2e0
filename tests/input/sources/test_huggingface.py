"""Local data sets of Hugging Face: labels and order of a folder of the same files."""

import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from nsneg_jax.errors import UsageError
from nsneg_jax.input.decode import UnreadableImage
from nsneg_jax.input.sources.folders.folder import Folder
from nsneg_jax.input.sources.protocol import has_classes
from nsneg_jax.input.sources.source import open_source

pa = pytest.importorskip("pyarrow", reason='needs pyarrow: pip install "nsneg_jax[hf]"')

import pyarrow.parquet as pq  # noqa: E402
from hf_sets import save_to_disk, table, write_parquet  # noqa: E402
from tfds_sets import jpeg  # noqa: E402

NAMES = ["n03", "n01", "n04", "n02"]  # numbered in another order than that of the names


def rows(images=24):
    rng = np.random.default_rng(0)
    return [
        (number % 3, f"x{number}.JPEG", jpeg(tuple(rng.integers(0, 256, 3)), (20 + number, 30)))
        for number in rng.permutation(images)
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The same images as a folder, saved, and as Parquet files."""
    root = tmp_path_factory.mktemp("hf")
    train, val = table(rows(), NAMES), table(rows(9), NAMES)
    for label, name, image in rows():
        path = root / "folder" / "train" / NAMES[label] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
    save_to_disk(root / "saved", {"train": train, "validation": val})
    save_to_disk(root / "single", train)
    for compression in ("none", "snappy"):
        write_parquet(root / compression / "data", "train", train, compression=compression)
        write_parquet(root / compression / "data", "validation", val, 1, compression=compression)
    return root


@pytest.fixture(params=["saved", "single", "none", "snappy"])
def source(request, data):
    return open_source(f"hf:{data / request.param}", "train", image_size=8, classes="n01,n03,n04")


def test_labels_order_and_images_are_the_folders(data, source):
    folder = Folder(str(data / "folder"), "train")
    assert source.classes == folder.classes == ("n01", "n03", "n04")
    assert source.labels.tolist() == folder.labels.tolist() and source.labels.dtype == np.int32
    assert source.present.tolist() == [0, 1, 2] and len(source) == len(folder) == 24
    for _ in range(2):  # later reads of a Parquet file take another way
        for i in np.random.default_rng(1).permutation(24).tolist():
            assert source.path(i) == folder.path(i)
            assert source.encoded(i) == folder.encoded(i)
    np.testing.assert_array_equal(source.image(3), folder.image(3))
    assert source.files() and all(map(os.path.isfile, source.files()))
    with pytest.raises(IndexError):
        source.image(24)


def test_threads_and_workers(data, source):
    folder = Folder(str(data / "folder"), "train")
    order = np.random.default_rng(2).integers(0, 24, 200).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(source.encoded, order)) == [folder.encoded(i) for i in order]
    copy = pickle.loads(pickle.dumps(source))  # its files are open
    assert [copy.encoded(i) for i in range(24)] == [folder.encoded(i) for i in range(24)]


def test_images_are_read_where_they_are_in_the_file(data):
    """Not from the decoded row group, unless that is compressed."""
    for name, decoded in (("none", False), ("snappy", True)):
        source = open_source(f"hf:{data / name}", "train", image_size=8, classes="n01,n03,n04")
        for i in range(24):
            source.encoded(i)
        groups = source._records.opened()
        assert bool(groups._kept) == decoded
        assert all((group.places is None) == decoded for group in groups.groups)


def test_classes_of_a_classifier_and_all(data):
    spec = f"hf:{data / 'saved'}"
    assert open_source(spec, "train", image_size=8).classes == tuple(sorted(NAMES))
    with pytest.raises(UsageError, match=r"1 of the 2 classes asked for have no image .*: n02"):
        open_source(spec, "train", image_size=8, classes="n02,n01")


@pytest.mark.parametrize("name", ["saved", "none"])
def test_splits(data, name):
    for split in ("val", "validation", "."):
        assert len(open_source(f"hf:{data / name}", split, image_size=8)) == 9
    with pytest.raises(UsageError, match=r"no split 'test'.* train, validation"):
        open_source(f"hf:{data / name}", "test", image_size=8)


@pytest.mark.parametrize(
    ("file", "config", "split"),
    [
        ("data/train-00000-of-00001-0123456789abcdef.parquet", "", "train"),
        ("train-00000-of-00001.parquet", "", "train"),
        ("validation.parquet", "", "val"),
        ("big/test-00000-of-00001.parquet", "/big", "test"),
        ("big/train/0000.parquet", "/big", "train"),
        ("train/part-0.parquet", "", "train"),
        ("some name.parquet", "", "train"),
    ],
)
def test_names_of_parquet_files(tmp_path, file, config, split):
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table(rows(4), NAMES), path)
    assert len(open_source(f"hf:{tmp_path}{config}", split, image_size=8)) == 4
    assert len(open_source(f"hf:{tmp_path}", split, image_size=8)) == 4


def test_configs(tmp_path):
    for name in ("small", "large"):
        write_parquet(tmp_path / name, "train", table(rows(6 + len(name)), NAMES))
    with pytest.raises(UsageError, match=r"several configs.* large, small"):
        open_source(f"hf:{tmp_path}", "train", image_size=8)
    with pytest.raises(UsageError, match="no config 'middle'"):
        open_source(f"hf:{tmp_path}/middle", "train", image_size=8)
    assert len(open_source(f"hf:{tmp_path}/small/", "train", image_size=8)) == 11


CARD = """---
license: mit
configs:
- config_name: default
  data_files:
  - split: train
    path: "first/*.parquet"
  - split: test
    path: ["second/b.parquet"]
- config_name: other
  data_files: {train: second/*}
dataset_info:
  features:
  - name: image
    dtype: image
  - name: label
    dtype:
      class_label:
        names:
          '0': n03
          '1': n01
          '2': n04
---
# A set
"""


def test_the_readme_names_files_and_classes(tmp_path):
    (tmp_path / "README.md").write_text(CARD)
    plain = table(rows(6), NAMES).replace_schema_metadata(None)
    for name in ("first/a", "second/b", "second/c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pq.write_table(plain, tmp_path / f"{name}.parquet")
    sizes = {"": [("train", 6), ("test", 6)], "/other": [("train", 12)]}
    for config, splits in sizes.items():
        for split, size in splits:
            found = open_source(f"hf:{tmp_path}{config}", split, image_size=8)
            assert len(found) == size and found.classes == ("n01", "n03", "n04")


def test_labels_of_other_kinds(tmp_path):
    texts = [(("b", "a", None)[i % 3], name, data) for i, (_, name, data) in enumerate(rows(6))]
    save_to_disk(tmp_path / "texts", table(texts, None))
    found = open_source(f"hf:{tmp_path}/texts", "train", image_size=8)
    assert found.classes == ("a", "b") and found.labels.tolist() == [0, 0, 1, 1]
    save_to_disk(tmp_path / "numbers", table(rows(6), None))
    assert open_source(f"hf:{tmp_path}/numbers", ".", image_size=8).classes == ("0", "1", "2")
    both = table(rows(6), NAMES, label="fine")
    both = both.append_column("coarse", both.column("fine"))
    both = both.replace_schema_metadata(
        {"huggingface": both.schema.metadata[b"huggingface"].replace(b'"fine"', b'"coarse"')}
    )
    save_to_disk(tmp_path / "two", both)
    assert open_source(f"hf:{tmp_path}/two#coarse", "train", image_size=8).classes[0] == "n01"
    with pytest.raises(UsageError, match=r"no column 'x'.* image, fine, coarse"):
        open_source(f"hf:{tmp_path}/two#x", "train", image_size=8)


@pytest.mark.parametrize("label", [None, "label"])
def test_images_without_labels(tmp_path, label):
    unknown = [(-1, name, data) for _, name, data in rows(12)]
    save_to_disk(tmp_path / "x", table(unknown, NAMES if label else None, files=False, label=label))
    source = open_source(f"hf:{tmp_path}/x", "train", image_size=8)
    assert not has_classes(source) and source.labels.tolist() == [0] * 12
    assert [source.path(i) for i in range(12)] == [f"{i:08}" for i in range(12)]
    assert source.encoded(3) == unknown[3][2]
    with pytest.raises(UsageError, match="has no classes"):
        open_source(f"hf:{tmp_path}/x", "train", image_size=8, classes="n01")


def test_images_that_are_not_in_the_table(tmp_path):
    (tmp_path / "there.jpg").write_bytes(rows(1)[0][2])
    found = [(0, str(tmp_path / "there.jpg"), None), (0, "y.jpg", None), (0, "z.jpg", b"damaged")]
    save_to_disk(tmp_path / "x", table(found, NAMES))
    source = open_source(f"hf:{tmp_path}/x", "train", image_size=8)
    assert source.path(0) == "n03/there.jpg" and source.image(0).ndim == 3
    for i in (1, 2):
        with pytest.raises(UnreadableImage, match=r"n03/[yz]\.jpg of hf:"):
            source.image(i)


def test_what_is_no_data_set(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("missing", "empty", "a/b/c"):
        with pytest.raises(UsageError, match=r"no data set hf:.*save_to_disk"):
            open_source(f"hf:{tmp_path}/{name}", "train", image_size=8)
    pq.write_table(pa.table({"text": ["a"], "label": [1]}), tmp_path / "train.parquet")
    with pytest.raises(UsageError, match=r"one column of images.* text, label"):
        open_source(f"hf:{tmp_path}", "train", image_size=8)
    (tmp_path / "train.parquet").write_bytes(b"PAR1 and no more PAR1")
    with pytest.raises(UsageError, match="cannot be read"):
        open_source(f"hf:{tmp_path}", "train", image_size=8)
