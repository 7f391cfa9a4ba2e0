"""Views against one picture after another in NumPy and Pillow, and as random variables."""

from dataclasses import replace
from functools import cache, partial
from itertools import combinations, permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from PIL import ImageEnhance
from scipy import stats
from skimage import color
from view_references import (
    as_float,
    by_pillow,
    levels,
    on_images,
    photographs,
    pillow_hue,
    three_boxes,
)

from nsneg_jax.errors import UsageError
from nsneg_jax.methods import views
from nsneg_jax.methods.operations import photometric
from nsneg_jax.methods.operations.colour import BRIGHTNESS, CONTRAST, HUE, SATURATION
from nsneg_jax.methods.views import V1, V2, ViewDraws, ViewRecipe

ORDERS = np.array(list(permutations(range(4))), np.int32)
COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute")
P_VALUE = 1e-3


def batch(n, height=32, width=32):
    """Photographs n times over, and keys."""
    crops = np.resize(photographs(height, width), (n, height, width, 3))
    return jnp.asarray(crops), jax.random.split(jax.random.key(7), n)


augment = jax.jit(views.augment, static_argnums=(2, 3))
apply_view = jax.jit(views.apply_view, static_argnums=(2, 3))


# Composition against a loop over samples and operations, in float64 with other people's HSV.


def luma(image):
    return image @ np.array([0.299, 0.587, 0.114])


def blend(image, target, factor):
    return np.clip(factor * image + (1 - factor) * target, 0, 1)


def turn_hue(image, shift):
    hsv = color.rgb2hsv(image)
    hsv[..., 0] = (hsv[..., 0] + shift) % 1
    return color.hsv2rgb(hsv)


def jitter_one(image, order, factors):
    for operation in order:
        f = factors[operation]
        if operation == BRIGHTNESS:
            image = blend(image, 0, f)
        elif operation == CONTRAST:
            image = blend(image, luma(image).mean(), f)
        elif operation == SATURATION:
            image = blend(image, luma(image)[..., None], f)
        elif operation == HUE:
            image = turn_hue(image, f)
    return image


def view_one(crop, draws, order):
    """The reference: one crop, not normalised, in float64."""
    image = crop / 255.0

    def jitter(image):
        return jitter_one(image, draws.order, draws.factors) if draws.jitter else image

    def gray(image):
        return np.repeat(luma(image)[..., None], 3, axis=-1) if draws.grayscale else image

    image = jitter(gray(image)) if order == "v1" else gray(jitter(image))
    if draws.sigma > 0:
        image = three_boxes(image, draws.sigma)
    return image[:, ::-1] if draws.flip else image


def draws_of_every_order(rng, n):
    """Draws for n samples, n a multiple of 24: every order with every mixture of the others."""
    factors = rng.uniform([0.6, 0.6, 0.6, -0.4], [1.4, 1.4, 1.4, 0.4], (n, 4))
    return ViewDraws(
        jitter=rng.random(n) < 0.8,
        order=np.resize(ORDERS, (n, 4)),
        factors=factors.astype(np.float32),
        grayscale=rng.random(n) < 0.3,
        sigma=np.where(rng.random(n) < 0.5, rng.uniform(0.1, 2, n), 0).astype(np.float32),
        flip=rng.random(n) < 0.5,
    )


def one_of(draws, i):
    return ViewDraws(*(field[i] for field in draws))


@pytest.mark.parametrize("order", ["v1", "v2"])
def test_view_is_the_plain_loop_with_the_same_draws(order, platform):
    n = 72
    crops = np.resize(photographs(40, 56), (n, 40, 56, 3))
    draws = draws_of_every_order(np.random.default_rng(3), n)
    recipe = ViewRecipe(order, (0.4, 0.4, 0.4, 0.4), 0.8, 0.3, 0.5, (0.1, 2.0), 0.5)
    made = jax.jit(lambda crops, draws: views.apply_view(crops, draws, recipe))
    got = views.denormalise(made(crops, jax.tree.map(jnp.asarray, draws)))
    want = np.stack([view_one(crops[i], one_of(draws, i), order) for i in range(n)])
    np.testing.assert_allclose(got, want, rtol=0, atol=3e-6)
    # the other recipe's sequence makes another picture wherever both operations take part
    other = "v1" if order == "v2" else "v2"
    both = np.flatnonzero(draws.jitter & draws.grayscale)
    assert len(both) > 5
    for i in both:
        assert np.abs(view_one(crops[i], one_of(draws, i), other) - want[i]).max() > 1e-3


