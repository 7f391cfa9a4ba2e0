"""Textures: what chance decides, their properties on photographs, and impossible recipes."""

import dataclasses
import hashlib

import jax
import numpy as np
import pytest
from photographs import SIZE, SMALL, photographs, prepared

from nsneg_jax.errors import UsageError
from nsneg_jax.parallel.mesh import data_mesh
from nsneg_jax.textures.recipe import (
    RECIPES,
    canvas_side,
    corrections,
    inner_places,
    shape_at,
    similar_at,
    unravel,
    validate,
)
from nsneg_jax.textures.synthesis import (
    TextureRecipe,
    compiled_synthesis,
    cut_exemplars,
    mosaic,
    random_generator,
    synthesise,
)


@pytest.fixture(scope="module")
def made():
    """Exemplars, mosaics and textures of four photographs."""
    exemplars, mosaics = prepared(range(4))
    return exemplars, mosaics, jax.tree.map(np.asarray, synthesise(exemplars, mosaics, SMALL))


# What is chance's: exemplars and mosaics.


def test_exemplars_are_the_central_square_and_random_ones():
    image = np.arange(120 * 151, dtype=np.int64).reshape(120, 151, 1) % 251
    image = np.repeat(image.astype(np.uint8), 3, 2)
    corners = set()
    for name in range(200):
        exemplars = cut_exemplars(random_generator(0, str(name)), image, 2, 96)
        assert exemplars.shape == (2, 96, 96, 3) and exemplars.dtype == np.uint8
        np.testing.assert_array_equal(exemplars[0], image[12:108, 27:123])
        rng = random_generator(0, str(name))
        y, x = rng.integers((25, 56))
        np.testing.assert_array_equal(exemplars[1], image[y : y + 96, x : x + 96])
        corners.add((int(y), int(x)))
    assert {y for y, _ in corners} >= {0, 24} and len(corners) > 150
    assert max(x for _, x in corners) > 50


