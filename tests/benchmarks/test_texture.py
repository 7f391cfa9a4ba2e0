"""benchmarks.texture and the measures of benchmarks.texture_quality."""

import json

import jax
import numpy as np
import pytest
from PIL import Image
from skimage import data

from benchmarks import texture, texture_quality
from nsneg_jax.errors import UsageError
from nsneg_jax.textures.recipe import TextureRecipe

# few passes at few levels: compiled and run in little time
QUICK = TextureRecipe(output_size=96, passes=(1, 0), jump_cost=1, use_cost=2, cell=10)
QUICK_RECIPES = {"coherent": QUICK, "patchwork": QUICK}


@pytest.mark.slow
def test_json_line(capsys, monkeypatch):
    monkeypatch.setattr(texture, "RECIPES", QUICK_RECIPES)
    devices = jax.device_count()
    arguments = ["--batch", str(devices), "--rounds", "3", "--size", "96", "--beside", "patchwork"]
    assert texture.main(arguments) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["device"] == "cpu" and figures["devices"] == devices
    median = sorted(figures["seconds"])[1]
    beside = sorted(figures["seconds_beside"])[1]
    assert figures["ratio"] == pytest.approx(beside / median, rel=1e-3)
    assert figures["images_per_second"] == pytest.approx(devices / median, rel=1e-3)
    assert figures["peak_memory_bytes"] > figures["program_bytes"] > 0
    for name in ("cpu", "host"):
        assert figures[f"{name}_seconds_per_image"] > 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--batch", "0"], "--batch is 0"),
        (["--batch", "9"], "multiple of 8"),
        (["--rounds", "0"], "--rounds is 0"),
    ],
)
def test_impossible_values(arguments, says):
    with pytest.raises(UsageError, match=says):
        texture.parse(arguments)


@pytest.fixture(scope="module")
def exemplars():
    image = data.coffee()
    return np.stack([image[:96, :96], image[200:296, 300:396]])


def test_nearest_windows(exemplars):
    rng = np.random.default_rng(0)
    these, those = rng.integers(0, 256, (2, 5000, 12)).astype(np.float32)
    want = [np.sqrt(((those - one) ** 2).mean(1).min()) for one in these[:20]]
    np.testing.assert_allclose(texture_quality.nearest(these[:20], those), want, rtol=1e-4)
    # zero up to float32's rounding
    assert max(texture_quality.window_distances(rng, exemplars[1], exemplars, 200)) < 0.3


def test_windows_across_seams_are_found(exemplars):
    rng = np.random.default_rng(0)
    made = texture_quality.tiling(rng, exemplars, 224)
    anywhere, across = texture_quality.window_distances(rng, made.image, exemplars, 400)
    assert across > 2 * anywhere
    inside = made.image[:32, :32]
    assert texture_quality.nearest(
        texture_quality.windows(inside).reshape(-1, 147),
        np.concatenate([texture_quality.windows(e).reshape(-1, 147) for e in exemplars]),
    ).max() < 0.3  # fmt: skip


def test_copied_blocks(exemplars):
    rng = np.random.default_rng(0)
    tiles = texture_quality.tiling(rng, exemplars, 224)
    np.testing.assert_array_equal(tiles.image, exemplars.reshape(-1, 3)[tiles.source])
    assert 32 <= texture_quality.copied_block(tiles.source, 96) < 40
    single = texture_quality.resampling(rng, exemplars, 224)
    assert texture_quality.copied_block(single.source, 96) == 1
    source = np.arange(96 * 96).reshape(96, 96)
    assert texture_quality.copied_block(source[10:40, 3:90], 96) == 30
    source = source.copy()
    source[15] = 0
    assert texture_quality.copied_block(source[10:40, 3:90], 96) == 24


def test_spectrum_and_colours(exemplars):
    rng = np.random.default_rng(0)
    two = np.stack([exemplars[0]] * 2)
    assert texture_quality.spectrum_difference(exemplars[0], two) < 1e-6
    half = np.clip(128 + (exemplars[0].astype(float) - 128) / 2, 0, 255)
    assert texture_quality.spectrum_difference(half, two) == pytest.approx(6, abs=0.4)
    single = texture_quality.resampling(rng, exemplars, 224).image
    assert texture_quality.spectrum_difference(single, exemplars) > 8
    assert texture_quality.colour_difference(single, exemplars) < 1
    brighter = exemplars.astype(int) + 10
    assert texture_quality.colour_difference(brighter, exemplars) == pytest.approx(10)


def test_correlations():
    image = data.chelsea()
    square = image[:, 75:375]
    same = np.asarray(Image.fromarray(square).resize((224, 224), Image.Resampling.BOX))
    assert min(texture_quality.correlations(same, image)) > 0.999
    assert max(texture_quality.correlations(255 - same, image)) < -0.999
    noise = np.random.default_rng(0).integers(0, 256, same.shape, np.uint8)
    assert np.abs(texture_quality.correlations(noise, image)[0]) < 0.02
    assert texture_quality.correlations(np.full_like(same, 9), image) == (0, 0)


@pytest.mark.slow
def test_table_and_sheet(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(texture_quality, "RECIPES", QUICK_RECIPES)
    folder = tmp_path / "train" / "a"
    folder.mkdir(parents=True)
    for i in range(3):
        Image.fromarray(data.coffee()[40 * i : 40 * i + 200]).save(folder / f"{i}.jpg")
    arguments = ["--root", str(tmp_path), "--images", "8", "--windows", "50"]
    assert texture_quality.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| 8 images | coherent | patchwork | tiling | resampling |"
    assert len(lines) == 15 and all(line.count("|") == 6 for line in lines)
    assert texture_quality.main([*arguments, "--sheet", str(tmp_path / "sheet.jpg")]) == 0
    assert Image.open(tmp_path / "sheet.jpg").size == (2 * (224 + 96 + 2 * 96 + 24), 4 * 204)
