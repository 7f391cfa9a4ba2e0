"""Which parts an evaluation has, by sets of each kind."""

import numpy as np
import pytest
from PIL import Image

from nsneg_jax.corruptions import CORRUPTIONS, EXTRA, SEVERITIES
from nsneg_jax.errors import UsageError
from nsneg_jax.evaluation.protocols.imagenet import wnids
from nsneg_jax.evaluation.sets import EvaluationSet, plan
from nsneg_jax.input.shapes.source import CLASSES


def a_set(source="shapes:20", **changes):
    fields = {"split": "test", "resize": 0, "protocol": "top1", "answers": "all"}
    fields |= {"names": "class", "generate": False, "extra": False}
    return EvaluationSet(source=source, **fields | changes)


def planned(sets, classes=CLASSES, **options):
    return plan(sets, classes, image_size=16, **options)


def test_a_set_is_one_part_and_each_corruption_one():
    made = {"protocol": "corruption", "generate": True}
    sets = {"clean": a_set(), "made": a_set(**made), "all": a_set(**made, extra=True)}
    parts, missing = planned(sets)
    assert missing == {}
    of = {name: [part for part in parts if part.set_name == name] for name in sets}
    assert [part.corruption for part in of["clean"]] == [None]
    tested = [(name, severity) for name in CORRUPTIONS for severity in SEVERITIES]
    extra = [(name, severity) for name in EXTRA for severity in SEVERITIES]
    assert [part.corruption for part in of["made"]] == tested
    assert [part.corruption for part in of["all"]] == tested + extra
    assert len({part.title for part in parts}) == len(parts)


def test_only_the_sets_that_are_wanted_and_there():
    sets = {"clean": a_set(), "sketch": a_set("folder:/nowhere"), "v2": a_set("shapes/sketch:20")}
    parts, missing = planned(sets, only=("sketch", "v2"))
    assert [part.title for part in parts] == ["v2"] and list(missing) == ["sketch"]
    with pytest.raises(UsageError, match="sketch"):
        planned(sets, require_all=True)
    with pytest.raises(UsageError, match="'cleaan'"):
        planned(sets, only=("cleaan",))
    with pytest.raises(UsageError):
        planned(sets, only=("sketch",))


def test_answers_are_all_classes_or_those_present(tmp_path):
    for name in CLASSES[2:4]:
        (tmp_path / name).mkdir()
        Image.new("RGB", (16, 16)).save(tmp_path / name / "x.png")
    folder = f"folder:{tmp_path}"
    sets = {"all": a_set(folder, split="."), "few": a_set(folder, split=".", answers="present")}
    (whole, few), _ = planned(sets)
    assert whole.answers.all() and len(whole.answers) == len(CLASSES)
    assert np.flatnonzero(few.answers).tolist() == [2, 3]
    assert whole.source.labels.tolist() == [2, 3]


def test_images_of_classes_outside_the_answers_are_refused(tmp_path):
    tench, goldfish, stingray = sorted(wnids()[i] for i in (0, 1, 6))  # the last is in ImageNet-A
    classes = (tench, goldfish, stingray)
    for name, folders in {"hard": (stingray,), "other": (stingray, goldfish)}.items():
        for wnid in folders:
            (tmp_path / name / wnid).mkdir(parents=True)
            Image.new("RGB", (16, 16)).save(tmp_path / name / wnid / "x.png")
    sets = {
        name: a_set(f"folder:{tmp_path / name}", split=".", answers="imagenet-a")
        for name in ("hard", "other")
    }
    (part,), missing = planned(sets, classes)
    assert part.title == "hard" and part.answers.tolist() == [False, False, True]
    assert goldfish in missing["other"] and "imagenet-a" in missing["other"]
