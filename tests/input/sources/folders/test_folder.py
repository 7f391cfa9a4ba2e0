"""Folders of images, and how data sets are named."""

import os
import pickle
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from nsneg_jax.errors import UsageError
from nsneg_jax.input.decode import UnreadableImage
from nsneg_jax.input.sources.folders.folder import Folder
from nsneg_jax.input.sources.source import open_source


def save(path, grey=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    form = "PPM" if path.suffix.lower() == ".pgm" else "PNG"
    Image.new("RGB", (4, 3), (grey, grey, grey)).save(path, form)


@pytest.fixture
def root(tmp_path):
    for i, name in enumerate(["b/2.JPEG", "b/1.jpg", "a/x/y/3.Png", "a/0.tiff", "c/z.webp"]):
        save(tmp_path / "train" / name, 10 * i)
    save(tmp_path / "val" / "a" / "only.jpg")
    return tmp_path


def test_order_labels_and_pictures(root):
    folder = Folder(str(root), "train")
    assert folder.name == f"folder:{root} [train]"
    assert folder.classes == ("a", "b", "c")
    paths = [folder.path(i) for i in range(len(folder))]
    assert paths == ["a/0.tiff", "a/x/y/3.Png", "b/1.jpg", "b/2.JPEG", "c/z.webp"]
    assert folder.labels.dtype == np.int32
    np.testing.assert_array_equal(folder.labels, [0, 0, 1, 1, 2])
    assert [int(folder.image(i)[0, 0, 0]) for i in range(5)] == [30, 20, 10, 0, 40]
    assert folder.image(0).shape == (3, 4, 3)
    with pytest.raises(IndexError):
        folder.image(5)


def test_workers_share_names_and_labels(root):
    folder = Folder(str(root), "train")
    buffers = []
    rest = pickle.dumps(folder, protocol=5, buffer_callback=buffers.append)
    sizes = sorted(len(each.raw()) for each in buffers)
    assert sizes == sorted([len("a/0.tiffa/x/y/3.Pngb/1.jpgb/2.JPEGc/z.webp"), 6 * 8, 5 * 4, 3 * 4])
    copy = pickle.loads(rest, buffers=buffers)
    assert [copy.path(i) for i in range(5)] == [folder.path(i) for i in range(5)]
    np.testing.assert_array_equal(copy.image(3), folder.image(3))


def test_names_that_are_no_text(root):
    """File systems allow any bytes in a name."""
    name = os.fsdecode(b"b/\xff.png")
    save(root / "train" / name, 90)
    folder = Folder(str(root), "train", ["b"])
    assert [folder.path(i) for i in range(3)] == ["b/1.jpg", "b/2.JPEG", name]
    assert folder.image(2)[0, 0, 0] == 90


def test_what_counts_as_an_image(root):
    train = root / "train"
    for name in ("d/.hidden.jpg", "d/.cache/1.jpg", "d/note.txt", "d/jpg", "d/list.jpg.json"):
        (train / name).parent.mkdir(parents=True, exist_ok=True)
        (train / name).write_text("no image")
    (train / ".git").mkdir()
    (train / ".preview.jpg").write_text("not in a class")
    (train / "list.txt").write_text("no image")
    for ending in ("BMP", "gif", "PGM", "jpe", "tif", "PpM"):
        save(train / "d" / f"1.{ending}")
    folder = Folder(str(root), "train")
    assert folder.classes == ("a", "b", "c", "d")
    assert [folder.path(i) for i in range(5, len(folder))] == [
        "d/1.BMP", "d/1.PGM", "d/1.PpM", "d/1.gif", "d/1.jpe", "d/1.tif",
    ]  # fmt: skip


def test_links_are_followed_but_not_back(root, tmp_path, capsys):
    """A link that leads back would label images of other classes, or list them twice."""
    train = root / "train"
    outside = tmp_path / "outside"
    save(outside / "more" / "4.png", 40)
    (outside / "back").symlink_to(train / "a")
    (train / "d").symlink_to(root / "val" / "a")
    (train / "c" / "up").symlink_to("..")
    (train / "c" / "root").symlink_to("/")
    (train / "c" / "sibling").symlink_to(train / "b")
    (train / "c" / "again").symlink_to(train / "c")
    (train / "c" / "out").symlink_to(outside)
    (train / "c" / "out2").symlink_to(outside / "more")
    (train / "c" / "val").symlink_to(root / "val" / "a")
    (train / "c" / "itself").symlink_to("itself")
    (train / "c" / "link.jpg").symlink_to(train / "b" / "1.jpg")
    (train / "c" / "broken.jpg").symlink_to(root / "gone.jpg")
    (train / "e").symlink_to(".")
    for _ in range(2):
        folder = Folder(str(root), "train", ("c", "d", "e"), partial=True)
    assert [folder.path(i) for i in range(len(folder))] == [
        *("c/broken.jpg", "c/link.jpg", "c/out/more/4.png", "c/val/only.jpg", "c/z.webp"),
        "d/only.jpg",
    ]
    assert folder.image(1)[0, 0, 0] == 10
    with pytest.raises(UnreadableImage, match=r"broken\.jpg"):
        folder.image(0)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1  # though the folder was opened twice
    names = said[0].rpartition(": ")[2].split(", ")
    assert names == [
        f"c/{name}" for name in ("again", "out/back", "out2", "root", "sibling", "up")
    ] + ["e"]


def test_links_to_hidden_stores_and_chains_of_links(root):
    train = root / "train"
    save(train / ".store" / "7" / "5.png")
    (train / "c" / "part").symlink_to("../.store/7")
    for depth in range(30):  # 2 ** 30 paths
        step = root / "chain" / str(depth)
        step.mkdir(parents=True)
        for name in "xy":
            (step / name).symlink_to(f"../{depth + 1}")
    save(root / "chain" / "30" / "6.png")
    (train / "c" / "chain").symlink_to(root / "chain" / "0")
    folder = Folder(str(root), "train", ("c",))
    assert [folder.path(i) for i in range(len(folder))] == [
        f"c/chain/{'x/' * 30}6.png", "c/part/5.png", "c/z.webp",
    ]  # fmt: skip


def test_leftovers_of_file_servers_and_archives_are_no_classes(root):
    train = root / "train"
    for name in ("@eaDir", "__MACOSX", "a/@eaDir/0.tiff", "b/__MACOSX", "lost+found"):
        save(train / name / "thumb.jpg")
    save(train / "a" / "._0.tiff")
    (train / "a" / "Thumbs.db").write_bytes(b"")
    folder = Folder(str(root), "train")
    assert folder.classes == ("a", "b", "c") and len(folder) == 5


def test_a_choice_of_classes(root):
    folder = Folder(str(root), "train", ("c", "a", "c"))
    assert folder.classes == ("a", "c")
    np.testing.assert_array_equal(folder.labels, [0, 0, 1])
    with pytest.raises(UsageError, match=r"2 of the 3 classes.*: d, e\. Classes there: a, b"):
        Folder(str(root), "train", ("e", "a", "d"))
    with pytest.raises(UsageError, match="choice is empty"):
        Folder(str(root), "train", ())


def test_missing_and_empty_classes_keep_the_classifiers_labels(root):
    (root / "train" / "empty").mkdir()
    (root / "train" / "empty" / "note.txt").write_text("no image")
    (root / "train" / "a" / "list.txt").write_text("no image")
    (root / "train" / "b" / "2.JPEG.part").write_text("no image")
    # Not sorted, and 'c', which is there, is not among them.
    classes = ("z", "b", "empty", "missing", "a")
    folder = Folder(str(root), "train", classes, partial=True)
    assert folder.classes == classes
    paths = [folder.path(i) for i in range(len(folder))]
    assert paths == ["b/1.jpg", "b/2.JPEG", "a/0.tiff", "a/x/y/3.Png"]
    assert folder.labels.dtype == np.int32 and folder.present.dtype == np.int32
    np.testing.assert_array_equal(folder.labels, [1, 1, 4, 4])
    np.testing.assert_array_equal(folder.present, [1, 4])
    assert [int(folder.image(i)[0, 0, 0]) for i in range(4)] == [10, 0, 30, 20]


def test_partial_does_not_depend_on_the_order_on_disk(root, monkeypatch):
    classes = tuple("gfedcba")
    before = Folder(str(root), "train", classes, partial=True)
    monkeypatch.setattr("os.scandir", reversed_scandir(os.scandir))
    after = Folder(str(root), "train", classes, partial=True)
    np.testing.assert_array_equal(before.labels, after.labels)
    np.testing.assert_array_equal(before.labels, [4, 5, 5, 6, 6])
    assert [before.path(i) for i in range(5)] == [after.path(i) for i in range(5)]


def reversed_scandir(scandir):
    @contextmanager
    def listing(path):
        with scandir(path) as entries:
            yield iter(sorted(entries, key=lambda entry: entry.name, reverse=True))

    return listing


def test_partial_of_all_classes_is_the_whole(root):
    whole, partial = Folder(str(root), "train"), Folder(str(root), "train", tuple("abc"), True)
    np.testing.assert_array_equal(whole.labels, partial.labels)
    np.testing.assert_array_equal(whole.present, [0, 1, 2])
    np.testing.assert_array_equal(partial.present, [0, 1, 2])


def test_partial_needs_an_image_of_the_classifiers_classes(root):
    (root / "train" / "empty").mkdir()
    with pytest.raises(UsageError, match=r"None of the 2 classes .*: n01, empty\. .* there: a, b"):
        Folder(str(root), "train", ("n01", "empty"), partial=True)
    with pytest.raises(UsageError, match="no split 'test'"):
        Folder(str(root), "test", ("a",), partial=True)
    for classes in (None, (), ("a", "b", "a")):
        with pytest.raises(ValueError, match="different classes"):
            Folder(str(root), "train", classes, partial=True)


def test_class_folders_directly_in_the_root(root):
    assert len(Folder(str(root / "train"), ".")) == 5


def test_what_is_missing_is_named(root, tmp_path):
    with pytest.raises(UsageError, match="/nowhere is missing"):
        Folder("/nowhere", "train")
    with pytest.raises(UsageError, match="is not a folder"):
        Folder(str(root / "val" / "a" / "only.jpg"), "train")
    with pytest.raises(UsageError, match=r"no split 'test'\. Folders there: train, val"):
        Folder(str(root), "test")
    (root / "bare").mkdir()
    with pytest.raises(UsageError, match=r"no images in .*, and no class folders"):
        Folder(str(root), "bare")
    (root / "empty" / "k").mkdir(parents=True)
    with pytest.raises(
        UsageError, match=r"None of the 1 classes .* has a folder with an image: k\."
    ):
        Folder(str(root), "empty")
    (root / "train" / "void").mkdir()
    with pytest.raises(UsageError, match=r"1 of the 4 class folders .* no image: void"):
        Folder(str(root), "train")
    assert len(Folder(str(root), "train", ("a", "b"))) == 4


def test_open_source(root):
    source = open_source(f"folder:{root}", "train", image_size=32, classes="b")
    assert isinstance(source, Folder) and len(source) == 2
    assert len(open_source(f"folder:{root}", "train", image_size=32)) == 5
    for spec in ("imagenet", str(root), "Folder:/data", "folder:", ""):
        with pytest.raises(UsageError, match="must be 'folder:") as caught:
            open_source(spec, "train", image_size=32)
        assert repr(spec) in str(caught.value)
