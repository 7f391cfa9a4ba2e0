"""The measures of shape and their correlation with accuracy out of domain."""

import json

import pytest

from experiments import shape


def sets(clean, shuffled, bias):
    return {
        "clean": {"accuracy_top1": clean},
        "suppression": {
            "parts": {
                "patch_shuffle": {"1": shuffled},
                "low_pass": {"5": clean / 2},
                "high_pass": {"1": clean / 4},
                "gray": {"5": clean},
            }
        },
        "cue_conflict": {"shape_bias": bias, "shape_accuracy": clean, "texture_accuracy": 5.0},
    }


def robustness(accuracy):
    found = {name: {"accuracy_top1": accuracy} for name in shape.VERSIONS}
    return found | {"corruption": {"accuracy_top1": 0.0, "mean_15": accuracy}}


def test_measures_are_parts_of_the_clean_accuracy():
    got = shape.measures(sets(80.0, 20.0, 90.0))
    assert got["shuffled, kept"] == 25 and got["low-pass, kept"] == 50
    assert got["high-pass, kept"] == 25 and got["gray, kept"] == 100 and got["shape bias"] == 90
    assert shape.out_of_domain(robustness(40.0)) == 40


def test_correlations_over_all_and_within_a_variant():
    # Variant b is better in both, but within each variant the measure falls as the target rises.
    rows = {f"{v}-{s}": {"m": 10 * (v == "b") - s} for v in "ab" for s in range(3)}
    target = {f"{v}-{s}": 50.0 * (v == "b") + s for v in "ab" for s in range(3)}
    over_all, within = shape.correlations(rows, target)["m"]
    assert over_all > 0.4 and within == pytest.approx(-1)
    alone = shape.correlations({"a-0": {"m": 1}, "b-0": {"m": 2}}, target)["m"]
    assert alone == (pytest.approx(1), None)


def test_a_report_of_kept_evaluations(tmp_path, capsys):
    for run, accuracy in (("moco-0", 40), ("moco-1", 42), ("patch2-0", 60)):
        (tmp_path / f"{run}-linear").mkdir()
        for kind, content in (("eval", robustness(accuracy)), ("shape", sets(accuracy, 9, 90))):
            (tmp_path / f"{run}-{kind}").mkdir()
            text = json.dumps({"sets": content})
            (tmp_path / f"{run}-{kind}" / "results.json").write_text(text)
    assert shape.main([f"--workdir={tmp_path}"]) == 0
    text = (tmp_path / "shape.md").read_text()
    assert text in capsys.readouterr().out and "| clean | +1.00 |" in text
    assert shape.main([f"--workdir={tmp_path / 'moco-0-eval'}"]) == 2
