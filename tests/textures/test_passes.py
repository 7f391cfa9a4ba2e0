"""The pieces of a level of texture synthesis, against loops over places and pixels."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from photographs import SIZE, SMALL, photographs, prepared

from nsneg_jax.textures import passes
from nsneg_jax.textures.recipe import corrections, inner_places, shape_at, unravel


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
        return passes.corrected(source, own, corrections(recipe)[-1], recipe)

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
