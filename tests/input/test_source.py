"""How data.source and data.classes are read."""

from pathlib import Path

import pytest

from nsneg_jax.errors import UsageError
from nsneg_jax.input.source import class_names, open_source

ROOT = Path(__file__).parents[2]


def test_classes_from_the_command_line():
    assert class_names("n01, n02,n03") == ("n01", "n02", "n03")


def test_classes_from_the_shipped_list():
    names = class_names(str(ROOT / "data" / "imagenet100.tsv"))
    assert len(set(names)) == 100
    assert all(len(name) == 9 and name.startswith("n") for name in names)


@pytest.mark.parametrize("classes", ["nowhere/list.txt", "list.tsv", " , "])
def test_classes_that_name_nothing(classes):
    with pytest.raises(UsageError, match=r"data\.classes"):
        class_names(classes)


@pytest.mark.parametrize(("spec", "size"), [("shapes", 4000), ("shapes:30", 30)])
def test_shapes(spec, size):
    source = open_source(spec, "val", image_size=32)
    assert len(source) == size and source.image(3).shape == (32, 32, 3)


@pytest.mark.parametrize("spec", ["shapes:many", "shapes:0", "tfds:imagenet", "folder:", "folder"])
def test_unknown_source(spec):
    with pytest.raises(UsageError):
        open_source(spec, "train", image_size=32)


def test_shapes_have_no_choice_of_classes():
    with pytest.raises(UsageError, match="always have all"):
        open_source("shapes", "train", image_size=32, classes="disc")
