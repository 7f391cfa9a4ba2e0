"""benchmarks.texture_pieces on maps made by hand, and the default recipe by its measures."""

import dataclasses
import hashlib

import numpy as np
import pytest
from photographs import prepared

from benchmarks.texture_pieces import continues, pieces
from nsneg_jax.textures.recipe import RECIPES
from nsneg_jax.textures.synthesis import synthesise

# Two exemplars of 3x4: one of columns 0, 10, 20, 30, one of a single colour.
COLUMNS = np.broadcast_to(np.arange(0, 40, 10)[:, None], (3, 4, 3))
EXEMPLARS = np.stack([COLUMNS, np.full((3, 4, 3), 90)]).astype(np.uint8)
FIRST, SECOND = np.arange(24).reshape(2, 3, 4)


def test_an_exemplar_itself_is_one_piece():
    got = pieces(FIRST, EXEMPLARS)
    assert got[:3] == (0.5, 0, 1) and np.isnan(got.seam_contrast)
    # 9 steps of 10 to the right and 8 of 0 down, in twice as many neighbours of the exemplars
    assert got.contrast == pytest.approx((90 / 17) / (90 / 34))


def test_two_pieces_side_by_side():
    source = np.concatenate([FIRST[:, 1:3], SECOND[:, :3]], axis=1)
    got = pieces(source, EXEMPLARS)
    # 3 of 12 + 10 neighbours lie across the seam, from 20 to 90
    assert got.used == 15 / 24 and got.lesser == 6 / 15
    assert got.continued == pytest.approx(19 / 22)
    assert got.seam_contrast == pytest.approx(70 / (90 / 34))
    assert got.contrast == pytest.approx((3 * 70 + 3 * 10) / 22 / (90 / 34))


def test_a_piece_ends_with_its_exemplar():
    # the numbers go on by one, and by the width of an exemplar, but the exemplar does not
    below, right = continues(np.array([[2, 3, 4], [6, 7, 8], [10, 11, 12]]), (2, 3, 4))
    np.testing.assert_array_equal(right, [[True, False]] * 3)
    np.testing.assert_array_equal(below, [[True, True, True], [True, True, False]])


def test_mirrored_and_repeated_pixels_are_seams():
    for source in (FIRST[:, ::-1], np.full((3, 4), 5)):
        _, right = continues(source, (2, 3, 4))
        assert not right.any()
    still = pieces(np.full((3, 4), 5), EXEMPLARS)
    assert still.used == 1 / 24 and still.continued == 0 and still.seam_contrast == 0


def test_exemplars_of_one_colour_have_no_contrast():
    got = pieces(FIRST, EXEMPLARS[[1, 1]])
    assert np.isnan(got.seam_contrast) and np.isnan(got.contrast)


@pytest.mark.slow
def test_the_default_recipe_makes_large_pieces_of_less_of_the_exemplars():
    recipe = dataclasses.replace(RECIPES["coherent"], output_size=64)
    exemplars, mosaics = prepared([3, 5], recipe, size=80)
    texture = synthesise(exemplars, mosaics, recipe)
    found = [pieces(s, e) for s, e in zip(np.asarray(texture.source), exemplars, strict=True)]
    # the recipe "patchwork" has 0.45 and 0.26
    assert np.mean([one.continued for one in found]) > 0.7
    assert np.mean([one.used for one in found]) < 0.2
    # whole data sets are made of these bits: a change needs another name
    assert (
        hashlib.sha256(np.asarray(texture.image).tobytes()).hexdigest()[:16] == "9136977f7ab09e16"
    )
