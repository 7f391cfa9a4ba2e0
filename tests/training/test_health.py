"""The watch for a collapse: what it takes for one, and that it goes on after a stop."""

import json

import pytest

from nsneg_jax.training.health import CollapseWatch, signs

CHOICES = 1002  # a queue of 1000, a key, a patch
HEALTHY = {
    "positive_similarity": 0.8,
    "negative_similarity": 0.1,
    "accuracy_top5": 60.0,
    "embedding_std": 0.9,
    "loss": 5.0,
}
COLLAPSED = {
    "similarities": {"positive_similarity": 0.93, "negative_similarity": 0.925},
    "accuracy": {"accuracy_top5": 0.5},
    "embeddings": {"embedding_std": 0.01},
}


@pytest.mark.parametrize("sign", COLLAPSED)
def test_each_sign_alone_is_a_collapse(sign):
    assert signs(HEALTHY, CHOICES) == []
    assert len(signs(HEALTHY | COLLAPSED[sign], CHOICES)) == 1


def test_equal_embeddings_with_perfect_accuracy_are_a_collapse():
    """Ties count for the key, so a constant encoder has an accuracy of 100 %."""
    constant = {"positive_similarity": 1.0, "negative_similarity": 1.0, "accuracy_top5": 100.0}
    assert len(signs(constant | {"embedding_std": 0.0}, CHOICES)) == 2


def test_an_accuracy_that_many_negatives_decide_says_nothing():
    assert signs(HEALTHY | COLLAPSED["accuracy"], 0) == []


def test_a_method_without_these_metrics_is_not_judged():
    watch = CollapseWatch(2, CHOICES)
    assert all(watch.add(step, {"loss": 1.0}) is None for step in (5, 10, 15))


def test_a_collapse_is_found_once_at_the_end_of_its_block_but_not_in_the_first():
    watch = CollapseWatch(10, CHOICES)
    collapsed = HEALTHY | COLLAPSED["embeddings"]
    assert all(watch.add(step, collapsed) is None for step in (5, 8, 12, 17))
    found = watch.add(23, collapsed)
    assert (found["from"], found["to"]) == (13, 23)
    assert found["means"]["embedding_std"] == pytest.approx(0.01)
    assert all(watch.add(step, collapsed) is None for step in range(28, 60, 5))
    assert watch.found == found


def test_a_dip_within_a_healthy_block_is_none():
    watch = CollapseWatch(10, CHOICES)
    assert watch.add(10, HEALTHY) is None
    dip = HEALTHY | {name: value for sign in COLLAPSED.values() for name, value in sign.items()}
    assert watch.add(19, dip) is None and watch.add(22, HEALTHY) is None
    assert watch.found is None


@pytest.mark.parametrize("stop", [5, 8, 12, 17])
def test_a_resumed_watch_finds_the_same(stop):
    figures = {5: HEALTHY, 8: HEALTHY, 12: COLLAPSED["similarities"] | {"accuracy_top5": 0.0}}
    figures |= dict.fromkeys((17, 23), COLLAPSED["similarities"])
    whole, parts = (CollapseWatch(10, CHOICES) for _ in range(2))
    for step, values in figures.items():
        before = whole.add(step, values)
        assert parts.add(step, values) == before
        if step == stop:
            parts = CollapseWatch(10, CHOICES, **json.loads(json.dumps(parts.totals())))
    assert whole.found is not None and json.loads(json.dumps(whole.totals())) == json.loads(
        json.dumps(parts.totals())
    )
