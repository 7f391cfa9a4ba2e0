"""The claim: its runs, its progress, its report, and (slow) the whole in one command."""

import json
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from stored_results import corruption, cue_conflict, evaluation, top1

from configs import claim as config
from experiments.claim import command as claim
from experiments.claim import plots as claim_plots
from experiments.claim import report as claim_report
from experiments.claim.runs import LABELS, Run, Setting, runs_of, stages_of
from nsneg_jax.errors import UsageError


@pytest.fixture
def in_project(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])


def fields(stage):
    """The arguments of a stage's command by name."""
    return dict(word.lstrip("-").split("=", 1) for word in stage.link.command[2:])


def test_variants():
    """All but the negatives is the same, in both settings."""
    assert list(LABELS) == list(config.VARIANTS)
    for prefix in ("", config.LARGE):
        configs = {name: config.get_config(prefix + name).to_dict() for name in config.VARIANTS}
        negatives = {name: fields.pop("negatives") for name, fields in configs.items()}
        assert all(fields == configs["moco"] for fields in configs.values())
        about = {name: (n["kind"], n["alpha"]) for name, n in negatives.items()}
        assert about == {
            "moco": ("none", 0),
            "patch1": ("patch", 1),
            "patch2": ("patch", 2),
            "patch3": ("patch", 3),
            "texture": ("texture", 2),
            "patch+texture": ("patch+texture", 2),
        }
    with pytest.raises(UsageError, match="no variant 'patch4'"):
        config.get_config("large:patch4")


@pytest.mark.parametrize("large", [False, True])
def test_all_stages_are_on_held_out_pictures(in_project, tmp_path, large):
    """No picture of the seed that settings were chosen on is trained or evaluated on."""
    assert config.CHOSEN_ON != config.REPORTED
    for variant in LABELS:
        stages = stages_of(Run(variant, 4), Setting(tmp_path, large))
        sources = [
            value
            for stage in stages
            for name, value in fields(stage).items()
            if name.endswith("source")
        ]
        assert len(sources) >= 2 + 6
        assert all(source.endswith(f"@{config.REPORTED}") for source in sources)
        assert [fields(stage).get("config.seed") for stage in stages] == ["4", "4", None]
    chosen = stages_of(Run("moco", 0), Setting(tmp_path, large, data_seed=config.CHOSEN_ON))
    assert fields(chosen[0])["config.data.source"].endswith(f"@{config.CHOSEN_ON}")


def test_ablations(in_project, tmp_path):
    runs = runs_of(["moco", "patch2"], [0, 1], ["queue", "patch_size"])
    assert [run.name for run in runs[:6]] == [
        "moco-0",
        "patch2-0",
        "moco-half-queue-0",
        "patch2-half-queue-0",
        "patch2-patches-8-to-16-0",
        "patch2-patches-72-to-112-0",
    ]
    assert runs[3].label == "patch, alpha 2, half queue"
    queue = fields(stages_of(runs[2], Setting(tmp_path))[0])["config.moco.queue_size"]
    assert int(queue) == config.get_config("moco").moco.queue_size // 2
    assert [run.name for run in runs_of(["moco"], [3], ["queue"])] == [
        "moco-3",
        "moco-half-queue-3",
    ]
    with pytest.raises(UsageError, match=r"patch_size .*patch2, .* moco\."):
        runs_of(["moco"], [3], ["queue", "patch_size"])
    stages_of(runs[4], Setting(tmp_path))  # its override is one that the config takes
    run = runs_of(["moco", "patch2"], [0], ["learning_rate"])[2]
    rate = fields(stages_of(run, Setting(tmp_path))[0])["config.optimizer.learning_rate"]
    assert float(rate) == 2 * config.get_config("moco").optimizer.learning_rate


def test_workdir_of_another_config_is_refused_before_anything_runs(in_project, tmp_path):
    stage = stages_of(Run("moco", 0), Setting(tmp_path))[0]
    fields = config.get_config("moco").to_dict() | {"batch_size": 50}
    stage.workdir.mkdir()
    (stage.workdir / "config.json").write_text(json.dumps(fields))
    with pytest.raises(UsageError, match="batch_size was 50 and is"):
        stages_of(Run("moco", 0), Setting(tmp_path))


