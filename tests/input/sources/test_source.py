"""How data.source and data.classes are read."""

from pathlib import Path

import numpy as np
import pytest

from nsneg_jax.errors import UsageError
from nsneg_jax.input.shapes.source import Shapes
from nsneg_jax.input.sources.lists.class_list import class_names
from nsneg_jax.input.sources.source import open_source

ROOT = Path(__file__).parents[3]


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


@pytest.mark.parametrize(
    ("spec", "version", "size", "seed"),
    [
        ("shapes", "clean", 4000, 0),
        ("shapes:30", "clean", 30, 0),
        ("shapes@5", "clean", 4000, 5),
        ("shapes/rendition", "rendition", 4000, 0),
        ("shapes/conflict@12", "conflict", 4000, 12),
        ("shapes/sketch:100@7", "sketch", 100, 7),
    ],
)
def test_shapes(spec, version, size, seed):
    source = open_source(spec, "val", image_size=32)
    assert len(source) == size
    same = Shapes("val", image_size=32, size=size, seed=seed, version=version)
    assert source.name == same.name
    np.testing.assert_array_equal(source.image(3), same.image(3))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("shapes:0", "is 0,"),
        ("shapes/corruption:10", "no version 'corruption'"),
        ("shapes@18446744073709551616", "18446744073709551616"),
    ],
)
def test_shapes_that_do_not_exist(spec, words):
    with pytest.raises(UsageError) as error:
        open_source(spec, "val", image_size=32)
    assert words in str(error.value)


@pytest.mark.parametrize(
    "spec",
    [
        *("shapes:many", "shapes:-3", "shapes/", "shapes:", "shapes@", "shapes@7:30", "shapes:9@x"),
        *("shapes/sketch/val", "Shapes", "tfds:", "arrayrecord:", "folder:", "folder"),
    ],
)
def test_unknown_source(spec):
    with pytest.raises(UsageError, match=r"'shapes\[/VERSION\]\[:SIZE\]\[@SEED\]'") as error:
        open_source(spec, "train", image_size=32)
    assert repr(spec) in str(error.value)


def test_shapes_have_no_choice_of_classes():
    with pytest.raises(UsageError, match=r"data\.classes is 'disc'"):
        open_source("shapes", "train", image_size=32, classes="disc")
