"""The draws of many places at once equal those of NumPy's generator of each place."""

from functools import partial

import numpy as np
import pytest

from nsneg_jax.input.crops import sample_crop, sample_texture_crop
from nsneg_jax.input.draws import PlaceGenerator, philox_words


def numpys(seed, place):
    """NumPy's generator of a place."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, place], np.uint64)))


def generators(seed, places, blocks=3):
    """Ours of several places; each call of an item makes a new one."""
    words = philox_words(seed, np.asarray(places), blocks).tolist()
    return [
        partial(PlaceGenerator, seed, int(at), of) for at, of in zip(places, words, strict=True)
    ]


SEEDS = (0, 3, 2**31, 2**63 - 1, 2**64 - 1)


def some_places(rng, n):
    """Small and large places."""
    return rng.integers(0, 2 ** rng.integers(1, 41, n))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("blocks", [1, 3, 5])
def test_words_are_philox_words(seed, blocks):
    places = some_places(np.random.default_rng(blocks), 40)
    words = philox_words(seed, places, blocks)
    assert words.shape == (40, 4 * blocks) and words.dtype == np.uint64
    for place, ours in zip(places, words, strict=True):
        philox = np.random.Philox(key=np.array([seed, place], np.uint64))
        np.testing.assert_array_equal(ours, philox.random_raw(4 * blocks))


def test_a_single_place_and_no_place():
    assert philox_words(1, np.array([7]), 2).shape == (1, 8)
    assert philox_words(1, np.zeros(0, np.int64), 2).shape == (0, 8)


def assert_same_draws(ours, theirs, rng, draws):
    """Any order of uniform and integers; the largest counts reject half of the words."""
    for _ in range(draws):
        if rng.random() < 0.5:
            low, high = np.sort(rng.normal(size=2)).tolist()
            assert ours.uniform(low, high) == theirs.uniform(low, high)
        else:
            low = int(rng.integers(-5, 5))
            count = int(rng.choice([1, 2, 3, 200, 2**31 + 1, 3 * 2**30, 2**32 - 1, 2**32]))
            assert ours.integers(low, low + count) == theirs.integers(low, low + count)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("blocks", [1, 3])
def test_draws_in_any_order(seed, blocks):
    rng = np.random.default_rng(1)
    places = some_places(rng, 30)
    draws = generators(seed, places, blocks)
    for i, place in enumerate(places):
        assert_same_draws(draws[i](), numpys(seed, place), rng, 100)


def test_each_generator_starts_anew():
    draws = generators(5, range(4))
    first = [draws[2]().uniform(0, 1) for _ in range(3)]
    assert first == [numpys(5, 2).uniform(0, 1)] * 3
    assert draws[1]().uniform(0, 1) != first[0]


def some_sizes(rng, n):
    """Photographs, equal sides, thin images that force repetitions, and a few pixels."""
    tall = np.exp(rng.uniform(0, np.log(3000), n))
    shape = np.exp(rng.normal(size=n) * rng.choice([0, 0.3, 2], n))
    sizes = np.stack([tall, np.clip(tall * shape, 1, 4000)], 1).round().astype(int)
    sizes[::3] = [(375, 500), (500, 375), (224, 224)][int(rng.integers(3))]
    return sizes.tolist()


def assert_same_crops(seed, n):
    rng = np.random.default_rng(seed % 2**32)
    places, sizes = some_places(rng, n), some_sizes(rng, n)
    smallest = rng.choice([0.08, 0.2, 0.9, 1.0], n).tolist()
    draws = generators(seed, places)
    long = 0
    for i, (height, width) in enumerate(sizes):
        scale = (smallest[i], 1.0)
        ours, theirs = draws[i](), numpys(seed, places[i])
        for _ in range(2):
            box = sample_crop(theirs, height, width, scale)
            assert sample_crop(ours, height, width, scale) == box
        texture = sample_texture_crop(numpys(seed, places[i]), 224, 224, scale)
        assert sample_texture_crop(draws[i](), 224, 224, scale) == texture
        long += int(theirs.bit_generator.state["state"]["counter"][0]) > 3
        # Both have used the same words, so that any further draw is the same.
        assert ours.integers(0, 2**32) == theirs.integers(0, 2**32)
    # Some needed more words than were made at once, which is also so where no draw fitted.
    assert n / 20 < long < n / 2


@pytest.mark.parametrize("seed", SEEDS)
def test_crops_are_the_generator_s(seed):
    assert_same_crops(seed, 600)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2**20, 2**62 + 1, 2**63 - 1])
def test_many_crops_are_the_generator_s(seed):
    assert_same_crops(seed, 50_000)