def test_jitter_in_every_order_is_the_plain_loop(platform):
    n = len(ORDERS)
    crops = np.resize(photographs(40, 56), (n, 40, 56, 3))
    factors = draws_of_every_order(np.random.default_rng(4), n).factors
    got = np.asarray(
        on_images(photometric.color_jitter)(as_float(crops), ORDERS, jnp.asarray(factors))
    )
    want = np.stack(
        [jitter_one(c / 255.0, o, f) for c, o, f in zip(crops, ORDERS, factors, strict=True)]
    )
    np.testing.assert_allclose(got, want, rtol=0, atol=3e-6)


def test_jitter_in_every_order_is_pillows(platform):
    n = len(ORDERS)
    crops = np.resize(photographs(40, 56), (n, 40, 56, 3))
    rng = np.random.default_rng(5)
    factors = rng.uniform(0.6, 1.4, (n, 4)).astype(np.float32)
    factors[:, HUE] = rng.integers(-25, 26, n) / 255
    got = levels(on_images(photometric.color_jitter)(as_float(crops), ORDERS, jnp.asarray(factors)))
    enhance = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)

    def pillow(picture, i):
        for operation in ORDERS[i]:
            factor = factors[i, operation]
            if operation == HUE:
                picture = pillow_hue(picture, factor)
            else:
                picture = enhance[operation](picture).enhance(factor)
        return picture

    # Pillow's steps of hue, and half a level lost in each blend, stretched by those that follow
    difference = np.abs(got - by_pillow(pillow, crops, range(n)))
    assert difference.max() <= 10
    assert difference.mean(axis=(1, 2, 3)).max() <= 2.5


def test_jitter_that_rounds_down_is_pillows(platform):
    """Without hue, which Pillow has in 256 steps, nothing but ties is left."""
    n = len(ORDERS)
    crops = np.resize(photographs(40, 56), (n, 40, 56, 3))
    factors = draws_of_every_order(np.random.default_rng(6), n).factors
    factors[:, HUE] = 0
    jitter = partial(photometric.color_jitter, whole_levels=True)
    got = levels(on_images(jitter)(as_float(crops), ORDERS, jnp.asarray(factors)))
    enhance = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)

    def pillow(picture, i):
        for operation in ORDERS[i][ORDERS[i] != HUE]:
            picture = enhance[operation](picture).enhance(factors[i, operation])
        return picture

    difference = np.abs(got - by_pillow(pillow, crops, range(n)))
    assert difference.mean() < 1e-3 and difference.max() < 2.5


def test_draws_of_nothing_leave_the_image_bit_for_bit(platform):
    crops, _ = batch(8)
    nothing = ViewDraws(
        jitter=jnp.zeros(8, bool),
        order=jnp.asarray(ORDERS[::3]),
        factors=jnp.full((8, 4), 0.3),
        grayscale=jnp.zeros(8, bool),
        sigma=jnp.zeros(8),
        flip=jnp.zeros(8, bool),
    )
    want = jax.jit(views.normalise)(as_float(crops))
    for recipe in (V1, V2, replace(V2, round_down=True)):
        made = jax.jit(lambda crops, draws, recipe=recipe: views.apply_view(crops, draws, recipe))
        np.testing.assert_array_equal(made(crops, nothing), want)
    identity = jnp.tile(jnp.array([1.0, 1, 1, 0]), (8, 1))
    jittered = on_images(photometric.color_jitter)(as_float(crops), nothing.order, identity)
    np.testing.assert_array_equal(jittered, as_float(crops))


def test_probability_or_strength_zero_leaves_the_operation_out():
    crops, keys = batch(8)
    never = ViewRecipe("v2", (0.4, 0.4, 0.4, 0.1), 0, 0, 0, (0.1, 2.0), 0)
    want = jax.jit(lambda crops: views.normalise(crops.astype(jnp.float32) / 255))(crops)
    np.testing.assert_allclose(augment(crops, keys, never), want, rtol=0, atol=1e-6)
    # without a strength for hue the program differs, its result must not
    no_hue = replace(V2, jitter=(0.4, 0.4, 0.4, 0.0))
    draws = jax.vmap(lambda key: views.draw_view(key, no_hue))(keys)
    assert not draws.factors[:, HUE].any()
    with_shift_zero = apply_view(crops, draws, V2)
    np.testing.assert_allclose(apply_view(crops, draws, no_hue), with_shift_zero, rtol=0, atol=5e-6)


