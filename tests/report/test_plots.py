"""The picture of accuracy by corruption: what its lines are, and that they are drawn."""

import sys
from functools import partial

import numpy as np
import pytest
import stored_results
from PIL import Image
from stored_results import corruption, evaluation, top1

from nsneg_jax.corruptions import CORRUPTIONS, EXTRA
from nsneg_jax.report import command as report
from nsneg_jax.report import plots as report_plots
from nsneg_jax.report.rows import pool


@pytest.fixture
def store(tmp_path):
    return partial(stored_results.store, tmp_path)


def falling(start, names):
    return {
        name: {str(s): start - 8.0 * s - i for s in range(1, 6)} for i, name in enumerate(names)
    }


def test_lines_of_the_picture(store):
    rows = pool(
        report.read_results(
            store(
                evaluation("a0", "a", corruption=corruption(40.0, falling(70.0, CORRUPTIONS))),
                evaluation("a1", "a", corruption=corruption(42.0, falling(72.0, CORRUPTIONS))),
                evaluation("b", again=corruption(4.0, falling(60.0, ["fog"]), generated=True)),
            )
        )
    )
    lines = report_plots.corruption_lines(rows)
    assert list(lines) == ["a (n = 2)", "b, again (generated)"]
    assert lines["a (n = 2)"]["gaussian_noise"][5] == [30.0, 32.0]
    assert lines["b, again (generated)"] == {"fog": {s: [60.0 - 8 * s] for s in range(1, 6)}}


@pytest.mark.parametrize(
    "names", [CORRUPTIONS, (*CORRUPTIONS, *EXTRA), ("fog",), ("new", "saturate")]
)
def test_picture_is_drawn(store, tmp_path, names):
    """In each panel there is ink in the colour of each line, and more lines mean more ink."""
    runs = store(
        evaluation("a", corruption=corruption(40.0, falling(70.0, names))),
        evaluation("b", corruption=corruption(30.0, falling(60.0, names))),
    )
    path = tmp_path / "pictures" / "corruptions.png"

    def ink(results):
        report_plots.save_corruptions(pool(report.read_results(results)), path)
        image = Image.open(path)
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB"))
        return [(pixels == colour).all(axis=-1).sum() for colour in ((0, 114, 178), (213, 94, 0))]

    one, both = ink(runs[:1]), ink(runs)
    panel = 150  # pixels of a line in a panel, at least
    assert one[0] > panel * len(names) and one[1] == 0
    assert both[0] > panel * len(names) and both[1] > panel * len(names)


def test_picture_is_refused(store, tmp_path, capsys, monkeypatch):
    def refused(runs, name, expected):
        assert report.main([*map(str, runs), "--corruptions", str(tmp_path / name)]) == 2
        assert expected in " ".join(capsys.readouterr().err.split())
        assert not (tmp_path / name).exists()

    runs = store(evaluation("a", corruption=corruption(40.0)))
    refused(runs, "picture.pdf", "picture.pdf, but")
    refused(store(evaluation("a", clean=top1(70.0))), "picture.png", "No run has accuracies by")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    refused(runs, "picture.png", "nsneg_jax[report]")
