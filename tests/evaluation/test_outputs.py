"""Which outputs of a classifier without names are which classes."""

from pathlib import Path

import numpy as np
import pytest

from nsneg_jax.errors import UsageError
from nsneg_jax.evaluation.outputs import Listed, check_finite, classes_of_sets, name_outputs
from nsneg_jax.evaluation.protocols.imagenet import IMAGENET_1K
from nsneg_jax.evaluation.sets import EvaluationSet
from nsneg_jax.input.sources.source import class_names

ROOT = Path(__file__).parents[2]
WNIDS = class_names(str(IMAGENET_1K))
HUNDRED = tuple(sorted(WNIDS[3::10]))
OWN = tuple(f"class{i:03}" for i in range(100))


def head(trained, outputs=1000, bias=True, scale=0.01):
    """A head of N(0, `scale`) after training with labels below `trained`."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(0, scale, (16, outputs))
    kernel[:, :trained] += rng.normal(0, 1, (16, trained))
    biases = np.zeros(outputs)
    if bias:
        biases[:trained] = rng.normal(0, 1, trained)
        biases[trained:] = -rng.uniform(0.1, 0.2, outputs - trained)
    return {"kernel": kernel.astype(np.float32), "bias": biases.astype(np.float32)}


def named(classifier, classes, chosen=False):
    return name_outputs(classifier, Listed(classes, "data", chosen), "probe", "--config.classes=F")


@pytest.mark.parametrize("classes", [HUNDRED, OWN])
@pytest.mark.parametrize("bias", [True, False])
def test_the_first_outputs_are_the_classes(classes, bias):
    classifier = head(100, bias=bias)
    classifier["bias"][[500, 700]] = 3  # some others may answer all the same
    classifier["kernel"][:, [500, 700]] = 5
    assert named(classifier, classes).classes == classes
    assert named(classifier, classes, chosen=True).classes == classes


def test_lengths_or_biases_are_enough():
    classifier = head(100)
    classifier["kernel"][:] = 1
    assert named(classifier, HUNDRED).classes == HUNDRED
    classifier = head(100, bias=False)
    assert named(classifier, HUNDRED).classes == HUNDRED


def test_a_head_of_imagenet_on_some_of_its_classes():
    assert named(head(1000), HUNDRED).classes == WNIDS
    assert named(head(1000), HUNDRED, chosen=True).classes == HUNDRED
    assert named(head(1000), WNIDS).classes == WNIDS


def test_some_of_the_papers_classes():
    paper = tuple(sorted(class_names(str(ROOT / "data" / "imagenet100.tsv"))))
    assert len(paper) == 100
    assert named(head(100), paper[7:20]).classes == paper
    assert named(head(1000), paper[7:20]).classes == WNIDS
    with pytest.raises(UsageError):
        named(head(200), paper[7:20])


def test_as_many_outputs_as_classes():
    assert named(head(100, outputs=100), OWN).classes == OWN
    assert named(head(10, outputs=10, bias=False), OWN[:10]).classes == OWN[:10]


@pytest.mark.parametrize(
    ("trained", "outputs", "classes", "chosen"),
    [
        (100, 1000, WNIDS, False),  # 900 outputs are none of ImageNet-1K's classes
        (100, 1000, WNIDS, True),
        (100, 1000, WNIDS[:200], False),  # as in ImageNet-R: more classes than trained on
        (100, 1000, HUNDRED[:20], False),  # fewer
        (1000, 1000, OWN, False),
        (100, 100, OWN[:99], True),
        (100, 100, OWN[:99], False),
        (10, 10, OWN[:1], False),
        (90, 90, OWN, True),
    ],
)
def test_what_does_not_fit_is_refused(trained, outputs, classes, chosen):
    with pytest.raises(UsageError, match=r"--config\.classes=F"):
        named(head(trained, outputs), classes, chosen)


def test_without_classes_they_are_asked_for():
    with pytest.raises(UsageError, match=r"--config\.classes=F"):
        name_outputs(head(100), None, "probe", "--config.classes=F")


def test_a_classifier_that_is_not_finite():
    classifier = head(100)
    check_finite(classifier, "probe")
    classifier["bias"][3] = np.nan
    with pytest.raises(UsageError, match="bias"):
        check_finite(classifier, "probe")


def a_set(path, **fields):
    settings = {"resize": 0, "protocol": "top1", "answers": "all", "names": "class"}
    settings |= {"split": "val", "generate": False, "extra": False}
    return EvaluationSet(source=f"folder:{path}", **(settings | fields))


def test_classes_of_the_clean_set_or_of_all(tmp_path):
    for name, classes in (("clean", "abc"), ("a", "ab"), ("b", "ab"), ("c", "abcd")):
        for each in classes:
            (tmp_path / name / "val" / each).mkdir(parents=True)
            (tmp_path / name / "val" / each / "x.png").touch()
    sets = {name: a_set(tmp_path / name) for name in ("a", "clean", "b", "c")}
    sets["v2"] = a_set(tmp_path / "c", names="index")
    listed = classes_of_sets(sets, ("a",), "")
    assert listed.classes == ("a", "b", "c") and "clean" in listed.where and not listed.chosen
    sets["clean"] = a_set(tmp_path / "missing")
    assert classes_of_sets(sets, (), "") is None
    assert classes_of_sets(sets, ("a", "b"), "").classes == ("a", "b")
