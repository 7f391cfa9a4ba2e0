"""benchmarks.corruptions."""

import json

import numpy as np
import pytest
from PIL import Image

from benchmarks import corruptions as benchmark
from nsneg_jax.corruptions import CORRUPTIONS, EXTRA, corrupt, image_keys
from nsneg_jax.errors import UsageError


def test_json_line(capsys):
    arguments = "--names contrast brightness --size 16 --batch 4 --steps 2"
    assert benchmark.main(arguments.split()) == 0
    figures = json.loads(capsys.readouterr().out)
    seconds = figures["seconds_per_100_images"]
    assert list(seconds) == ["contrast", "brightness"]
    assert all(len(row) == 5 and min(row) >= 0 for row in seconds.values())
    assert figures["test_seconds_per_100_images"] is None  # not all 15 were measured
    total = sum(map(sum, seconds.values()))
    assert figures["seconds_per_100_images_all"] == pytest.approx(total, abs=1e-2)


def test_sheet(tmp_path):
    picture, file = tmp_path / "picture.png", tmp_path / "new" / "sheet.jpg"
    pixels = np.random.default_rng(0).integers(0, 256, (48, 32, 3), np.uint8)
    Image.fromarray(pixels).save(picture)
    arguments = ["--size", "32", "--names", "contrast", "--picture", str(picture)]
    assert benchmark.main(["--sheet", str(file), *arguments]) == 0
    sheet = Image.open(file)
    tile = np.asarray(sheet)[
        -benchmark._TILE - benchmark._GAP : -benchmark._GAP, -benchmark._TILE :
    ]
    expected = corrupt(pixels[None, 8:40], "contrast", 5, image_keys(0, [0]))[0]
    np.testing.assert_allclose(tile.mean(axis=(0, 1)), expected.mean(axis=(0, 1)), atol=5)
    assert sheet.size[1] < 2 * benchmark._TILE  # one row


def test_sheet_shows_all_by_default():
    assert benchmark.parse([]).names == (*CORRUPTIONS, *EXTRA)


@pytest.mark.parametrize("argument", [["--batch", "0"], ["--steps", "0"], ["--size", "15"]])
def test_impossible_values(argument):
    with pytest.raises(UsageError, match=f"{argument[0]} is {argument[1]}"):
        benchmark.parse(argument)


def test_unreadable_picture(tmp_path, capsys):
    arguments = ["--sheet", str(tmp_path / "s.jpg"), "--picture", str(tmp_path / "none.png")]
    assert benchmark.main(arguments) == 2
    assert "--picture FILE" in " ".join(capsys.readouterr().err.split())
