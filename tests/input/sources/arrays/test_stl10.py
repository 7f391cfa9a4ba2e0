"""STL-10 as its archive unpacks: orientation, splits, folds and damaged files."""

import pickle

import array_sets as made
import numpy as np
import pytest

from nsneg_jax.errors import UsageError
from nsneg_jax.input.decode import UnreadableImage
from nsneg_jax.input.sources.arrays import stl10
from nsneg_jax.input.sources.protocol import has_classes
from nsneg_jax.input.sources.source import open_source
from nsneg_jax.input.splits import check_pair

COUNTS = stl10.Counts({"train": 8, "test": 6, "unlabeled": 10}, 3)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The published numbers are 5,000, 8,000 and 100,000, and 1,000 per fold."""
    monkeypatch.setattr(stl10, "COUNTS", COUNTS)


@pytest.fixture
def data(tmp_path):
    form, pictures = made.stl10(*COUNTS.images.values(), COUNTS.per_fold)
    form.write(tmp_path)
    return tmp_path, pictures


def opened(root, split):
    return open_source(f"stl10:{root}", split, image_size=96)


@pytest.mark.parametrize("below", ["", "stl10_binary"])
def test_labelled_splits(data, below):
    root, pictures = data
    for split, number in (("train", 0), ("test", 1), ("val", 1)):
        source = opened(root / below, split)
        labels = made.labels(COUNTS.images[split.replace("val", "test")], 4, number)
        assert source.classes == made.STL and source.labels.tolist() == sorted(labels.tolist())
        for index in range(len(source)):
            i = int(source.path(index).split("/")[1][:8])
            assert source.path(index).split("/")[0] == made.STL[labels[i]]
            expected = pictures["train" if split == "train" else "test"][i]
            np.testing.assert_array_equal(source.image(index), expected)


def test_unlabelled_pictures(data):
    root, pictures = data
    source = opened(root, "unlabeled")
    assert not has_classes(source) and len(source) == 10
    copy = pickle.loads(pickle.dumps(source))  # as workers get it, with the file open
    for each in (source, copy):
        np.testing.assert_array_equal(each.image(9), pictures["unlabeled"][9])
    assert source.path(9) == "00000009.ppm" and len(opened(root, "unlabeled[:50%]")) == 5
    with pytest.raises(UsageError, match="no classes"):
        open_source(f"stl10:{root}", "unlabeled", image_size=96, classes="cat")


def test_folds(data):
    root, pictures = data
    for fold in (0, 9):
        source = opened(root, f"fold{fold}")
        expected = np.random.default_rng(fold).permutation(8)[:3]
        numbers = [int(source.path(i).split("/")[1][:8]) for i in range(len(source))]
        assert sorted(numbers) == sorted(expected.tolist())
        np.testing.assert_array_equal(source.image(0), pictures["train"][numbers[0]])
    check_pair(opened(root, "train"), opened(root, "test"))
    with pytest.raises(UsageError, match="are also in"):
        check_pair(opened(root, "train"), opened(root, "fold0"))
    with pytest.raises(UsageError, match="fold9"):
        opened(root, "fold10")


@pytest.mark.parametrize(
    ("file", "content", "split"),
    [
        ("train_X.bin", b"x" * 100, "train"),
        ("train_y.bin", bytes([1] * 7), "train"),
        ("train_y.bin", bytes([0] * 8), "train"),
        ("train_y.bin", bytes([5] * 8), "train"),
        ("class_names.txt", b"", "train"),
        ("fold_indices.txt", b"0 1\n", "fold0"),
        ("fold_indices.txt", b"0 1 2\n", "fold1"),
        ("fold_indices.txt", b"0 1 8\n", "fold0"),
        ("fold_indices.txt", b"0 1 x\n", "fold0"),
        *((name, None, "train") for name in ("train_X.bin", "train_y.bin", "class_names.txt")),
        ("unlabeled_X.bin", None, "unlabeled"),
    ],
)
def test_damaged_files(data, file, content, split):
    path = data[0] / "stl10_binary" / file
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(UsageError, match=f"{file}.*again"):
        opened(data[0], split)


def test_a_file_that_is_cut_later(data):
    root = data[0]
    source = opened(root, "unlabeled")
    path = root / "stl10_binary" / "unlabeled_X.bin"
    path.write_bytes(path.read_bytes()[:-5])
    source.image(0)
    with pytest.raises(UnreadableImage, match="image 9"):
        source.image(9)


def test_the_packed_archive(tmp_path):
    path = tmp_path / "stl10_binary.tar.gz"
    path.write_bytes(b"")
    for where in (tmp_path, path):
        with pytest.raises(UsageError, match="tar -xf"):
            opened(where, "unlabeled")
    with pytest.raises(UsageError, match=r"stl10_binary\.tar\.gz"):
        opened(tmp_path / "x", "unlabeled")
    with pytest.raises(UsageError, match="stl10:"):
        open_source(f"folder:{tmp_path}", "train", image_size=96)
