"""What is taken out of a picture, beside NumPy and SciPy."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from nsneg_jax.corruptions import SUPPRESSIONS, corrupt, image_keys, names, settings_of
from nsneg_jax.corruptions import suppression as made
from nsneg_jax.corruptions.registry import SUPPRESSION

SIDE = 33  # of which no grid has an even share
PICTURES = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), np.uint8)


def suppressed(name, severity, pictures=PICTURES, seed=0):
    keys = image_keys(seed, jnp.arange(len(pictures)))
    return np.asarray(corrupt(jnp.asarray(pictures), name, severity, keys))


def test_they_are_no_corruptions():
    assert SUPPRESSIONS == ("patch_shuffle", "low_pass", "high_pass", "gray")
    assert not set(SUPPRESSIONS) & set(names())
    assert len(settings_of(SUPPRESSION)) == 20


@pytest.mark.parametrize("severity", range(1, 6))
def test_tiles_are_permuted_whole(severity):
    grid = made.GRIDS[severity - 1]
    tile = SIDE // grid
    got = suppressed("patch_shuffle", severity)
    covered = grid * tile

    def cut(picture):
        inside = picture[:covered, :covered].reshape(grid, tile, grid, tile, 3)
        return inside.transpose(0, 2, 1, 3, 4).reshape(grid * grid, -1)

    for before, after in zip(PICTURES, got, strict=True):
        assert sorted(map(bytes, cut(before))) == sorted(map(bytes, cut(after)))
        assert not np.array_equal(cut(before), cut(after)) or grid == 2
        np.testing.assert_array_equal(before[covered:], after[covered:])
        np.testing.assert_array_equal(before[:, covered:], after[:, covered:])
    assert not np.array_equal(got, suppressed("patch_shuffle", severity, seed=1))


def test_frequencies_are_scipys():
    planes = PICTURES.astype(float) / 255
    for severity in (1, 5):
        for name, levels in (("low_pass", made.LOW_PASS), ("high_pass", made.HIGH_PASS)):
            sigma = max(levels[severity - 1] * SIDE / 224, 0.3)
            blurred = gaussian_filter(planes, (0, sigma, sigma, 0), mode="nearest")
            want = blurred if name == "low_pass" else planes - blurred + 0.5
            want = np.floor(255 * np.clip(want, 0, 1) + 1e-3)
            assert np.abs(suppressed(name, severity) - want).max() <= 1, (name, severity)


def test_gray_by_degrees():
    luma = PICTURES @ np.array([0.299, 0.587, 0.114])
    whole = suppressed("gray", 5).astype(float)
    assert np.abs(whole - luma[..., None]).max() <= 1
    np.testing.assert_array_equal(whole[..., 0], whole[..., 2])
    spread = [np.ptp(suppressed("gray", s).astype(int), axis=-1).mean() for s in range(1, 6)]
    assert spread == sorted(spread, reverse=True) and spread[-1] == 0
