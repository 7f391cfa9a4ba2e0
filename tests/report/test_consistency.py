"""Cohen's kappa of right answers, against its definition, and the tables that it is read from."""

import pytest
from sklearn.metrics import cohen_kappa_score
from stored_results import corruption, cue_conflict, evaluation, store

from nsneg_jax.errors import UsageError
from nsneg_jax.report.command import read_results, report
from nsneg_jax.report.consistency import cohens_kappa, consistencies, read_decisions

HEADER = "subj,session,trial,rt,object_response,category,condition,imagename\n"


def test_kappa_is_scikit_learns():
    one, two = (list(map(bool, map(int, answers))) for answers in ("1100101", "1001101"))
    # 5 of 7 agree; by chance 4/7 * 4/7 + 3/7 * 3/7 = 25/49 would
    assert cohens_kappa(one, two) == pytest.approx((5 / 7 - 25 / 49) / (24 / 49))
    assert cohens_kappa(one, two) == pytest.approx(cohen_kappa_score(one, two))


@pytest.mark.parametrize(
    ("one", "two", "kappa"),
    [
        ([True, False], [True, False], 1),
        ([True, False], [False, True], -1),
        ([True, True, False, False], [True, False, True, False], 0),
        ([True, True], [True, True], None),  # nothing beyond chance to find
        ([], [], None),
    ],
)
def test_kappa_at_its_ends(one, two, kappa):
    assert cohens_kappa(one, two) == kappa
    with pytest.raises(ValueError, match="not for the same images"):
        cohens_kappa([*one, True], two)


def test_observers_are_compared_on_common_images():
    one = {"a": True, "b": False, "c": True, "alone": True}
    two = {"c": True, "b": False, "a": False, "d": True}
    found = consistencies({"x": [one, one], "y": [two]})
    assert found["x", "x"] == (1.0, 1)
    # of a, b, c two agree; chance 2/3 * 1/3 + 1/3 * 2/3
    assert found["x", "y"] == (pytest.approx((2 / 3 - 4 / 9) / (5 / 9)), 2)
    assert found["y", "x"] == found["x", "y"] and ("y", "y") not in found


def test_decisions_of_experiments(tmp_path):
    """As model-vs-human publishes them: file names have the trial before the cues."""
    (tmp_path / "one_session_1.csv").write_text(
        HEADER + "subject-01,1,1,0.7,cat,cat,0,0001_cc_cr_00_cat_10_cat7-elephant1.png\n"
        "subject-01,1,2,0.7,dog,cat,0,0002_cc_cr_00_cat_10_cat8-dog1.png\n"
    )
    (tmp_path / "two.csv").write_text(HEADER + "subject-02,1,1,0.7,cat,cat,0,x/cat8-dog1.png\n")
    assert read_decisions(tmp_path) == {
        "subject-01": {"cat7-elephant1": True, "cat8-dog1": False},
        "subject-02": {"cat8-dog1": True},
    }


@pytest.mark.parametrize("text", ["", HEADER, "a,b\n1,2\n"])
def test_other_tables_are_refused(tmp_path, text):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(UsageError, match="lack "):
        read_decisions(tmp_path / "x.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no CSV file"):
        read_decisions(tmp_path / "empty")


def decisions(*decided):
    """A table of decisions on three pictures that show cats."""
    pictures = ("cat1-dog1.png", "cat2-dog1.png", "cat3-dog1.png")
    rows = (
        f"m,1,1,NaN,{answer},cat,cue_conflict,{picture}\n"
        for answer, picture in zip(decided, pictures, strict=False)
    )
    return HEADER + "".join(rows)


def test_report_has_a_table_of_consistency(tmp_path):
    contents = [evaluation(f"r{i}", f"row{i}", cue_conflict=cue_conflict()) for i in (0, 1)]
    runs = store(tmp_path, *contents)
    (runs[0] / "cue_conflict.csv").write_text(decisions("cat", "dog", "cat"))
    (runs[1] / "cue_conflict.csv").write_text(decisions("dog", "dog", "cat"))
    (tmp_path / "human.csv").write_text(decisions("cat", "dog"))
    text, _ = report(read_results(runs), "none", observers=[tmp_path / "human.csv"])
    table = [line for line in text.splitlines() if line.startswith(("| row", "| obs"))][-3:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert cells == [
        ["row0", "1", "-", "0.400", "1.000"],
        ["row1", "1", "0.400", "-", "0.000"],
        ["observers", "1", "1.000", "0.000", "-"],
    ]


def test_footnotes_count_against_the_benchmark_of_the_set(tmp_path):
    """An own set in ImageNet-C's folders has no number of files to lack."""
    whole = {"settings": 75, "settings_expected": 75}
    own = corruption(40.0, **whole | {"files_seen": 12, "files_expected": None})
    bar = corruption(
        30.0, {"sparkles": {"1": 30.0}}, mean_15=None, mean_10=None, files_expected=None,
        settings=1, settings_expected=50,
    )  # fmt: skip
    released = corruption(20.0, **whole | {"files_seen": 9})
    (run,) = store(tmp_path, evaluation("a", own=own, corruption_bar=bar, corruption=released))
    text, _ = report(read_results([run]), "none")
    header = text.splitlines()[0]
    assert "Corruption-bar (2)" in header and "Corruption (1)" in header and "| own " in header
    assert [line for line in text.splitlines() if line.startswith("* (")] == [
        "* (1) 9 of 375,000 files.",
        "* (2) mean over 1 of the 50 settings (corruption and severity).",
    ]


def test_report_has_a_table_of_corruption_errors(tmp_path):
    entry = corruption(40.0, clean_top1=70.5, mce=77.25, relative_mce=101.5, ways=1000)
    (run,) = store(tmp_path, evaluation("a", corruption=entry))
    text, _ = report(read_results([run]), "none")
    (line,) = [line for line in text.splitlines() if "77.25" in line]
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        "a", "Corruption", "40.00", "70.50", "77.25", "101.50", "1,000",
    ]  # fmt: skip
