"""Negatives that keep a part of an image's features, against NumPy and SciPy; mixtures of them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from scipy.ndimage import gaussian_filter1d
from skimage import data
from tiny import PLAIN, tiny_config

from configs import moco, patch
from nsneg_jax.errors import UsageError
from nsneg_jax.jobs import build
from nsneg_jax.jobs.pretraining.validation import validate_pretraining
from nsneg_jax.methods import shuffling
from nsneg_jax.methods.negatives import (
    NEGATIVES,
    AmplitudeOnly,
    ColourHistogram,
    HighFrequency,
    LowFrequency,
    Part,
    PhaseOnly,
    Settings,
    parse,
    register,
)
from nsneg_jax.methods.views import normalise

pytestmark = pytest.mark.usefixtures("quick_code")

COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute")
OTHERS = [name for name in NEGATIVES if name not in ("patch", "texture")]


def pictures(side, n=3, dtype=np.float64):
    """Crops of a photograph, normalised like views."""
    whole = data.astronaut()
    crops = [whole[40 * i : 40 * i + side, 90 + 30 * i : 90 + 30 * i + side] for i in range(n)]
    return np.asarray(normalise(jnp.asarray(np.stack(crops), dtype) / 255))


def keys(n=3):
    return jax.random.split(jax.random.key(1), n)


def blurred(x, sigma):
    for axis in (1, 2):
        x = gaussian_filter1d(x, sigma, axis=axis, mode="reflect")
    return x


@pytest.mark.parametrize("sigma", [0.4, 3.0, 40.0])  # the last is wider than the pictures
def test_low_and_high_frequencies_are_scipys(float64, sigma):
    x = pictures(24)
    expected = blurred(x, sigma)
    np.testing.assert_allclose(LowFrequency(sigma)(x, keys()), expected, rtol=0, atol=1e-9)
    mean = x.mean(axis=(1, 2), keepdims=True)
    high = HighFrequency(sigma)(x, keys())
    np.testing.assert_allclose(high, x - expected + mean, rtol=0, atol=1e-9)


@pytest.mark.parametrize("side", [24, pytest.param(31, marks=pytest.mark.slow)])
def test_amplitudes_stay_and_phases_are_those_of_noise(float64, side):
    x = pictures(side)
    found = np.asarray(AmplitudeOnly()(x, keys()))
    draw = jax.vmap(lambda key: jax.random.normal(key, (side, side), jnp.float32))
    noise = np.fft.fft2(np.asarray(draw(keys()), np.float64))
    turn = noise / abs(noise)
    turn[:, 0, 0] = 1
    before = np.fft.fft2(x, axes=(1, 2))
    expected = np.fft.ifft2(before * turn[..., None], axes=(1, 2))
    assert abs(expected.imag).max() < 1e-12
    np.testing.assert_allclose(found, expected.real, rtol=0, atol=1e-9)
    np.testing.assert_allclose(abs(np.fft.fft2(found, axes=(1, 2))), abs(before), atol=1e-8)
    assert (abs(found - x).max(axis=(1, 2, 3)) > 0.2).all()


@pytest.mark.parametrize("side", [31, pytest.param(24, marks=pytest.mark.slow)])
def test_phases_stay_and_amplitudes_are_equal(float64, side):
    x = pictures(side)
    found = np.asarray(PhaseOnly()(x, keys()))
    spectrum = np.fft.fft2(x - x.mean(axis=(1, 2), keepdims=True), axes=(1, 2))
    spectrum[:, 0, 0] = 1
    white = spectrum / abs(spectrum)
    white[:, 0, 0] = 0
    white = np.fft.ifft2(white, axes=(1, 2)).real
    scale = x.std(axis=(1, 2), keepdims=True) / white.std(axis=(1, 2), keepdims=True)
    expected = x.mean(axis=(1, 2), keepdims=True) + scale * white
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_a_flat_picture_stays_flat(float64):
    flat = np.full((3, 24, 24, 3), 0.7)
    for negative in (AmplitudeOnly(), PhaseOnly(), LowFrequency(2.0), HighFrequency(2.0)):
        np.testing.assert_allclose(negative(flat, keys()), flat, rtol=0, atol=1e-9)


def test_a_colour_histogram_has_every_pixel_once():
    x = pictures(24, dtype=np.float32)
    found = np.asarray(ColourHistogram()(x, keys()))
    for before, after in zip(x.reshape(3, -1, 3), found.reshape(3, -1, 3), strict=True):
        assert (before != after).any(axis=1).mean() > 0.9
        np.testing.assert_array_equal(np.sort(before.view("f4,f4,f4"), axis=0),
                                      np.sort(np.copy(after).view("f4,f4,f4"), axis=0))  # fmt: skip
    places = ColourHistogram()(np.arange(16.0).reshape(1, 4, 4, 1).repeat(4000, 0), keys(4000))
    counts = np.bincount(np.asarray(places)[:, 0, 0, 0].astype(int), minlength=16)
    assert counts.min() > 180 and counts.max() < 330  # 250 expected, deviation 15


@pytest.mark.parametrize(
    "name",
    [
        name if name == "colour_histogram" else pytest.param(name, marks=pytest.mark.slow)
        for name in OTHERS
    ],
)
def test_any_split_and_any_dtype(name):
    negative = NEGATIVES[name](Settings(24, (2, 8), "crops", 1.1, 0.4))
    x, own = pictures(24, 8, np.float32), keys(8)
    make = jax.jit(negative)
    whole = make(x, own)
    assert whole.dtype == np.float32 and whole.shape == x.shape
    np.testing.assert_allclose(make(x[2:4], own[2:4]), whole[2:4], rtol=0, atol=1e-5)
    coarse = jax.eval_shape(negative, jax.ShapeDtypeStruct(x.shape, "bfloat16"), own)
    assert coarse.dtype == "bfloat16"

    devices = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = NamedSharding(devices, PartitionSpec("data"))
    parts = jax.device_put((x, own), split)
    program = jax.jit(negative, out_shardings=split).lower(*parts).compile()
    assert not [collective for collective in COLLECTIVES if collective in program.as_text()]
    np.testing.assert_allclose(program(*parts), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_lowers_for_accelerators(name, platform):
    negative = NEGATIVES[name](Settings(32, (2, 8), "crops", 1.4, 0.4))
    traced = jax.jit(negative).trace(jnp.zeros((2, 32, 32, 3)), keys(2))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert "gather" not in text and "fft" not in text


# Mixtures.


def test_a_mixture_is_read():
    assert parse("") == ()
    assert parse("patch:2, low_frequency@0.5,colour_histogram:3@1e-1") == (
        Part("patch", 2, None), Part("low_frequency", 1, 0.5), Part("colour_histogram", 3, 0.1),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("low_frequency@1,", "''"),
        ("low_frequncy@1", "'low_frequncy'"),
        ("patch:0", "0"),
        ("patch:65", "65"),
        ("patch@0", "'0'"),
        ("patch@e", "'e'"),
        ("patch@1e9", "'1e9'"),
        ("low frequency", "'low frequency'"),
    ],
)
def test_a_wrong_mixture_is_refused(text, named):
    with pytest.raises(UsageError, match=named):
        parse(text)
    config = tiny_config(**{"negatives.more": text})
    with pytest.raises(UsageError, match=named):
        validate_pretraining(config, 1)


def test_a_mixture_in_a_config():
    more = "texture@3,low_frequency:2@0.5,patch,amplitude_only@1"
    config = tiny_config(**{"negatives.more": more, "negatives.texture_source": "made"})
    validate_pretraining(config, 1)
    method, _ = build.build(config, 5)
    assert method.views.names == (
        *("patch", "low_frequency", "low_frequency 2", "patch 2", "amplitude_only", "texture"),
    )
    assert method.loss.alphas == (2, 0.5, 0.5, 2, 1, 3)
    assert method.views.reads_texture and method.key_passes == 7
    assert method.views.negatives[1].sigma == pytest.approx(10 * 16 / 224)

    config.negatives.more = "texture:2"
    with pytest.raises(UsageError, match="at most one that reads the texture"):
        validate_pretraining(config, 1)
    config = tiny_config(moco, **{"negatives.more": "low_frequency"})
    with pytest.raises(UsageError, match=r"negatives\.more.*'low_frequency:1@1'"):
        validate_pretraining(config, 1)
    config.negatives.more = "low_frequency@1"
    validate_pretraining(config, 1)


def test_names_that_cannot_stand_in_a_mixture_are_refused():
    for name in ("low_frequency", "a b", "a@b", ""):
        with pytest.raises(ValueError, match=repr(name)):
            register(name, lambda settings: PhaseOnly())


@pytest.mark.slow
def test_earlier_negatives_keep_their_draws_beside_others(float64):
    crops = np.random.default_rng(0).integers(0, 256, (2, 4, 16, 16, 3), np.uint8)
    batch = {"query": crops[0], "key": crops[1]}
    views = [
        build.build_views(tiny_config(patch, **PLAIN, **{"negatives.more": more}))
        for more in ("", "colour_histogram@1")
    ]
    one, both = (jax.jit(partial(each, jnp.int32(2)))(batch) for each in views)
    np.testing.assert_array_equal(one.negatives[:, 0], both.negatives[:, 0])
    assert both.negatives.shape[1] == 2


@pytest.mark.slow
def test_devices_make_the_same_negatives(float64):
    """In the orders of shuffling BN, from exchanged crops, against one device."""
    names = ",".join(f"{name}@1" for name in OTHERS)
    values = {"negatives.more": names, "model.dtype": "float64", "views.jitter_probability": 0.0}
    views = build.build_views(tiny_config(**values))
    crops = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 16, 3), np.uint8)
    batch = {"query": crops[0], "key": crops[1]}
    plain = jax.jit(views)(jnp.int32(3), batch)
    devices = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = NamedSharding(devices, PartitionSpec("data"))

    def arranged(batch):
        with jax.sharding.use_abstract_mesh(devices.abstract_mesh):
            orders = views.draw_orders(jnp.int32(3), 16)
            batch = shuffling.arrange(batch, orders, views.reads_texture)
            return views(jnp.int32(3), batch, orders), orders

    shuffled, orders = jax.jit(arranged)(jax.device_put(batch, split))
    for m in range(views.num_negatives):
        expected = np.asarray(plain.negatives)[np.asarray(orders)[1 + m], m]
        np.testing.assert_allclose(shuffled.negatives[:, m], expected, rtol=0, atol=1e-9)
