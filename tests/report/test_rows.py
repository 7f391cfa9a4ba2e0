"""Which stored results share a row."""

from functools import partial

import pytest
import stored_results
from stored_results import evaluation, top1

from nsneg_jax.errors import UsageError
from nsneg_jax.report import command as report
from nsneg_jax.report.rows import pool
from nsneg_jax.report.table import sets_table


@pytest.fixture
def store(tmp_path):
    return partial(stored_results.store, tmp_path)


def test_rows_by_label_or_encoder(store):
    """Jobs without a label join the row of their encoder's only label."""
    results = report.read_results(
        store(
            {"encoder": "x", "knn_20": 1.0},
            evaluation("x", "one", clean=top1(70.0)),
            evaluation("y", "two", clean=top1(60.0)),
            evaluation("y", "three", clean=top1(50.0)),
            {"encoder": "y", "knn_20": 2.0},
            {"encoder": "z", "accuracy_top1": 3.0},
            {"encoder": "z", "accuracy_top1": 5.0},
        )
    )
    found = {
        row.name: {name: cell[:3] for name, cell in row.cells.items()} for row in pool(results)
    }
    assert found == {
        "one": {"knn_20": (1.0, None, 1), "sets/clean": (70.0, None, 1)},
        "two": {"sets/clean": (60.0, None, 1)},
        "three": {"sets/clean": (50.0, None, 1)},
        "y": {"knn_20": (2.0, None, 1)},
        "z": {"best_accuracy_top1": (4.0, pytest.approx(2**0.5), 2)},
    }


def test_one_model_evaluated_twice_is_one_run(store):
    again = evaluation("x", "one", clean=top1(70.0))
    runs = store(again, again)
    (row,) = pool(report.read_results([*runs, runs[0]]))
    assert row.cells["sets/clean"] == (70.0, None, 1, ())
    other = evaluation("x", "one", clean=top1(71.0))
    (row,) = pool(report.read_results([*runs, *store(other)]))
    assert row.cells["sets/clean"] == (70.5, pytest.approx(0.5**0.5), 2, ())


@pytest.mark.parametrize("other", [{"generated": True}, {"ways": 19}, {"classes": 10}])
def test_other_data_is_not_pooled(store, other):
    runs = store(
        evaluation("x", "one", clean=top1(70.0)), evaluation("y", "one", clean=top1(70.0, **other))
    )
    (name,) = other
    with pytest.raises(UsageError, match=rf"'clean' is not of the same data: {name} is") as error:
        pool(report.read_results(runs))
    assert all(str(run) in str(error.value) for run in runs)


@pytest.mark.parametrize(("classes", "shown"), [(5, False), (6, True), (None, True)])
def test_top5_of_five_classes_says_nothing(store, classes, shown):
    probe = {"job": "linear", "encoder": "x", "accuracy_top1": 60.0, "accuracy_top5": 100.0}
    probe |= {} if classes is None else {"classes": classes}
    entry = top1(60.0, accuracy_top5=100.0, ways=classes)
    rows = pool(report.read_results(store(probe, evaluation("x", clean=entry))))
    assert ("accuracy_top5" in rows[0].cells) == shown
    assert ("| 100.00 |" in sets_table(rows)) == shown