@pytest.mark.parametrize("words", [["--seeds=0,0"], ["--seeds=-1"], ["--variants=patch4"]])
def test_wrong_arguments(words, capsys):
    with pytest.raises(SystemExit) as exit:
        claim.parse(words)
    assert exit.value.code == 2 and "must be" in capsys.readouterr().err


@pytest.fixture
def finished(tmp_path):
    """Files of finished runs: clean better by 10 points, sketch by chance, corruption worse."""

    def make(variants, seeds):
        runs = runs_of(variants, seeds, [])
        for run in runs:
            better = 10 * list(LABELS).index(run.variant)
            store = partial(_store, tmp_path, run)
            fields = config.get_config(run.variant).to_dict()
            store("", "config.json", json.dumps(fields))
            names = ["positive_similarity", "negative_similarity"]
            names += ["nonsemantic_similarity"] if better else []
            lines = [
                {"step": step, "split": "train"} | dict.fromkeys(names, step / 100)
                for step in (20, 40)
            ]
            lines.append({"step": 40, "split": "val", "knn_20": 50.0 + better})
            store("", "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
            sets = {
                "clean": top1(50.0 + better + run.seed, classes=10, ways=10),
                "corruption": corruption(40.0 - better / 10 + run.seed / 3),
                "sketch": top1(10.0 + (better > 0) * (-1) ** run.seed),
                "cue_conflict": cue_conflict(shape_bias=50.0 + better / 5),
            }
            content = evaluation(run.name, run.label, seed=run.seed, **sets)
            store("-eval", "results.json", json.dumps(content))
            content = {"encoder": run.name, "encoder_seed": run.seed, "accuracy_top1": 1.0 + better}
            store("-linear", "results.json", json.dumps(content))
        return runs

    return make


def _store(folder, run, job, name, text):
    (folder / f"{run.name}{job}").mkdir(exist_ok=True)
    (folder / f"{run.name}{job}" / name).write_text(text)


def test_report(finished, tmp_path):
    text = claim_report.write(finished(["moco", "patch2"], [0, 1, 2]), tmp_path)
    assert (tmp_path / "claim.md").read_text() == text + "\n"
    assert (
        "* **patch, alpha 2**: above MoCo by more than two standard errors in Clean; below MoCo by "
        "more than two standard errors in Corruption; no clear difference in Sketch."
    ) in text
    assert "| +20.00±0.00" in text.replace("**", "")
    assert f"shapes:4000@{config.REPORTED}" in text
    assert "recipe A: patch negatives, K 16384, alpha 2" in text
    assert {path.name for path in tmp_path.glob("*.png")} == {"accuracy.png", "similarities.png"}
    for name in ("accuracy.png", "similarities.png"):
        assert f"({name})" in text and (tmp_path / name).stat().st_size > 5000


def test_report_of_all_variants_has_the_pictures_against_alpha(finished, tmp_path):
    text = claim_report.write(finished(list(LABELS), [0, 1]), tmp_path)
    assert "(alpha.png)" in text and "(shape_bias.png)" in text
    assert text.count("* **") == len(LABELS) - 1


def test_mean_curve_is_of_common_steps():
    steps, means, deviations = claim_plots.mean_and_deviation([{1: 1.0, 2: 2.0}, {2: 4.0, 3: 0.0}])
    assert (steps, means, deviations) == ([2], [3.0], [pytest.approx(2**0.5)])


@pytest.mark.slow
def test_whole_claim_in_one_command_stopped_and_gone_on_with(in_project, tmp_path):
    command = [sys.executable, "-m", "experiments.claim", f"--workdir={tmp_path / 'claim'}"]
    command += ["--setting=small", "--seeds=0,1", "--epochs=2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("claim/*/metrics.jsonl")):
        time.sleep(0.2)
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 75 and "stopped by SIGTERM" in output
    assert not (tmp_path / "claim" / "claim.md").exists()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "claim" / "claim.md").read_text()
    assert "| patch, alpha 2 | 2 " in text and "minus MoCo" in text
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("claim/*/metrics.jsonl")}
    again = subprocess.run(command, capture_output=True, text=True)
    assert text.strip() in again.stdout
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in before.items())
