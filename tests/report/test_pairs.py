"""Differences between rows, worked out by hand."""

import pytest
import stored_results
from stored_results import cue_conflict, evaluation, top1

from nsneg_jax.errors import UsageError
from nsneg_jax.report import command as report
from nsneg_jax.report.pairs import Difference, differences
from nsneg_jax.report.rows import pool


@pytest.fixture
def rows(tmp_path):
    """The rows of stored results."""

    def pooled(*contents):
        return pool(report.read_results(stored_results.store(tmp_path, *contents)))

    return pooled


def run(label, seed, clean, **sets):
    return evaluation(f"{label}-{seed}", label, seed=seed, clean=top1(clean), **sets)


def test_runs_are_paired_by_seed(rows):
    """The seeds come in another order, and one of each row has no partner."""
    ours = rows(
        run("moco", 0, 50.0), run("moco", 1, 60.0), run("moco", 2, 40.0), run("moco", 7, 1.0),
        run("patch", 2, 43.0), run("patch", 0, 51.0), run("patch", 1, 62.0), run("patch", 9, 99.0),
    )  # fmt: skip
    found = differences(ours, "moco")
    # pairs 1, 2, 3: mean 2, deviation 1
    assert found == {"patch": {"sets/clean": Difference(2.0, pytest.approx(1 / 3**0.5), 3)}}
    assert found["patch"]["sets/clean"].clear


def test_unknown_and_repeated_seeds_make_no_pair(rows):
    ours = rows(
        run("moco", 0, 50.0), run("moco", 1, 60.0), run("moco", None, 40.0),
        run("patch", 0, 55.0), evaluation("other", "patch", seed=0, clean=top1(65.0)),
        run("patch", 1, 61.5), run("patch", None, 43.0),
    )  # fmt: skip
    assert differences(ours, "moco") == {"patch": {"sets/clean": Difference(1.5, None, 1)}}


def test_one_pair_is_never_clear():
    assert not Difference(50.0, None, 1).clear
    assert not Difference(2.0, 1.0, 3).clear
    assert Difference(-2.1, 1.0, 3).clear


def test_columns_that_only_one_row_has_are_left_out(rows):
    ours = rows(
        run("moco", 0, 50.0, cue_conflict=cue_conflict(shape_bias=40.0)),
        run("patch", 0, 55.0, sketch=top1(9.0), cue_conflict=cue_conflict(shape_bias=62.5)),
    )
    found = differences(ours, "moco")["patch"]
    assert {name: each.mean for name, each in found.items()} == {
        "sets/clean": 5.0,
        "sets/cue_conflict": 22.5,
    }


def test_unknown_row(rows):
    with pytest.raises(UsageError, match=r"'MoCo'.*'moco', 'patch'"):
        differences(rows(run("moco", 0, 1.0), run("patch", 0, 1.0)), "MoCo")


def test_table_is_exact(tmp_path, capsys):
    runs = stored_results.store(
        tmp_path,
        run("moco", 0, 50.0, sketch=top1(30.0)),
        run("moco", 1, 60.0),
        run("patch", 0, 51.0, sketch=top1(28.5)),
        run("patch", 1, 63.0),
        evaluation("x", "other", clean=top1(10.0)),
    )
    assert report.main([*map(str, runs), "--published=none", "--baseline=moco"]) == 0
    printed = capsys.readouterr().out
    expected = [
        "| minus moco | pairs  | ImageNet-100 | Sketch |",
        "| ---------- | ------ | ------------ | ------ |",
        "| patch      | 1 to 2 | +2.00±1.00   | -1.50  |",
        "| other      | 0      | -            | -      |",
    ]
    assert "\n".join(expected) in printed