# What chance decides.

N = 10_000


@cache
def many_draws(recipe):
    keys = jax.random.split(jax.random.key(11), N)
    return jax.tree.map(np.asarray, jax.vmap(lambda key: views.draw_view(key, recipe))(keys))


# every probability another than the published ones, so that none can stand for another
MIXED = ViewRecipe("v2", (0.4, 0.3, 1.5, 0.1), 0.7, 0.25, 0.4, (0.5, 1.5), 0.6)


@pytest.mark.parametrize("recipe", [V1, V2, MIXED], ids=["v1", "v2", "mixed"])
def test_probabilities(recipe):
    draws = many_draws(recipe)
    happened = {
        recipe.jitter_probability: draws.jitter,
        recipe.grayscale_probability: draws.grayscale,
        recipe.blur_probability: draws.sigma > 0,
        recipe.flip_probability: draws.flip,
    }
    if recipe is MIXED:
        assert len(happened) == 4
    for probability, decisions in happened.items():
        assert stats.binomtest(int(decisions.sum()), N, probability).pvalue > P_VALUE


@pytest.mark.parametrize("recipe", [V1, V2, MIXED], ids=["v1", "v2", "mixed"])
def test_factors_shifts_and_sigmas_are_uniform(recipe):
    draws = many_draws(recipe)
    for operation, strength in enumerate(recipe.jitter):
        centre = 0 if operation == HUE else 1
        low = centre - strength if operation == HUE else max(0, centre - strength)
        high = centre + strength
        values = draws.factors[:, operation]
        assert low <= values.min() and values.max() <= high + 1e-6
        assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > P_VALUE
    sigmas = draws.sigma[draws.sigma > 0]
    if recipe.blur_probability:
        low, high = recipe.blur_sigma
        assert low <= sigmas.min() and sigmas.max() <= high
        assert stats.kstest(sigmas, stats.uniform(low, high - low).cdf).pvalue > P_VALUE


def test_orders_are_uniform_permutations():
    orders = many_draws(V2).order
    assert (np.sort(orders, axis=1) == np.arange(4)).all()
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > P_VALUE


def test_decisions_are_independent():
    draws = many_draws(MIXED)
    flags = [draws.jitter, draws.grayscale, draws.sigma > 0, draws.flip]
    flags += [draws.order[:, 0] == 0, draws.sigma > 1.0]
    flags += [f > np.median(f) for f in draws.factors.T]
    for i, j in combinations(range(len(flags)), 2):
        if (i, j) != (2, 5):  # both of the blur's sigma
            table = np.histogram2d(flags[i], flags[j], bins=2)[0]
            assert stats.chi2_contingency(table).pvalue > P_VALUE, (i, j)


