"""Texture synthesis: against loops over pixels, then its properties on photographs."""

import dataclasses
import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage import data

from nsneg_jax import texture_passes as passes
from nsneg_jax.errors import UsageError
from nsneg_jax.mesh import data_mesh
from nsneg_jax.texture import (
    TextureRecipe,
    compiled_synthesis,
    cut_exemplars,
    mosaic,
    random_generator,
    synthesise,
)
from nsneg_jax.texture_recipe import inner_places, shape_at, unravel, validate

# three levels of small exemplars: compiled and run in little time
SMALL = TextureRecipe(output_size=56, passes=(2, 1, 1), cell=4)
SIZE = 48


def photographs():
    gray = [np.stack([i] * 3, -1) for i in (data.brick(), data.grass(), data.gravel())]
    return [*gray, data.coffee(), data.chelsea(), data.astronaut()]


def prepared(names, recipe=SMALL, seed=0, size=SIZE):
    """Exemplars [N, 2, size, size, 3] of photographs and mosaics, by numbers of photographs."""
    exemplars, mosaics = [], []
    for name in names:
        rng = random_generator(seed, str(name))
        exemplars.append(cut_exemplars(rng, photographs()[name], 2, size))
        mosaics.append(mosaic(rng, exemplars[-1].shape[:3], recipe))
    return np.stack(exemplars), np.stack(mosaics)


@pytest.fixture(scope="module")
def made():
    """Exemplars, mosaics and textures of four photographs."""
    exemplars, mosaics = prepared(range(4))
    return exemplars, mosaics, jax.tree.map(np.asarray, synthesise(exemplars, mosaics, SMALL))


@pytest.fixture(scope="module")
def level():
    """The coarsest level of two photographs, 12x12, as the synthesis sees it; and its pictures."""
    exemplars, _ = prepared([1, 3])
    shape = shape_at((2, SIZE, SIZE), 2)
    inside = inner_places(shape, SMALL)

    @jax.jit
    def describe(pictures):
        pictures = passes.halved(passes.halved(pictures))
        described = passes.describe_exemplars(pictures, SMALL)
        return pictures, described, passes.most_similar(described, shape, inside, SMALL)

    pictures, *found = map(np.asarray, describe(exemplars.astype(np.float32) - 128))
    return passes.Level(shape, inside, pictures.reshape(2, -1, 3), *found), pictures


def patterns():
    """Float cosine patterns [D, 5, 5, 3], written from their definition."""
    colours = [(np.ones(3), 6), (np.array([1, -1, 0]), 2), (np.array([1, 1, -2]), 2)]
    made = []
    for colour, below in colours:
        for u in range(5):
            for v in range(5):
                if u + v < below:
                    pattern = np.empty((5, 5, 3))
                    for y in range(5):
                        for x in range(5):
                            wave = np.cos(np.pi * (2 * y + 1) * v / 10)
                            wave *= np.cos(np.pi * (2 * x + 1) * u / 10)
                            pattern[y, x] = wave * colour
                    made.append(pattern / np.linalg.norm(pattern))
    return np.stack(made)


def describe(window):
    """Of whole numbers [5, 5, 3]: projections on patterns in units of 1/1024, rounded."""
    weights = np.rint(1024 * patterns())
    return np.floor(np.einsum("dyxc,yxc->d", weights, window) / 1024 + 0.5)


# The pieces, against loops.


def test_neighbourhoods_are_described_by_orthonormal_cosines(level):
    level, pictures = level
    own = patterns().reshape(len(patterns()), -1)
    np.testing.assert_allclose(own @ own.T, np.eye(len(own)), atol=1e-12)
    for place in level.inside[::17]:
        e, y, x = unravel(level.shape, place)
        window = pictures[1, e, y - 2 : y + 3, x - 2 : x + 3]
        np.testing.assert_array_equal(level.described[1, place], describe(window))
    described = np.asarray(level.described)
    assert (described == np.rint(described)).all() and np.abs(described).max() < 2**11


def test_most_of_a_neighbourhood_is_in_its_description():
    image = photographs()[4].astype(float) - 128
    windows = np.lib.stride_tricks.sliding_window_view(image, (5, 5), (0, 1))[::7, ::7]
    windows = windows.transpose(0, 1, 3, 4, 2).reshape(-1, 75)
    kept = windows @ patterns().reshape(-1, 75).T
    assert (kept**2).sum() > 0.995 * (windows**2).sum()


