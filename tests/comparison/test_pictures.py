"""A user's data set as the pictures of a comparison: the split, the files, what is refused."""

import json

import numpy as np
import pytest
from PIL import Image

from nsneg_jax.comparison import columns
from nsneg_jax.comparison.pictures import data_of, prepare, split
from nsneg_jax.errors import UsageError
from nsneg_jax.input.sources.source import open_files


@pytest.fixture(autouse=True)
def _one_corruption(monkeypatch):
    """Others take seconds to compile."""
    monkeypatch.setattr(columns, "CORRUPTIONS", (("contrast", 3),))


def write(root, counts, first=0):
    """Writes ROOT/CLASS/NUMBER.png of 24 x 16 pixels, all different."""
    rng = np.random.default_rng(first)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (16, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{first + number}.png")
    return root


def paths(source, indices):
    return {source.path(int(index)) for index in indices}


def test_a_folder_of_classes_is_split_by_names_alone(tmp_path):
    root = write(tmp_path / "flowers", {"rose": 20, "tulip": 40})
    parts = split(data_of(str(root)), 16, 1000)
    labels = np.asarray(parts.source.labels)
    assert [np.bincount(labels[part]).tolist() for part in parts[:3]] == [[14, 28], [2, 4], [4, 8]]
    chosen = [paths(parts.source, part) for part in parts[:3]]
    assert not chosen[0] & chosen[1] and not chosen[0] & chosen[2] and not chosen[1] & chosen[2]
    assert len(set.union(*chosen)) == 60
    tested = chosen[2]
    rng = np.random.default_rng(9)
    for number in range(100, 105):  # five more: who was tested first is still
        pixels = rng.integers(0, 256, (16, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "rose" / f"{number}.png")
    more = split(data_of(str(root)), 16, 1000)
    again = paths(more.source, more.test)
    old = {name for name in again if int(name.partition("/")[2][:-4]) < 100}
    assert old <= tested and len(again) == 5 + 8


def test_fewer_pictures_of_each_class_alike(tmp_path):
    root = write(tmp_path / "flowers", {"rose": 20, "tulip": 40})
    whole, some = (split(data_of(str(root)), 16, most) for most in (1000, 21))
    labels = np.asarray(some.source.labels)
    assert np.bincount(labels[some.train]).tolist() == [7, 14]
    assert paths(some.source, some.train) < paths(whole.source, whole.train)
    assert paths(some.source, some.test) == paths(whole.source, whole.test)


@pytest.mark.parametrize("name", ["val", "test", "Validation"])
def test_a_split_of_its_own_is_the_test(tmp_path, name):
    write(tmp_path / "train", {"rose": 10, "tulip": 10})
    write(tmp_path / name, {"rose": 3, "tulip": 2}, first=50)
    parts = split(f"folder:{tmp_path}", 16, 1000)
    assert parts.held_out is not parts.source and len(parts.test) == 5
    assert len(parts.train) + len(parts.choose) == 20


def test_the_files_of_all_columns(tmp_path):
    root = write(tmp_path / "flowers", {"rose": 10, "tulip": 15})
    (root / "rose" / "0.png").write_bytes(b"no picture")
    folder = tmp_path / "work" / "pictures"
    about = prepare(f"folder:{root}", 16, 1000, folder)
    assert (about["test"] + about["train"] + about["choose"], about["unreadable"]) == (24, 1)
    sources = {
        name: open_files(f"folder:{folder}", name)
        for name in ("train", "choose", "clean", "restyled", "edges", "shuffled")
    }
    sources["corruption"] = open_files(f"folder:{folder}/corruption/contrast", "3")
    tested = [sources["clean"].path(i) for i in range(about["test"])]
    for name, source in sources.items():
        assert source.classes == ("rose", "tulip")
        assert source.image(0).shape == (16, 16, 3)
        if name not in ("train", "choose"):
            assert [source.path(i) for i in range(len(source))] == tested
    assert len(sources["train"]) == about["train"]
    # the central square of a file
    whole = open_files(f"folder:{root}", "train")
    first = sources["clean"]
    original = whole.image(int(first.path(0).partition("/")[2][:-4]))
    assert (first.image(0) == original[:, 4:20]).all()


def test_what_a_stopped_start_left_is_made_again_and_what_is_whole_is_kept(tmp_path):
    root = write(tmp_path / "flowers", {"rose": 10, "tulip": 15})
    folder = tmp_path / "pictures"
    (folder / "train" / "lily").mkdir(parents=True)
    about = prepare(f"folder:{root}", 16, 1000, folder)
    assert not (folder / "train" / "lily").exists()
    assert json.loads((folder / "pictures.json").read_text()) == about
    (folder / "train" / "rose" / "note").touch()
    assert prepare(f"folder:{root}", 16, 1000, folder) == about
    assert (folder / "train" / "rose" / "note").exists()


def test_the_built_in_shapes():
    parts = split("shapes:100@7", 32, 1000)
    assert (len(parts.train), len(parts.choose), len(parts.test)) == (90, 10, 100)
    assert (parts.source.image(0) != parts.held_out.image(0)).any()


def test_pictures_without_labels_are_refused_with_what_is_needed(tmp_path):
    write(tmp_path, {"all": 6})
    for place in (tmp_path, tmp_path / "all"):
        with pytest.raises(UsageError, match=r"FOLDER/CLASS/NAME\.jpg"):
            split(f"folder:{place}", 16, 1000)


def test_too_few_pictures_of_a_class(tmp_path):
    write(tmp_path, {"rose": 10, "tulip": 4})
    with pytest.raises(UsageError, match=r"tulip .* has 4 pictures, but 5"):
        split(f"folder:{tmp_path}", 16, 1000)


def test_too_few_pictures_in_all(tmp_path):
    write(tmp_path, {"rose": 9, "tulip": 9})
    with pytest.raises(UsageError, match="12 pictures to train on, but at least 16"):
        split(f"folder:{tmp_path}", 16, 1000)


def test_splits_of_different_classes(tmp_path):
    write(tmp_path / "train", {"rose": 10, "tulip": 10})
    write(tmp_path / "val", {"rose": 3, "lily": 2}, first=50)
    with pytest.raises(UsageError, match="'lily' is in one"):
        split(f"folder:{tmp_path}", 16, 1000)
