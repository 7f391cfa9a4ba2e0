"""Parts of splits: 'train[:80%]' and the like."""

import shutil
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from nsneg_jax.errors import UsageError
from nsneg_jax.input.sources.source import open_source
from nsneg_jax.input.splits import check_pair


@pytest.fixture
def root(tmp_path):
    for name, count in {"cat": 10, "dog": 7}.items():
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (4, 4), (i, 0, 0)).save(tmp_path / "images" / name / f"{i}.png")
    return tmp_path / "images"


def opened(root, split):
    return open_source(f"folder:{root}", split, image_size=8)


def paths(source):
    return [source.path(i) for i in range(len(source))]


def test_parts_that_meet_share_no_image_and_leave_none_out(root):
    whole, large, small = (opened(root, f"train{part}") for part in ("", "[:80%]", "[80%:]"))
    assert sorted(paths(large) + paths(small)) == paths(whole)
    assert Counter(small.labels.tolist()) == {0: 2, 1: 1}
    assert small.classes == whole.classes and small.name == f"folder:{root} [train[80%:]]"
    for i, path in enumerate(paths(small)):
        np.testing.assert_array_equal(small.image(i), whole.image(paths(whole).index(path)))
    middle = paths(opened(root, "train[40%:60%]"))
    assert set(middle) <= set(paths(large)) and len(middle) == 3


def test_a_part_does_not_depend_on_the_location_or_on_other_classes(root, tmp_path):
    before = paths(opened(root, "train[:50%]"))
    moved = root.rename(tmp_path / "elsewhere")
    assert paths(opened(moved, "train[:50%]")) == before
    shutil.rmtree(moved / "dog")
    assert paths(opened(moved, ".[:50%]")) == [path for path in before if path.startswith("cat/")]


@pytest.mark.parametrize("part", ["[80%:20%]", "[:101%]", "[50%:50%]", "[:1%]"])
def test_what_is_no_part_is_refused(root, part):
    with pytest.raises(UsageError) as error:
        opened(root, f"train{part}")
    assert part in str(error.value)


def test_images_in_both_splits_are_refused(root):
    check_pair(opened(root, "train[:80%]"), opened(root, "train[80%:]"))
    for training, validation in (("train", "."), ("train[:80%]", "train[70%:]")):
        with pytest.raises(UsageError) as error:
            check_pair(opened(root, training), opened(root, validation))
        assert "data.eval_split" in str(error.value) and ".png" in str(error.value)


def test_a_missing_split_says_how_to_hold_images_out(root):
    with pytest.raises(UsageError) as error:
        opened(root, "val")
    assert "train[80%:]" in str(error.value) and "'val'" in str(error.value)
