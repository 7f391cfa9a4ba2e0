"""CIFAR-10 and -100 in every published form: one data set, and clear errors for damaged files."""

import pickle
import tarfile
from dataclasses import replace

import array_sets as made
import numpy as np
import pytest

from data import arrayrecord
from nsneg_jax.errors import UsageError
from nsneg_jax.input.decode import decode_image
from nsneg_jax.input.sources.arrays import cifar
from nsneg_jax.input.sources.folders.folder import Folder
from nsneg_jax.input.sources.identity import identity
from nsneg_jax.input.sources.source import open_source
from nsneg_jax.input.splits import check_pair

PER_FILE, TRAIN, TEST = 12, 20, 8


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The published numbers of images are 10,000 per file, and 50,000 and 10,000."""
    ten, hundred = cifar.SETS["cifar10"], cifar.SETS["cifar100"]
    per_file = {"train": PER_FILE, "test": PER_FILE}
    monkeypatch.setitem(cifar.SETS, "cifar10", replace(ten, per_file=per_file))
    per_file = {"train": TRAIN, "test": TEST}
    monkeypatch.setitem(cifar.SETS, "cifar100", replace(hundred, per_file=per_file))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Each form unpacked and packed, in folders of their own."""
    root = tmp_path_factory.mktemp("cifar")
    for name, form in {**made.cifar10(PER_FILE), **made.cifar100(TRAIN, TEST)}.items():
        form.write(root / name)
        (root / f"{name}-packed").mkdir()
        form.pack(root / f"{name}-packed" / f"{name}.tar.gz")
    return root


def opened(spec, split="train", classes=""):
    return open_source(str(spec), split, image_size=32, classes=classes)


def of_ten(root, split="train"):
    parts = range(5) if split == "train" else [5]
    images = np.concatenate([made.pixels(PER_FILE, i) for i in parts]).transpose(0, 2, 3, 1)
    return images, np.concatenate([made.labels(PER_FILE, 10, i) for i in parts])


TEN = (
    "cifar-10-python", "cifar-10-python/cifar-10-batches-py", "cifar-10-binary",
    "cifar-10-binary/cifar-10-batches-bin", "cifar-10-python-packed",
    "cifar-10-python-packed/cifar-10-python.tar.gz", "cifar-10-binary-packed",
)  # fmt: skip


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("place", TEN)
def test_every_form_of_ten_is_the_same_data_set(root, place, split):
    images, labels = of_ten(root, split)
    source = opened(f"cifar10:{root / place}", split)
    assert source.classes == made.TEN and len(source) == len(images)
    assert source.labels.dtype == np.int32 and source.present.tolist() == list(range(10))
    order = sorted(range(len(images)), key=lambda i: (labels[i], i))
    assert source.labels.tolist() == labels[order].tolist()
    for place, i in enumerate(order):
        assert source.path(place) == f"{made.TEN[labels[i]]}/{i:08}.ppm"
        assert f"image {i}" in source.location(place)
        np.testing.assert_array_equal(source.image(place), images[i])
    assert source.files() and all(map(len, source.files()))
    with pytest.raises(IndexError):
        source.image(len(images))


def test_it_is_the_folder_of_its_files(root, tmp_path):
    sources = [opened(f"cifar10:{root / place}") for place in TEN[::2]]
    for index in range(len(sources[0])):
        path = tmp_path / "folder" / "train" / sources[0].path(index)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sources[0].encoded(index))
    folder = Folder(str(tmp_path / "folder"), "train")
    # a run that began with one of them goes on with any other
    names = [{**identity(each), "sizes": None} for each in (folder, *sources)]
    assert all(each == names[0] for each in names[1:])
    np.testing.assert_array_equal(folder.image(7), sources[0].image(7))
    data = sources[0].encoded(7)
    np.testing.assert_array_equal(decode_image(data, "x"), sources[0].image(7))


def test_packed_and_sent_to_workers(root, tmp_path):
    source = opened(f"cifar10:{root / TEN[0]}")
    out = tmp_path / "packed"
    arguments = ["--source", f"cifar10:{root / TEN[0]}", "--out", str(out), "--splits", "train"]
    assert arrayrecord.main(arguments) == 0
    theirs = opened(f"arrayrecord:{out}")
    parts = []
    data = pickle.dumps(source, protocol=5, buffer_callback=parts.append)
    assert len(data) < 10_000  # the pixels are not copied for each worker
    copy = pickle.loads(data, buffers=parts)
    for other in (theirs, copy):
        assert [other.path(i) for i in range(60)] == [source.path(i) for i in range(60)]
        np.testing.assert_array_equal(other.image(11), source.image(11))


