"""The files of MNIST and Fashion-MNIST, made here and, where it is installed, the real set."""

import gzip
from pathlib import Path

import array_sets as made
import numpy as np
import pytest

from nsneg_jax.errors import UsageError
from nsneg_jax.input.decode import decode_image
from nsneg_jax.input.sources.arrays.source import SCHEMES, published_images
from nsneg_jax.input.sources.source import is_arrays, is_files, open_source
from nsneg_jax.input.splits import check_pair

FASHION = Path("/usr/share/datasets/fashion-mnist")


def opened(root, split="train"):
    return open_source(f"idx:{root}", split, image_size=28)


@pytest.mark.parametrize("packed", [False, True])
def test_splits(tmp_path, packed):
    form, pictures = made.mnist(30, 20, packed)
    root = form.write(tmp_path)
    for split, count in (("train", 30), ("test", 20), ("val", 20)):
        source = opened(root, split)
        assert source.classes == tuple("0123456789") and len(source) == count
        assert source.labels.tolist() == sorted(made.labels(count, 10, count).tolist())
        i = int(source.path(4).split("/")[1].removesuffix(".pgm"))
        expected = pictures["train" if split == "train" else "test"][i]
        np.testing.assert_array_equal(source.image(4), np.stack([expected] * 3, -1))
        np.testing.assert_array_equal(decode_image(source.encoded(4), "x"), source.image(4))
    check_pair(opened(root, "train"), opened(root, "test"))
    with pytest.raises(UsageError, match="idx:"):
        open_source(f"folder:{root}", "train", image_size=28)


def test_files_with_a_point_in_their_names(tmp_path):
    form, _ = made.mnist(10, 10, packed=False)
    form.files = {name.replace("-idx", ".idx"): data for name, data in form.files.items()}
    assert len(opened(form.write(tmp_path), "test")) == 10


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        (IMAGES, None),
        (LABELS, None),
        (IMAGES, made.idx(made.pixels(30, 0, (28, 28)))[:-1]),
        (IMAGES, made.idx(made.pixels(30, 0, (28, 28))) + b"x"),
        (IMAGES, made.idx(made.pixels(30, 0, (28,)))),
        (IMAGES, b"\0\0\x0d\x03" + made.idx(made.pixels(30, 0, (28, 28)))[4:]),
        (IMAGES, b"\0\0\x08\x03" + b"\xff" * 12),
        (IMAGES, b""),
        (IMAGES, b"\0\0\x08\x03" + b"\0" * 12),
        (LABELS, made.idx(np.zeros(29, np.uint8))),
    ],
)
def test_damaged_files(tmp_path, file, content):
    form, _ = made.mnist(30, 10, packed=False)
    root = form.write(tmp_path)
    (root / file).unlink() if content is None else (root / file).write_bytes(content)
    with pytest.raises(UsageError, match=file):
        opened(root)


def test_a_damaged_archive(tmp_path):
    form, _ = made.mnist(30, 10)
    path = form.write(tmp_path) / f"{IMAGES}.gz"
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 1
    for data in (whole[:-100], whole[:5], b"", bytes(changed), gzip.compress(b"x")):
        path.write_bytes(data)
        with pytest.raises(UsageError, match=rf"{IMAGES}\.gz is damaged .*again"):
            opened(path.parent)


def test_names_of_sources():
    assert set(SCHEMES) == {"cifar10", "cifar100", "stl10", "idx"}
    for scheme in SCHEMES:
        assert is_files(f"{scheme}:x") and is_arrays(f"{scheme}:x") and not is_files(f"{scheme}:")
    assert not is_arrays("folder:x")


@pytest.mark.parametrize(
    ("spec", "split", "images"),
    [
        ("cifar10:x", "train", 50_000),
        ("cifar100:x", "test", 10_000),
        ("stl10:x", "unlabeled", 100_000),
        ("stl10:x", "fold3", 1_000),
        ("cifar10:x", "train[:50%]", None),
        ("idx:x", "train", None),
        ("folder:x", "train", None),
    ],
)
def test_numbers_of_images_for_a_plan(spec, split, images):
    assert published_images(spec, split) == images


@pytest.mark.skipif(not FASHION.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_fashion_mnist():
    source = opened(FASHION, "test")
    assert np.bincount(source.labels).tolist() == [1_000] * 10
    assert source.image(0).shape == (28, 28, 3) and 30 < source.image(0).mean() < 150
    assert source.path(0).startswith("0/")