@pytest.mark.parametrize("shape", [(1, 1), (40, 300), (300, 95), (96, 96), (13, 7)])
def test_small_images_are_continued_by_reflection(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    exemplars = cut_exemplars(random_generator(0, "a"), image, 3, 96)
    assert exemplars.shape == (3, 96, 96, 3)
    colours = {pixel.tobytes() for pixel in image.reshape(-1, 3)}
    for exemplar in exemplars:
        assert {pixel.tobytes() for pixel in exemplar.reshape(-1, 3)} <= colours
    if shape == (40, 300):
        np.testing.assert_array_equal(exemplars[0][28:68], image[:, 102:198])
        np.testing.assert_array_equal(exemplars[0][:28], image[:28, 102:198][::-1])


@pytest.mark.parametrize("name", RECIPES)
def test_a_mosaic_is_made_of_pieces_evenly_from_all_over_the_exemplars(name):
    recipe = RECIPES[name]
    depth = len(recipe.passes) - 1
    shape = shape_at((2, 96, 96), depth)
    maps = [mosaic(random_generator(0, str(i)), (2, 96, 96), recipe) for i in range(300)]
    assert maps[0].shape == (canvas_side(recipe) >> depth,) * 2 and maps[0].dtype == np.int32
    inside = inner_places(shape, recipe)
    use = np.bincount(np.ravel(maps), minlength=np.prod(shape))
    assert set(np.flatnonzero(use)) == set(inside)
    use = use[inside] / use.sum() * len(inside)
    assert use.min() > 0.7 and use.max() < 1.4
    # pieces: most pixels continue their neighbour, or its mirror image
    steps = np.abs(np.diff(maps, axis=2))
    assert 0.7 < (steps <= 1).mean() < 0.95
    assert len({m.tobytes() for m in maps}) == 300


def test_generators_differ_by_seed_and_name():
    draws = {random_generator(s, n).integers(2**60) for s in (0, 1, 11) for n in ("1a", "a", "b")}
    assert len(draws) == 9


# Textures.


def test_every_pixel_is_the_exemplars_pixel_of_its_place(made):
    exemplars, _, texture = made
    assert texture.image.shape == (4, 56, 56, 3) and texture.image.dtype == np.uint8
    assert texture.source.shape == (4, 56, 56) and texture.source.dtype == np.int32
    for n in range(4):
        e, y, x = unravel((2, SIZE, SIZE), texture.source[n])
        np.testing.assert_array_equal(texture.image[n], exemplars[n][e, y, x])
        assert y.min() >= 2 and y.max() < SIZE - 2
        assert set(e.ravel()) == {0, 1}


def window_distance(image, exemplars):
    """Mean distance of 7x7 windows to the nearest of the exemplars, in grey levels."""

    def windows(picture):
        view = np.lib.stride_tricks.sliding_window_view(picture.astype(float), (7, 7), (0, 1))
        return view.reshape(-1, 147)

    theirs = np.concatenate([windows(e) for e in exemplars])
    own = windows(image)[::7]
    d = (own**2).sum(1)[:, None] + (theirs**2).sum(1) - 2 * own @ theirs.T
    return np.sqrt(np.maximum(d.min(1), 0) / 147).mean()


def test_corrections_bring_neighbourhoods_nearer_to_the_exemplars(made):
    exemplars, mosaics, texture = made
    first = synthesise(exemplars, mosaics, dataclasses.replace(SMALL, passes=(0, 0, 0))).image
    before, after = (
        np.array(
            [window_distance(np.asarray(i), e) for i, e in zip(images, exemplars, strict=True)]
        )
        for images in (first, texture.image)
    )
    assert (after < 1.05 * before).all() and after.mean() < 0.9 * before.mean()


def test_a_texture_does_not_depend_on_its_batch(made):
    exemplars, mosaics, texture = made
    order = np.array([2, 0, 3, 1])
    shuffled = synthesise(exemplars[order], mosaics[order], SMALL)
    for name in ("image", "source"):
        got, want = np.asarray(getattr(shuffled, name)), getattr(texture, name)
        np.testing.assert_array_equal(got, want[order])


def test_eight_devices_with_an_image_each_give_the_same_bits(made):
    exemplars, mosaics, texture = made
    program = compiled_synthesis(SMALL, data_mesh())
    twice = np.concatenate([exemplars, exemplars]), np.concatenate([mosaics, mosaics])
    got = program(*twice)
    assert len(got.image.sharding.device_set) == 8
    np.testing.assert_array_equal(got.source, np.concatenate([texture.source] * 2))


def test_textures_have_not_changed(made):
    # whole data sets are made of these bits: a change needs a reason, and a word in the docs
    digest = hashlib.sha256(made[2].image.tobytes()).hexdigest()
    assert digest[:16] == "dd48e615db8b36fd"


def test_flat_and_noisy_exemplars_are_no_trouble():
    flat = np.full((2, SIZE, SIZE, 3), 200, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, flat.shape, np.uint8)
    extremes = 255 * (noise > 127).astype(np.uint8)
    first = mosaic(random_generator(0, ""), flat.shape[:3], SMALL)
    got = synthesise(np.stack([flat, noise, extremes, flat]), np.stack([first] * 4), SMALL)
    assert (np.asarray(got.image[0]) == 200).all()
    for n, exemplars in ((1, noise), (2, extremes)):
        np.testing.assert_allclose(got.image[n].mean(), exemplars.mean(), atol=12)
        np.testing.assert_allclose(got.image[n].std(), exemplars.std(), rtol=0.1)


@pytest.mark.slow
def test_a_small_object_on_a_plain_ground_does_not_vanish():
    # passes of best matches erode it: see docs/design.md
    recipe = TextureRecipe()
    exemplars = np.full((6, 2, 96, 96, 3), 255, np.uint8)
    for n, photograph in enumerate(photographs()):
        exemplars[n, 0, 30:90, 20:60] = photograph[100:160, 100:140]
    firsts = [mosaic(random_generator(0, str(n)), exemplars.shape[1:4], recipe) for n in range(6)]
    textures = np.asarray(synthesise(exemplars, np.stack(firsts), recipe).image)
    for texture, own in zip(textures, exemplars, strict=True):
        assert texture.std() > 0.4 * own.std()


@pytest.mark.parametrize(
    ("changes", "shape", "says"),
    [
        ({"passes": ()}, (2, 96, 96), r"passes is \(\)"),
        ({"passes": (1, -1)}, (2, 96, 96), "passes"),
        ({"output_size": 0}, (2, 96, 96), "output_size is 0"),
        ({"neighbourhood": 11}, (2, 96, 96), "neighbourhood is 11, but must be 3, 5, 7 or 9"),
        ({"neighbourhood": 4}, (2, 96, 96), "neighbourhood is 4"),
        ({"frequencies": (6, 0)}, (2, 96, 96), "frequencies"),
        ({"jump_cost": 17}, (2, 96, 96), "jump_cost is 17, but must be a whole number of 0 to 16"),
        ({"use_cost": -1}, (2, 96, 96), "use_cost is -1"),
        ({"use_cost": 0.5}, (2, 96, 96), "use_cost is 0.5"),
        ({"use_cost": (2, 1)}, (2, 96, 96), r"use_cost is \(2, 1\), .* 4 of them"),
        ({"jump_cost": (0, 0, 1, 17)}, (2, 96, 96), r"jump_cost is \(0, 0, 1, 17\)"),
        ({"cell": 0}, (2, 96, 96), "cell is 0"),
        ({"similar": 0}, (2, 96, 96), "similar places is 0"),
        ({"similar": 78}, (2, 96, 96), "must be 1 to 77 for these exemplars"),
        ({}, (0, 96, 96), "number of exemplars is 0"),
        ({}, (2, 102, 96), "102 x 96, but must be a multiple of 8"),
        ({}, (2, 36, 36), "at least 80 in both directions, for 4 levels"),
    ],
)
def test_impossible_recipes_are_refused(changes, shape, says):
    with pytest.raises(UsageError, match=says):
        validate(dataclasses.replace(TextureRecipe(), **changes), shape)


def test_costs_are_of_all_levels_or_of_each():
    recipe = dataclasses.replace(SMALL, jump_cost=1, use_cost=(3, 2, 0))
    assert corrections(recipe) == [(2, 1, 3), (1, 1, 2), (1, 1, 0)]


def test_levels_of_few_places_keep_fewer_similar_ones():
    # 100 places at the coarsest level: one share for each of them
    recipe = dataclasses.replace(SMALL, output_size=40, similar=6)
    exemplars = photographs()[3][None, None, :56, :56]
    assert [similar_at(shape_at((1, 56, 56), depth), recipe) for depth in (2, 1)] == [2, 6]
    first = mosaic(random_generator(0, "a"), exemplars.shape[1:4], recipe)[None]
    made = jax.eval_shape(lambda *arrays: synthesise(*arrays, recipe), exemplars, first)
    assert made.image.shape == (1, 40, 40, 3)


def test_other_sizes_and_numbers_of_exemplars():
    recipe = dataclasses.replace(SMALL, output_size=37, passes=(1, 1))
    exemplars = photographs()[3][:96, :80][None, None]
    first = mosaic(random_generator(0, "a"), exemplars.shape[1:4], recipe)
    got = synthesise(exemplars, first[None], recipe)
    assert got.image.shape == (1, 37, 37, 3)
    _, y, x = unravel((1, 96, 80), np.asarray(got.source[0]))
    np.testing.assert_array_equal(got.image[0], exemplars[0, 0][y, x])