@pytest.mark.parametrize("form", ["cifar-100-python", "cifar-100-binary"])
@pytest.mark.parametrize("place", ["{0}", "{0}/{0}", "{0}-packed"])
def test_hundred(root, form, place):
    spec = f"cifar100:{root / place.format(form)}"
    labels = made.labels(TRAIN, 4, TRAIN)
    for suffix, names, own in (
        ("", made.FINE, labels), ("#fine", made.FINE, labels), ("#coarse", made.COARSE, labels // 2)
    ):  # fmt: skip
        source = opened(spec + suffix)
        assert source.classes == names and source.labels.tolist() == sorted(own.tolist())
        i = int(source.path(3).split("/")[1][:8])
        assert own[i] == source.labels[3]
        image = made.pixels(TRAIN, TRAIN)[i].transpose(1, 2, 0)
        np.testing.assert_array_equal(source.image(3), image)
    assert len(opened(spec, "val")) == TEST
    with pytest.raises(UsageError, match="'rough'"):
        opened(spec + "#rough")


@pytest.mark.parametrize("spec", [f"cifar10:{{}}/{place}" for place in TEN])
def test_a_probe_takes_the_splits_of_each_form(root, spec):
    train, test = (opened(spec.format(root), split) for split in ("train", "test"))
    check_pair(train, test)
    with pytest.raises(UsageError, match="are also in"):
        check_pair(train, opened(spec.format(root), "train[:50%]"))


def test_splits_parts_and_classes(root):
    spec = f"cifar10:{root / TEN[4]}"
    for split in ("val", "."):
        assert opened(spec, split).name == opened(spec, "test").name
    parts = [opened(spec, part) for part in ("train[:50%]", "train[50%:]")]
    assert len(parts[0]) + len(parts[1]) == 60 and 25 < len(parts[0]) < 35
    assert opened(spec, classes="cat,bird").classes == ("bird", "cat")
    for split, classes, word in (("unlabeled", "", "train, test"), ("train", "zebra", "zebra")):
        with pytest.raises(UsageError, match=word):
            opened(spec, split, classes)
    with pytest.raises(UsageError, match=r"data\.labels"):
        open_source(spec, "train", image_size=32, labels="x.csv")


def test_what_is_somewhere_else(root, tmp_path):
    """The message names what to give instead."""
    with pytest.raises(UsageError, match=r"cifar10:"):
        opened(f"folder:{root / TEN[4]}")
    with pytest.raises(UsageError, match=r"There is no CIFAR-100 .* cifar10:"):
        opened(f"cifar100:{root / TEN[0]}")
    for where in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UsageError, match=r"cifar-10-python\.tar\.gz"):
            opened(f"cifar10:{where}")
    with pytest.raises(UsageError, match="local folder"):
        opened("cifar10:gs://bucket/x")


def broken(tmp_path, form, change, packed=False):
    """The spec of a form whose files a function has changed."""
    name, own = next((n, f) for n, f in made.cifar10(PER_FILE).items() if form in n)
    change(own.files)
    if packed:
        return f"cifar10:{own.pack(tmp_path / f'{name}.tar.gz')}"
    return f"cifar10:{own.write(tmp_path)}"


def cut(name, by):
    return lambda files: files.update({name: files[name][:-by]})


def without(name):
    return lambda files: files.pop(name)


def other_batch(**values):
    flat = made.pixels(PER_FILE, 0).reshape(PER_FILE, -1)
    own = {"labels": made.listed([made.number(0)] * PER_FILE), "data": made.array(flat)}
    content = made.pickled(**{k: v for k, v in (own | values).items() if v})
    return lambda files: files.update({"data_batch_2": content})


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("form", "change", "word"),
    [
        ("python", without("data_batch_3"), "data_batch_3"),
        ("python", without("batches.meta"), "batches.meta"),
        ("python", cut("data_batch_3", 1000), "data_batch_3"),
        ("python", lambda files: files.update({"data_batch_3": b""}), "data_batch_3"),
        ("python", other_batch(labels=b""), "'labels'"),
        ("python", other_batch(labels=made.listed([made.number(1)])), "1 labels of 12"),
        ("python", other_batch(labels=made.listed([made.number(10)] * 12)), "0 to 9"),
        ("python", other_batch(labels=made.listed([made.text("x")] * 12)), "numbers"),
        ("python", other_batch(data=made.array(np.zeros((12, 3071), np.uint8))), "3072"),
        ("python", other_batch(data=made.text("x")), "no array"),
        ("binary", cut("data_batch_1.bin", 3073), "data_batch_1.bin"),
        ("binary", without("test_batch.bin"), "test_batch.bin"),
        ("binary", lambda files: files.update({"batches.meta.txt": b"\n"}), "batches.meta.txt"),
        ("binary", lambda files: files.update({"batches.meta.txt": b"a\nb\n"}), "0 to 1"),
    ],
)
def test_damaged_files(tmp_path, form, change, word, packed):
    spec = broken(tmp_path, form, change, packed)
    split = "test" if "test" in word else "train"
    with pytest.raises(UsageError) as error:
        opened(spec, split)
    assert word in str(error.value) and "again" in str(error.value)


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9])
def test_an_archive_that_was_not_downloaded_whole(tmp_path, part):
    spec = broken(tmp_path, "python", lambda files: None, packed=True)
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(UsageError, match=r"cifar-10-python\.tar\.gz .*again"):
        opened(spec)


def test_a_link_in_an_archive_is_not_followed(tmp_path):
    path = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("cifar-10-batches-py/batches.meta")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)
    with pytest.raises(UsageError, match=r"batches\.meta"):
        opened(f"cifar10:{path}")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar-10-python", "cifar-10-binary"])
def test_the_published_size(tmp_path, name, monkeypatch):
    """50,000 and 10,000 images of random pixels, from the archive and by workers."""
    monkeypatch.undo()
    form = made.cifar10(10_000)[name]
    form.pack(tmp_path / f"{name}.tar.gz")
    train, test = (opened(f"cifar10:{tmp_path}", split) for split in ("train", "test"))
    assert (len(train), len(test)) == (50_000, 10_000)
    assert np.bincount(train.labels).tolist() == [5_000] * 10
    number = int(train.path(49_999).split("/")[1][:8])
    image = made.pixels(10_000, number // 10_000)[number % 10_000].transpose(1, 2, 0)
    np.testing.assert_array_equal(train.image(49_999), image)
