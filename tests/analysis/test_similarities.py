"""Similarities of a trained run: those of its next step, counted, reported and drawn."""

import json

import jax
import numpy as np
import pytest
from PIL import Image
from tiny import metrics_lines, tiny_config

from configs import texture
from nsneg_jax import cli
from nsneg_jax.analysis.similarities import BINS, measure
from nsneg_jax.errors import UsageError
from nsneg_jax.jobs.pretrain import pretrain
from nsneg_jax.report import similarities as report_similarities
from nsneg_jax.report.page.runs import job_of

pytestmark = pytest.mark.usefixtures("quick_code")

OF_LINE = {"positive": "positive_similarity", "queue": "negative_similarity"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two patches per image; saved after 7 and 8 steps, with a line of metrics for each step."""
    workdir = tmp_path_factory.mktemp("run")
    changes = {"negatives.num": 2, "log_every_steps": 1, "checkpoint.every_steps": 7}
    pretrain(tiny_config(total_steps=8, **changes), workdir, jax.devices()[:1])
    return workdir


@pytest.fixture(scope="module")
def measured(run):
    return measure(run / "checkpoints" / "7", batches=1)


def test_they_are_those_of_the_next_step(run, measured):
    assert measured["step"] == 7 and measured["images"] == 16 and measured["bins"] == BINS
    kinds, line = measured["kinds"], metrics_lines(run)[-1]
    assert line["step"] == 8
    assert list(kinds) == ["positive", "queue", "patch", "patch 2"]
    for kind, name in OF_LINE.items():
        assert kinds[kind]["mean"] == pytest.approx(line[name], abs=2e-5)
    both = (kinds["patch"]["mean"] + kinds["patch 2"]["mean"]) / 2
    assert both == pytest.approx(line["nonsemantic_similarity"], abs=2e-5)
    assert kinds["positive"]["above_positive"] == 0


def test_every_similarity_is_counted_once(measured):
    totals = {kind: sum(figures["counts"]) for kind, figures in measured["kinds"].items()}
    assert totals == {"positive": 16, "queue": 16 * 72, "patch": 16, "patch 2": 16}
    centres = (np.arange(BINS) + 0.5) * 2 / BINS - 1
    for figures in measured["kinds"].values():
        of_bins = np.average(centres, weights=figures["counts"])
        assert of_bins == pytest.approx(figures["mean"], abs=1 / BINS)
        spread = np.sqrt(np.average((centres - of_bins) ** 2, weights=figures["counts"]))
        assert spread == pytest.approx(figures["std"], abs=2 / BINS)


def test_the_report_measures_once_and_draws(run, tmp_path, capsys):
    picture, table = tmp_path / "similarities.png", tmp_path / "table.md"
    arguments = ["report", str(run), "--similarities", str(picture), "--out", str(table)]
    assert cli.main(arguments) == 0
    stored = json.loads((run / "similarities" / "8.json").read_text())
    assert stored["step"] == 8 and stored["images"] == 8 * 16
    last, similar = table.read_text().split("Similarities in training:")
    assert f"{metrics_lines(run)[-1]['loss']:.3f}" in last
    rows = [line.split("|") for line in similar.splitlines() if line.startswith("|")]
    cells = {row[3].strip(): [cell.strip() for cell in row[4:-1]] for row in rows[2:]}
    assert list(cells) == ["key", "queue", "patch", "patch 2"]
    for kind, figures in stored["kinds"].items():
        shown = cells["key" if kind == "positive" else kind]
        assert float(shown[0]) == pytest.approx(figures["mean"], abs=5.1e-4)
    pixels = np.asarray(Image.open(picture).convert("RGB")).reshape(-1, 3)
    for colour in ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167)):
        assert (pixels == colour).all(axis=1).sum() > 20
    # measured before: the second report reads the file
    stored["kinds"].pop("patch 2")
    (run / "similarities" / "8.json").write_text(json.dumps(stored))
    capsys.readouterr()
    assert cli.main(["report", str(run)]) == 0
    assert "patch 2" not in capsys.readouterr().out


@pytest.mark.slow
def test_textures_are_a_kind(tmp_path):
    config = tiny_config(texture, total_steps=1, **{"data.source": "shapes:32"})
    pretrain(config, tmp_path, jax.devices()[:1])
    assert list(measure(tmp_path, batches=1)["kinds"]) == ["positive", "queue", "texture"]


def test_quantiles():
    counts = [0] * 200
    counts[100:] = [1] * 100  # uniform over 0 to 1
    found = report_similarities.histogram_quantiles(counts)
    np.testing.assert_allclose(found, [0.05, 0.5, 0.95], atol=0.011)


def test_mistakes_are_named(run, tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"job": "pretrain"}')
    assert job_of(tmp_path) == "pretrain"
    with pytest.raises(UsageError, match="no checkpoint"):
        report_similarities.read(tmp_path, measure)
    assert cli.main(["report", str(run), "--csv", str(tmp_path / "x.csv")]) == 2
    assert "--csv" in capsys.readouterr().err
    assert cli.main(["report", str(run), "--similarities", str(tmp_path / "x.pdf")]) == 2
    assert job_of(tmp_path / "nowhere") != "pretrain"
