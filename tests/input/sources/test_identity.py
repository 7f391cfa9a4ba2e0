"""What is kept of the images of a run, and which changes are noticed when it resumes."""

import json
import os

import pytest
from photo_folder import write_photos

from nsneg_jax.errors import UsageError
from nsneg_jax.input.sources import identity as identities
from nsneg_jax.input.sources.folders.folder import Folder
from nsneg_jax.input.sources.identity import check_same_data, difference, identity
from nsneg_jax.input.sources.source import open_source

FILES = [f"{name}/{i}.png" for name in ("ant", "bee", "cat") for i in range(4)]


@pytest.fixture
def root(tmp_path):
    return write_photos(tmp_path / "data", FILES)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(identities, "_LEAST_BLOCK", 5)


def kept(root):
    """The identity of ROOT/train, as it comes out of a checkpoint."""
    return json.loads(json.dumps(identity(Folder(str(root), "train"))))


def found(root, before):
    source = Folder(str(root), "train")
    return difference(source, identity(source), before)


def test_another_place_and_layout_is_the_same(root, tmp_path):
    before = kept(root)
    assert before["images"] == 12 and before["classes"] == ["ant", "bee", "cat"]
    assert len(before["names"]) == 3 and len(before["sizes"]) == 12
    os.rename(root / "train", tmp_path / "moved")
    assert found(tmp_path / "moved", before) is None
    flat = tmp_path / "flat" / "train"
    flat.mkdir(parents=True)
    with open(tmp_path / "labels.csv", "w") as table:
        for path in sorted((tmp_path / "moved").glob("*/*")):
            name = f"{path.parent.name}{path.name}"
            (flat / name).symlink_to(path)
            table.write(f"{name},{path.parent.name}\n")
    labelled = Folder(str(tmp_path / "flat"), "train", labels=str(tmp_path / "labels.csv"))
    # The same classes and sizes, but other names.
    assert "among images 0 to 4, now ant/ant0.png" in difference(
        labelled, identity(labelled), before
    )


def test_a_renamed_class(root):
    before = kept(root)
    os.rename(root / "train" / "bee", root / "train" / "beetle")
    assert found(root, before) == "class 1 was 'bee' and is 'beetle'"


def test_a_class_more_or_less(root):
    before = kept(root)
    os.rename(root / "train" / "cat", root / "gone")
    assert found(root, before) == "there were 3 classes and there are 2; 'cat' is missing"
    after = kept(root)
    os.rename(root / "gone", root / "train" / "cat")
    assert found(root, after) == "there were 2 classes and there are 3; 'cat' is new"


def test_a_file_more_less_or_renamed(root):
    before = kept(root)
    os.rename(root / "train" / "bee" / "2.png", root / "train" / "bee" / "8.png")
    assert found(root, before) == (
        "the first other name is among images 5 to 9, now bee/1.png to cat/1.png"
    )
    (root / "train" / "bee" / "8.png").unlink()
    assert found(root, before).startswith("there were 12 images and there are 11; the first other")
    (root / "train" / "cat" / "3.png").unlink()
    (root / "train" / "cat" / "2.png").unlink()


def test_a_file_of_another_size(root):
    before = kept(root)
    path = root / "train" / "cat" / "1.png"
    size = path.stat().st_size
    path.write_bytes((root / "train" / "ant" / "0.png").read_bytes())
    other = path.stat().st_size
    assert found(root, before) == f"cat/1.png had {size:,} bytes and has {other:,}"
    # a file that was unreadable and is repaired, and one that has become unreadable
    source = Folder(str(root), "train")
    assert difference(source, identity(source), before, [f"/data/{source.path(9)}"]) is None
    path.write_bytes(b"other")
    assert found(root, before) is None
    path.unlink()
    path.symlink_to(root / "nowhere")  # its size is not known, and reading it fails
    assert found(root, before) is None


def test_other_contents_of_the_same_size(root):
    before = kept(root)
    path = root / "train" / "cat" / "1.png"
    other = (root / "train" / "ant" / "0.png").read_bytes()
    path.write_bytes(other.ljust(path.stat().st_size, b"\0"))
    assert found(root, before) == "cat/1.png has other contents"


def test_few_files_are_asked(root, monkeypatch):
    monkeypatch.setattr(identities, "_MOST_SIZES", 4)
    monkeypatch.setattr(identities, "_MOST_CONTENTS", 3)
    before = kept(root)
    assert len(before["contents"]) == 3
    assert before["sizes"] == [(root / "train" / FILES[i]).stat().st_size for i in (0, 3, 7, 11)]


def test_many_classes_are_known_by_the_names_of_their_images(root, monkeypatch):
    monkeypatch.setattr(identities, "_MOST_CLASSES", 2)
    before = kept(root)
    assert before["classes"] == []
    os.rename(root / "train" / "bee", root / "train" / "beetle")
    assert found(root, before).startswith("the first other name is among images 0 to 4")


def test_no_more_than_is_useful():
    """An identity is stored in each checkpoint."""

    class Many:
        name, classes = "many", tuple(f"n{i:08}" for i in range(1000))
        present = labels = ()

        def __len__(self):
            return 20_000

        def path(self, index):
            return f"{self.classes[index // 20]}/{index}.JPEG"

        def encoded(self, index):
            return b"bytes"

        def size(self, index):
            return 110_000

        def location(self, index):
            return self.path(index)

    assert len(json.dumps(identity(Many()))) < 100_000


def test_what_a_run_says(root, tmp_path):
    source = Folder(str(root), "train")
    now = identity(source)
    check_same_data(source, now, now, 12, tmp_path)
    check_same_data(source, now, None, 12, tmp_path)
    check_same_data(source, now, None, None, tmp_path)
    with pytest.raises(UsageError, match="there were 11 images and there are 12"):
        check_same_data(source, now, None, 11, tmp_path)


def test_built_in_images():
    ours, theirs = (open_source(f"shapes:10@{seed}", "train", image_size=16) for seed in (0, 1))
    before = identity(ours)
    assert difference(ours, identity(ours), before) is None
    assert theirs.name in difference(theirs, identity(theirs), before)
