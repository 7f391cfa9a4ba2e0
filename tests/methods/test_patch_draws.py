"""The draws of patch negatives as random variables."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from nsneg_jax.errors import UsageError
from nsneg_jax.methods.negatives import draw_patches, patch_negatives, scaled_patch_range

PUBLISHED = (16, 72)
P_VALUE = 1e-3

draw = jax.jit(draw_patches, static_argnums=(1, 2, 3, 4, 5))


def keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


@cache
def many_draws(side, images=10_000):
    """Two negatives for each image; the published range at `side`."""
    draws = draw(keys(images, seed=5), 2, side, *scaled_patch_range(PUBLISHED, side))
    return jax.tree.map(np.asarray, draws)


@pytest.mark.parametrize(
    ("side", "smallest", "largest", "images"),
    [(32, 2, 10, 10_000), (64, 5, 21, 2_000), (96, 7, 31, 2_000), (224, 16, 72, 10_000)],
)
def test_every_draw_is_in_range_and_the_last_offset_is_never_drawn(side, smallest, largest, images):
    assert scaled_patch_range(PUBLISHED, side) == (smallest, largest)
    size, corners = many_draws(side, images)
    cells = side // smallest + 1
    assert size.dtype == corners.dtype == np.int32
    assert size.shape == (images, 2) and corners.shape == (images, 2, cells, cells, 2)
    assert (size.min(), size.max()) == (smallest, largest)
    for d in range(smallest, largest + 1):
        drawn = corners[size == d]
        # enough are drawn that both ends must appear; side - d is where the last patch would fit
        assert drawn.min() == 0 and drawn.max() == side - d - 1


@pytest.mark.parametrize("side", [32, 224])
def test_sizes_are_uniform(side):
    size, _ = many_draws(side)
    low, high = scaled_patch_range(PUBLISHED, side)
    for m in range(2):
        counts = np.bincount(size[:, m], minlength=high + 1)[low:]
        assert len(counts) == high - low + 1
        assert stats.chisquare(counts).pvalue > P_VALUE


@pytest.mark.parametrize("side", [32, 224])
def test_corners_are_uniform_given_the_size(side):
    size, corners = many_draws(side)
    low, high = scaled_patch_range(PUBLISHED, side)
    tests = []
    for d in range(low, high + 1):
        used = side // d + 1
        drawn = corners[size == d][:, :used, :used].reshape(-1, 2)
        for axis in range(2):
            counts = np.bincount(drawn[:, axis], minlength=side - d)
            assert len(counts) == side - d
            tests.append((*stats.chisquare(counts), side - d - 1))
    statistics, p_values, degrees = zip(*tests, strict=True)
    assert stats.chi2.sf(sum(statistics), sum(degrees)) > P_VALUE
    assert min(p_values) > P_VALUE / len(p_values)


def dependence(a, b, bins=10):
    """p-value of the chi-square test that two samples on [0, 1) have nothing to do with another."""
    table = np.histogram2d(a, b, bins=bins, range=[(0, 1), (0, 1)])[0]
    return stats.chi2_contingency(table).pvalue


def test_cells_negatives_and_images_are_independent():
    size, corners = many_draws(224)
    low, high = PUBLISHED
    place = (corners + 0.5) / (224 - size)[..., None, None, None]
    sizes = (size - low + 0.5) / (high - low + 1)
    one, other = place[:, 0], place[:, 1]
    pairs = {
        "row and column of a corner": (one[:, 0, 0, 0], one[:, 0, 0, 1]),
        "cells side by side": (one[:, 1, 0], one[:, 1, 1]),
        "cells one above the other": (one[:, 0, 1], one[:, 1, 1]),
        "cells mirrored": (one[:, 0, 1], one[:, 1, 0]),
        "size and corner": (np.stack([sizes[:, 0]] * 2, -1), one[:, 0, 0]),
        "negatives' sizes": (sizes[:, 0], sizes[:, 1]),
        "negatives' corners": (one[:, 0, 0], other[:, 0, 0]),
        "neighbouring images' sizes": (sizes[1:, 0], sizes[:-1, 0]),
        "neighbouring images' corners": (one[1:, 0, 0], one[:-1, 0, 0]),
    }
    for name, (a, b) in pairs.items():
        assert dependence(a.ravel(), b.ravel()) > P_VALUE, name


def test_a_negative_depends_on_its_key_and_number_alone():
    size, corners = draw(keys(6), 3, 32, 2, 10)
    for got, want in (
        (draw(keys(6), 2, 32, 2, 10), (size[:, :2], corners[:, :2])),
        (draw(keys(6)[::-1], 3, 32, 2, 10), (size[::-1], corners[::-1])),
        (draw(keys(6)[2:4], 3, 32, 2, 10), (size[2:4], corners[2:4])),
    ):
        np.testing.assert_array_equal(got[0], want[0])
        np.testing.assert_array_equal(got[1], want[1])
    assert len({corners[n, m].tobytes() for n, m in np.ndindex(6, 3)}) == 18


def test_draws_do_not_depend_on_jit_vmap_or_x64():
    whole = draw(keys(6), 2, 32, 2, 10)
    plain = draw_patches(keys(6), 2, 32, 2, 10)
    mapped = jax.vmap(lambda keys: draw_patches(keys, 2, 32, 2, 10))(keys(6).reshape(3, 2))
    mapped = jax.tree.map(lambda a: a.reshape(6, *a.shape[2:]), mapped)
    with jax.enable_x64(True):
        double = draw_patches(keys(6), 2, 32, 2, 10)
    for other in (plain, mapped, double):
        for got, want in zip(other, whole, strict=True):
            np.testing.assert_array_equal(got, want)
            assert got.dtype == want.dtype == jnp.int32


def test_the_order_of_a_jigsaw_is_uniform():
    """A grid of 3 x 3: which piece comes where, and the pairs of the first two."""
    draws = draw(keys(6000, seed=2), 1, 12, 4, 4, "jigsaw")
    corners = np.asarray(draws.corners)[:, 0, :3, :3] // 4
    piece = (corners[..., 0] * 3 + corners[..., 1]).reshape(-1, 9)
    for place in range(9):
        assert stats.chisquare(np.bincount(piece[:, place], minlength=9)).pvalue > P_VALUE
    pairs = np.bincount(piece[:, 0] * 9 + piece[:, 1], minlength=81)
    assert (pairs[np.arange(9) * 10] == 0).all()
    assert stats.chisquare(np.delete(pairs, np.arange(9) * 10)).pvalue > P_VALUE


def test_aligned_patches_are_whole_tokens():
    keys = jax.random.split(jax.random.key(3), 64)
    draws = draw_patches(keys, 2, 48, 5, 30, align=8)
    size, corners = np.asarray(draws.size), np.asarray(draws.corners)
    assert set(size.ravel()) == {8, 16, 24}
    assert not (corners % 8).any()
    ends = corners.max(axis=(2, 3, 4)) + size
    assert ends.max() == 48  # the last token is drawn too
    images = jax.random.uniform(keys[0], (64, 48, 48, 3))
    made = np.asarray(patch_negatives(images, draws))[:, 0]

    def tokens(picture):
        cut = np.asarray(picture).reshape(6, 8, 6, 8, 3).transpose(0, 2, 1, 3, 4)
        return {token.tobytes() for token in cut.reshape(36, -1)}

    assert all(tokens(m) <= tokens(i) for m, i in zip(made, images, strict=True))


def test_alignment_that_no_side_has():
    with pytest.raises(UsageError, match="no multiple of 16"):
        draw_patches(jax.random.split(jax.random.key(0), 1), 1, 48, 5, 15, align=16)
