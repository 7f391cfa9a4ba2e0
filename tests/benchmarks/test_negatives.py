"""benchmarks.negatives."""

import json

import numpy as np
import pytest
from PIL import Image

from benchmarks import negatives as benchmark
from nsneg_jax.errors import UsageError


def test_json_line(capsys):
    arguments = "--names patch low_frequency --size 16 --batch 2 --steps 2"
    assert benchmark.main(arguments.split()) == 0
    figures = json.loads(capsys.readouterr().out)
    assert list(figures["milliseconds_per_image"]) == ["patch", "low_frequency"]
    assert all(each > 0 for each in figures["milliseconds_per_image"].values())


def test_sheet(tmp_path):
    file = tmp_path / "new" / "sheet.jpg"
    arguments = ["--size", "32", "--names", "low_frequency", "--sheet", str(file)]
    assert benchmark.main(arguments) == 0
    step = benchmark._TILE + benchmark._GAP
    sheet = np.asarray(Image.open(file), float)
    assert sheet.shape[1] == benchmark._GAP + 2 * step and (sheet.shape[0] - 20) % step == 0
    left, top = benchmark._GAP, benchmark._TITLE + benchmark._GAP
    image, blurred = (
        sheet[top : top + benchmark._TILE, x : x + benchmark._TILE] for x in (left, left + step)
    )
    assert 0 < blurred.std() < image.std()
    np.testing.assert_allclose(blurred.mean((0, 1)), image.mean((0, 1)), atol=3)


@pytest.mark.parametrize("argument", [["--batch", "0"], ["--steps", "0"], ["--size", "15"]])
def test_impossible_values(argument):
    with pytest.raises(UsageError, match=f"{argument[0]} is {argument[1]}"):
        benchmark.parse(argument)
