"""Shape and texture decisions, against a loop over images by the published rules."""

from pathlib import Path

import numpy as np
import pytest

from nsneg_jax.errors import UsageError
from nsneg_jax.evaluation.cue_conflict import CATEGORIES, cues_of, decisions, read_categories
from nsneg_jax.input.sources.lists.class_list import class_names

ROOT = Path(__file__).parents[2]
SEVEN = ("bird", "cat", "chair", "dog", "keyboard", "oven", "truck")


def imagenet100():
    return class_names(str(ROOT / "data" / "imagenet100.tsv"))


def imagenet_like():
    """1000 classes, of which the mapped ones are ImageNet's."""
    mapped = sorted(read_categories())
    return tuple(sorted([*mapped, *(f"x{i:08d}" for i in range(1000 - len(mapped)))]))


def draw(classes, images, seed=0):
    rng = np.random.default_rng(seed)
    shape, texture = rng.choice(CATEGORIES, (2, images)).tolist()
    logits = rng.normal(size=(images, len(classes)))
    # Often enough right for either cue that both occur in numbers.
    categories = read_categories()
    for row, first, second in zip(logits, shape, texture, strict=True):
        wanted = rng.choice([first, second, "none"])
        row[[categories.get(name) == wanted for name in classes]] += 3
    powers = np.exp(logits)
    return powers / powers.sum(axis=1, keepdims=True), shape, texture


def plain_decisions(probabilities, classes, shape, texture, categories):
    names = sorted({categories[c] for c in classes if c in categories})
    found = {"shape": 0, "texture": 0, "images": 0}
    for row, first, second in zip(probabilities.tolist(), shape, texture, strict=True):
        if first == second or first not in names or second not in names:
            continue
        best, decision = -1.0, None
        for name in names:
            values = [p for p, c in zip(row, classes, strict=True) if categories.get(c) == name]
            mean = sum(values) / len(values)
            if mean > best:
                best, decision = mean, name
        found["images"] += 1
        found["shape"] += decision == first
        found["texture"] += decision == second
    return found


@pytest.mark.parametrize(
    ("classes", "categories", "restricted"),
    [(imagenet_like(), CATEGORIES, False), (imagenet100(), SEVEN, True)],
    ids=["1000 classes", "100 classes"],
)
def test_decisions_against_the_loop(classes, categories, restricted):
    probabilities, shape, texture = draw(classes, 1000)
    got = decisions(probabilities, classes, shape, texture, read_categories())
    expected = plain_decisions(probabilities, classes, shape, texture, read_categories())
    assert (got.shape, got.texture, got.images) == tuple(expected.values())
    assert min(expected.values()) > 20
    assert got.categories == categories
    assert got.restricted is restricted
    assert got.shape_bias == expected["shape"] / (expected["shape"] + expected["texture"])


def test_decisions_do_not_depend_on_the_order_of_classes():
    classes = imagenet100()
    probabilities, shape, texture = draw(classes, 300)
    order = np.random.default_rng(1).permutation(100)
    shuffled = [classes[i] for i in order]
    got = decisions(probabilities[:, order], shuffled, shape, texture, read_categories())
    assert got == decisions(probabilities, classes, shape, texture, read_categories())


def test_the_mean_of_a_category_decides_not_its_sum_or_best_class():
    categories = {"a1": "a", "a2": "a", "a3": "a", "b1": "b"}
    # Sum and single best class say a, the mean says b.
    probabilities = np.array([[0.5, 0.05, 0.05, 0.4]])
    got = decisions(probabilities, tuple(categories), ["a"], ["b"], categories)
    assert (got.shape, got.texture) == (0, 1)


def test_what_is_counted():
    names = ("x", "y", "z")
    probabilities = np.eye(3)[[0, 1, 2, 0, 0]]
    # shape, texture, neither, no conflict, a category that the classifier does not have
    shape = ["x", "x", "x", "x", "x"]
    texture = ["y", "y", "y", "x", "other"]
    got = decisions(probabilities, names, shape, texture, {name: name for name in names})
    assert (got.shape, got.texture, got.images) == (1, 1, 3)
    assert got.shape_bias == 0.5 and not got.restricted
    none = decisions(np.eye(3)[[2]], names, ["x"], ["y"], {name: name for name in names})
    assert none.images == 1 and none.shape_bias is None


def test_classifier_of_other_classes():
    with pytest.raises(UsageError, match=r"0 of the 16 categories .* disc, L, .*wnids"):
        decisions(np.ones((1, 2)), ("disc", "L"), ["cat"], ["dog"], read_categories())
    with pytest.raises(ValueError, match="2 classes"):
        decisions(np.ones((1, 3)), ("a", "b"), ["a"], ["b"], {"a": "a", "b": "b"})


def test_shipped_mapping():
    categories = read_categories()
    assert len(categories) == 207
    assert sorted(set(categories.values())) == list(CATEGORIES)
    sizes = {name: sum(c == name for c in categories.values()) for name in CATEGORIES}
    assert sizes == {
        "airplane": 1, "bear": 4, "bicycle": 2, "bird": 49, "boat": 5, "bottle": 7, "car": 3,
        "cat": 6, "chair": 4, "clock": 3, "dog": 109, "elephant": 2, "keyboard": 2, "knife": 1,
        "oven": 1, "truck": 8,
    }  # fmt: skip
    shared = set(categories) & set(imagenet100())
    assert {categories[name] for name in shared} == set(SEVEN) and len(shared) == 28


def test_cues_from_names():
    assert cues_of("airplane/airplane10-bear3.png") == ("airplane", "bear")
    assert cues_of("cat7-elephant1.png") == ("cat", "elephant")
    assert cues_of("/data/cue-conflict/truck/truck2-truck1.png") == ("truck", "truck")
    assert cues_of("dog/0001_cc_x_dog_00_dog1-bird2.png") == ("dog", "bird")


@pytest.mark.parametrize(
    "name",
    ["cat/cat7.png", "cat/cat-dog.png", "cat/cat7-zebra1.png", "n02123045/ILSVRC_1.JPEG", ""],
)
def test_other_names(name):
    with pytest.raises(UsageError, match=r"not named SHAPE12-TEXTURE3\.png") as error:
        cues_of(name)
    assert name in str(error.value)