def test_a_changed_probability_leaves_the_other_decisions_alone():
    changed = replace(V2, jitter_probability=0.1, grayscale_probability=0.9, blur_probability=0.9)
    one, other = many_draws(V2), many_draws(changed)
    for name in ("order", "factors", "flip"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    blurred = one.sigma > 0
    np.testing.assert_array_equal(one.sigma[blurred], other.sigma[blurred])


def test_draws_do_not_depend_on_x64(float64):
    keys = jax.random.split(jax.random.key(11), N)[:50]
    draws = jax.vmap(lambda key: views.draw_view(key, V2))(keys)
    for got, want in zip(draws, many_draws(V2), strict=True):
        np.testing.assert_array_equal(got, want[:50])
        assert got.dtype == want.dtype


# What a view depends on, and its type and range.


def test_a_view_depends_on_its_own_key_and_crop_alone():
    crops, keys = batch(16)
    whole = np.asarray(augment(crops, keys, V2))
    # same bits at another place, among other neighbours
    order = np.random.default_rng(0).permutation(16)
    np.testing.assert_array_equal(augment(crops[order], keys[order], V2), whole[order])
    others = crops.at[8:].set(255 - crops[8:])
    np.testing.assert_array_equal(augment(others, keys, V2)[:8], whole[:8])
    # a batch of another size is another program, whose roundings may differ
    part = augment(crops[3:8], keys[3:8], V2)
    np.testing.assert_allclose(part, whole[3:8], rtol=0, atol=5e-6)
    # another key is another view
    moved = np.asarray(augment(crops, jnp.roll(keys, 1), V2))
    assert (np.abs(moved - whole).max(axis=(1, 2, 3)) > 0.05).all()


def test_sharded_over_eight_devices_gives_the_same_views():
    crops, keys = batch(16)
    whole = augment(crops, keys, V2)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    parts = jax.device_put((crops, keys), NamedSharding(mesh, PartitionSpec("data")))
    program = augment.lower(*parts, V2, jnp.float32).compile()
    assert not [name for name in COLLECTIVES if name in program.as_text()]
    got = program(*parts)
    assert len(got.sharding.device_set) == 8
    np.testing.assert_allclose(got, whole, rtol=0, atol=5e-6)


def test_float64_differs_by_rounding_only(float64):
    crops, keys = batch(16)
    single, double = augment(crops, keys, V2), augment(crops, keys, V2, jnp.float64)
    assert single.dtype == jnp.float32 and double.dtype == jnp.float64
    np.testing.assert_allclose(single, double, rtol=0, atol=5e-6)
    assert np.abs(single - double).max() > 0


def test_bfloat16_is_the_rounded_float32():
    crops, keys = batch(16)
    half = augment(crops, keys, V2, jnp.bfloat16)
    assert half.dtype == jnp.bfloat16
    single = np.asarray(augment(crops, keys, V2))
    np.testing.assert_allclose(half.astype(jnp.float32), single, rtol=2**-8, atol=5e-6)


@pytest.mark.parametrize("recipe", [V1, V2, replace(V2, jitter=(2, 2, 2, 0.5))])
def test_values_stay_in_range(recipe):
    crops, keys = batch(16)
    crops = crops.at[0].set(0).at[1].set(255).at[2, ::2].set(0).at[2, 1::2].set(255)
    got = np.asarray(views.denormalise(augment(crops, keys, recipe)))
    assert np.isfinite(got).all()
    assert got.min() >= -1e-6 and got.max() <= 1 + 1e-6


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"order": "v3"}, r"'v3'.*'v1' or 'v2'"),
        ({"jitter_probability": 1.5}, r"jitter_probability is 1\.5.*between 0 and 1"),
        ({"grayscale_probability": -0.1}, r"grayscale_probability is -0\.1.*between 0 and 1"),
        ({"blur_probability": float("nan")}, r"blur_probability is nan.*between 0 and 1"),
        ({"flip_probability": 2}, r"flip_probability is 2.*between 0 and 1"),
        ({"jitter": (0.4, 0.4, 0.4)}, r"jitter is \(0\.4, 0\.4, 0\.4\).*four strengths"),
        ({"jitter": (0.4, -0.4, 0.4, 0.1)}, r"-0\.4.*none negative"),
        ({"jitter": (0.4, 0.4, float("nan"), 0.1)}, r"nan.*none negative"),
        ({"jitter": (0.4, 0.4, 0.4, 0.6)}, r"0\.6.*hue at most 0\.5"),
        ({"blur_sigma": (0.0, 2.0)}, r"blur_sigma is \(0\.0, 2\.0\).*0 < smallest"),
        ({"blur_sigma": (2.0, 0.1)}, r"blur_sigma is \(2\.0, 0\.1\).*blur_probability to 0"),
        ({"blur_sigma": (2.0,)}, r"blur_sigma is \(2\.0,\).*smallest, largest"),
    ],
)
def test_a_wrong_recipe_is_refused(change, expected):
    with pytest.raises(UsageError, match=expected):
        replace(V2, **change)


def test_published_recipes():
    assert ViewRecipe("v1", (0.4, 0.4, 0.4, 0.4), 1.0, 0.2, 0.0, (0.1, 2.0), 0.5) == V1
    assert ViewRecipe("v2", (0.4, 0.4, 0.4, 0.1), 0.8, 0.2, 0.5, (0.1, 2.0), 0.5) == V2