def test_halved_against_a_loop():
    image = np.random.default_rng(0).integers(-128, 128, (8, 6, 3)).astype(np.float32)
    kernel = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), "edge")
    want = np.empty((4, 3, 3))
    for y in range(4):
        for x in range(3):
            part = padded[2 * y : 2 * y + 4, 2 * x : 2 * x + 4]
            want[y, x] = np.floor(np.einsum("yxc,yx->c", part, kernel) + 0.5)
    np.testing.assert_array_equal(passes.halved(image), want)


def nearest_in_shares(described, shape, inside, recipe):
    """The distance to the nearest place of each share, for every inner place, by a loop."""
    share = -(-len(inside) // recipe.similar)
    pool = np.resize(inside, (recipe.similar, share))
    e, y, x = unravel(shape, pool)
    least = np.empty((len(inside), recipe.similar))
    for i, place in enumerate(inside):
        own_e, own_y, own_x = unravel(shape, place)
        d = ((described[pool] - described[place]) ** 2).sum(-1)
        d[(e == own_e) & (abs(y - own_y) <= 2) & (abs(x - own_x) <= 2)] = np.inf
        least[i] = d.min(-1)
    return least, pool


def test_similar_places_are_the_nearest_of_their_shares(level, monkeypatch):
    level, _ = level
    for recipe in (SMALL, dataclasses.replace(SMALL, similar=1)):
        monkeypatch.setattr(passes, "_DISTANCES_AT_ONCE", 5000)  # several pieces, the last short
        similar = passes.most_similar(
            jnp.asarray(level.described), level.shape, level.inside, recipe
        )
        for n, described in enumerate(np.asarray(level.described)):
            own = described[level.inside]
            least, pool = nearest_in_shares(described, level.shape, level.inside, recipe)
            found = np.asarray(similar)[n, level.inside]
            gap = described[found] - own[:, None]
            np.testing.assert_array_equal((gap**2).sum(-1), least)
            for k in range(recipe.similar):
                assert np.isin(found[:, k], pool[k]).all()


def test_inherited_places_are_nearly_as_good(level):
    coarse, _ = level
    exemplars, _ = prepared([1, 3])
    shape = shape_at((2, SIZE, SIZE), 1)
    inside = inner_places(shape, SMALL)

    @jax.jit
    def inherit(pictures, similar):
        described = passes.describe_exemplars(passes.halved(pictures), SMALL)
        return described, passes.inherited(similar, described, shape, inside)

    made = inherit(exemplars.astype(np.float32) - 128, coarse.similar)
    described, found = map(np.asarray, made)
    rng = np.random.default_rng(0)
    for n in range(2):
        best = nearest_in_shares(described[n], shape, inside, SMALL)[0].min(-1)
        gap = described[n][found[n, inside]] - described[n][inside][:, None]
        ours = (gap**2).sum(-1).min(-1)
        other = described[n][rng.permutation(inside)] - described[n][inside]
        assert np.isin(found[n, inside], inside).all()
        # root mean square: against the best of all pairs, and against any place
        assert np.sqrt(ours.mean()) < 1.6 * np.sqrt(best.mean())
        assert np.sqrt(ours.mean()) < 0.75 * np.sqrt((other**2).sum(-1).mean())


def correct_by_loop(source, level, n, recipe):
    """One pass over image n, pixel by pixel; returns the map [side, side]."""
    described, similar, colours = (
        np.asarray(a)[n] for a in (level.described, level.similar, level.colours)
    )
    side = len(source)
    inside = set(level.inside.tolist())
    e, h, w = level.shape
    places = np.arange(e * h * w)
    _, y, x = unravel(level.shape, places)
    rows, columns = min(8, h // 3), min(8, w // 3)
    square = (places // (h * w) * rows + y * rows // h) * columns + x * columns // w
    count = e * rows * columns
    share = np.bincount(square[level.inside], minlength=count) / len(level.inside)
    mean = np.maximum(1, np.rint(share * side * side)).astype(int)
    least = [
        min(((described[s] - described[p]) ** 2).sum() for s in similar[p]) for p in level.inside
    ]
    unit = int(sorted(least)[len(least) * 19 // 20])
    for top, left in ((0, 0), (1, 1), (0, 1), (1, 0)):
        before = source.copy()
        used = np.minimum(np.bincount(square[before.ravel()], minlength=count) * 16 // mean, 80)
        cost_of_use = unit * used // 16 * recipe.use_cost // 4
        for row in range(top, side, 2):
            for column in range(left, side, 2):
                window = np.empty((5, 5, 3))
                for dy in range(-2, 3):
                    for dx in range(-2, 3):
                        place = before[(row + dy) % side, (column + dx) % side]
                        window[dy + 2, dx + 2] = colours[place]
                own = describe(window)
                best, least = None, np.inf
                for dy in (0, -1, 1):
                    for dx in (0, -1, 1):
                        neighbour = before[(row + dy) % side, (column + dx) % side]
                        for k, place in enumerate((neighbour, *similar[neighbour])):
                            place = place - dy * w - dx
                            if place not in inside:
                                continue
                            cost = ((described[place] - own) ** 2).sum()
                            cost *= 1 if k == 0 else 1 + recipe.jump_cost
                            cost += cost_of_use[square[place]]
                            if cost < least:
                                best, least = place, cost
                source[row, column] = best
    return source


@pytest.mark.parametrize("costs", [(0, 0), (2, 2), (1, 16)])
def test_a_pass_is_the_loop_over_pixels(level, costs):
    level, _ = level
    recipe = dataclasses.replace(SMALL, jump_cost=costs[0], use_cost=costs[1])
    rng = np.random.default_rng(0)
    source = rng.choice(level.inside, (2, 14, 14))

    @jax.jit
    def correct(source, colours, described, similar):
        own = level._replace(colours=colours, described=described, similar=similar)
        return passes.corrected(source, own, 1, recipe)

    got = correct(source, level.colours, level.described, level.similar)
    for n in range(2):
        want = correct_by_loop(source[n].copy(), level, n, recipe)
        np.testing.assert_array_equal(got[n], want)
        assert (want != source[n]).mean() > 0.5


def test_a_finer_map_continues_the_coarser(level):
    level, _ = level
    coarse = np.random.default_rng(0).choice(level.inside, (2, 6, 6))
    fine = np.asarray(passes.doubled(jnp.asarray(coarse), shape_at((2, SIZE, SIZE), 1)))
    e, y, x = unravel(level.shape, coarse)
    for row in range(12):
        for column in range(12):
            at = (slice(None), row // 2, column // 2)
            want = (e[at] * 24 + 2 * y[at] + row % 2) * 24 + 2 * x[at] + column % 2
            np.testing.assert_array_equal(fine[:, row, column], want)


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


def test_a_mosaic_is_made_of_pieces_evenly_from_all_over_the_exemplars():
    recipe = TextureRecipe()
    shape = (2, 24, 24)
    maps = [mosaic(random_generator(0, str(i)), (2, 96, 96), recipe) for i in range(300)]
    assert maps[0].shape == (56, 56) and maps[0].dtype == np.int32
    inside = inner_places(shape, recipe)
    use = np.bincount(np.ravel(maps), minlength=1152)
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


def test_exact_arithmetic_at_the_extremes():
    # the largest distance a neighbourhood can have, at the largest neighbourhood
    recipe = dataclasses.replace(SMALL, neighbourhood=9, frequencies=(18, 18))
    pictures = np.full((1, 2, 9, 9, 3), -128, np.float32)
    pictures[:, 1] = 127
    described = np.asarray(passes.describe_exemplars(pictures, recipe))[0, [40, 121]]
    distance = ((described[0].astype(int) - described[1].astype(int)) ** 2).sum()
    assert 15_700_000 < distance < 2**24
    got = passes._distances(jnp.asarray(described[None]), jnp.ones((1, 1), int), described[None, 0])
    assert int(got[0, 0]) == distance


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
        ({"cell": 0}, (2, 96, 96), "cell is 0"),
        ({"similar": 0}, (2, 96, 96), "similar places is 0"),
        ({"similar": 17}, (2, 96, 96), "must be 1 to 16 for these exemplars"),
        ({}, (0, 96, 96), "number of exemplars is 0"),
        ({}, (2, 102, 96), "102 x 96, but must be a multiple of 4"),
        ({}, (2, 36, 36), "at least 40 in both directions, for 3 levels"),
    ],
)
def test_impossible_recipes_are_refused(changes, shape, says):
    with pytest.raises(UsageError, match=says):
        validate(dataclasses.replace(TextureRecipe(), **changes), shape)


def test_other_sizes_and_numbers_of_exemplars():
    recipe = dataclasses.replace(SMALL, output_size=37, passes=(1, 1))
    exemplars = photographs()[3][:96, :80][None, None]
    first = mosaic(random_generator(0, "a"), exemplars.shape[1:4], recipe)
    got = synthesise(exemplars, first[None], recipe)
    assert got.image.shape == (1, 37, 37, 3)
    _, y, x = unravel((1, 96, 80), np.asarray(got.source[0]))
    np.testing.assert_array_equal(got.image[0], exemplars[0, 0][y, x])
