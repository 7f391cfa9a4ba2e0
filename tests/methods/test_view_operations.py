"""Each operation of the views against Pillow, and against NumPy in floating point."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter
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

from nsneg_jax.methods import views
from nsneg_jax.methods.operations import colour, photometric
from nsneg_jax.methods.operations.colour import BRIGHTNESS, CONTRAST, SATURATION


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a - b) ** 2, axis=(1, 2, 3)))


def enhance(kind, whole_levels=False):
    """One of the three blends, of images and factors [N]."""

    def blend(x, factors):
        mean = colour.mean_luma(x, whole_levels)
        return colour.blend(x, jnp.full(len(factors), kind), factors, mean, whole_levels)

    return on_images(blend)


blur = lambda x, sigma: photometric.gaussian_blur(x, sigma, 2.0)  # noqa: E731


# One operation against Pillow. Pillow rounds down to whole grey levels, hence bounds in levels.


@pytest.mark.parametrize(
    ("kind", "pillow", "bound"),
    [
        (BRIGHTNESS, ImageEnhance.Brightness, 1.0),
        # the mean, and the luma a pixel is blended with, are whole levels in Pillow
        (CONTRAST, ImageEnhance.Contrast, 1.5),
        (SATURATION, ImageEnhance.Color, 1.5),
    ],
)
def test_enhancement_is_pillows(kind, pillow, bound):
    for factors in ([0.6, 0.85, 1.0, 1.4], [0.0, 0.4, 1.6, 2.0]):
        got = levels(enhance(kind)(as_float(photographs()), jnp.array(factors)))
        want = by_pillow(lambda p, f: pillow(p).enhance(f), photographs(), factors)
        assert np.abs(got - want).max() <= bound


@pytest.mark.parametrize(
    ("kind", "pillow"),
    [
        (BRIGHTNESS, ImageEnhance.Brightness),
        (CONTRAST, ImageEnhance.Contrast),
        (SATURATION, ImageEnhance.Color),
    ],
)
def test_enhancement_in_whole_levels_is_pillows_bias_included(kind, pillow):
    """Products that fall on a whole level may be rounded to either side of it."""
    rounded, exact = enhance(kind, whole_levels=True), enhance(kind)
    x = as_float(photographs())
    for factors in ([0.63, 0.87, 1.0, 1.39], [0.0, 0.41, 1.57, 1.93]):
        got = levels(rounded(x, jnp.array(factors)))
        want = by_pillow(lambda p, f: pillow(p).enhance(f), photographs(), factors)
        difference = np.abs(np.rint(got) - want)
        np.testing.assert_allclose(got, np.rint(got), atol=1e-4)
        assert difference.max() <= 1 and difference.mean() < 2e-3
    want = by_pillow(lambda p, f: pillow(p).enhance(f), photographs(), [0.63] * 4)
    assert -0.6 < (want - levels(exact(x, jnp.full(4, 0.63)))).mean() < -0.3
    np.testing.assert_array_equal(rounded(x, jnp.ones(4)), x)


def test_enhancement_at_factor_zero():
    x, zero = as_float(photographs()), jnp.zeros(4)
    gray = on_images(colour.grayscale)(x)
    assert not enhance(BRIGHTNESS)(x, zero).any()
    np.testing.assert_allclose(enhance(SATURATION)(x, zero), gray, atol=1e-7)
    flat = np.asarray(enhance(CONTRAST)(x, zero))
    assert np.ptp(flat, axis=(1, 2, 3)).max() == 0
    means = levels(gray).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(levels(flat)[:, 0, 0, 0], means, atol=1e-3)


def test_grayscale_is_pillows():
    got = levels(on_images(colour.grayscale)(as_float(photographs())))
    want = by_pillow(lambda p, _: p.convert("L").convert("RGB"), photographs(), range(4))
    assert np.abs(got - want).max() <= 0.51


def test_hue_is_pillows():
    # Pillow's HSV has 8 bits: a step of hue is six levels of a saturated colour.
    for turns in (np.array([25, -25, 51, 102]) / 255, np.array([-102, 127, 10, -10]) / 255):
        shifts = jnp.asarray(turns, jnp.float32)
        got = levels(on_images(colour.turn_hue)(as_float(photographs()), shifts))
        want = by_pillow(pillow_hue, photographs(), turns)
        assert np.abs(got - want).max() <= 6
        assert np.abs(got - want).mean() <= 0.5


def test_hue_in_floating_point_at_every_corner_and_tie():
    steps = np.linspace(0, 1, 6)
    colours = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, 6, 36, 3)
    turn = on_images(colour.turn_hue)
    for shift in (-0.5, -1 / 3, -0.1, 0.0, 0.05, 0.25, 1 / 3, 0.5, 1.0):
        got = turn(jnp.asarray(colours, jnp.float32), jnp.array([shift], jnp.float32))
        hsv = color.rgb2hsv(colours)
        hsv[..., 0] = (hsv[..., 0] + shift) % 1
        np.testing.assert_allclose(got, color.hsv2rgb(hsv), atol=2e-6)
    red, green = jnp.array([[[[1.0, 0, 0]]]]), jnp.array([[[[0.0, 1, 0]]]])
    np.testing.assert_allclose(turn(red, jnp.array([1 / 3])), green, atol=1e-6)


def test_blur_is_pillows(platform):
    for sigmas in ([0.1, 0.3, 0.5, 0.7], [0.9, 1.1, 1.3, 1.5], [1.7, 1.8, 1.9, 2.0]):
        # every sigma meets every photograph
        for turned in range(4):
            values = np.roll(sigmas, turned)
            got = levels(on_images(blur)(as_float(photographs()), jnp.float32(values)))
            want = by_pillow(
                lambda p, s: p.filter(ImageFilter.GaussianBlur(float(s))), photographs(), values
            )
            assert psnr(got, want).min() > 48
            # Pillow rounds six times: at most half a level each, and edges are no exception
            assert np.abs(got - want).max() <= 3


def test_three_rounded_boxes_are_pillows_blur():
    """So nothing but the rounding keeps ours from Pillow's."""
    # not 0.5, 1 or 2, whose weights make ties of halves, which Pillow rounds down
    for sigma in (0.11, 0.23, 0.35, 0.53, 1.1, 1.6, 1.97):
        for picture in photographs():
            ours = three_boxes(picture.astype(float), sigma, rounded=True)
            pillow = Image.fromarray(picture).filter(ImageFilter.GaussianBlur(sigma))
            difference = np.abs(ours - np.asarray(pillow))
            assert difference.max() <= 1 and difference.mean() < 0.01


@pytest.mark.parametrize("largest", [0.4, 2.0, 5.0])
def test_blur_is_three_boxes_with_edges_repeated_before_each(platform, largest):
    sigmas = largest * np.array([0.05, 0.4, 0.75, 1.0])
    x = as_float(photographs(30, 8))  # more and fewer pixels than a filter has taps
    made = on_images(partial(photometric.gaussian_blur, largest=largest))
    got = made(x, jnp.float32(sigmas))
    for image, sigma, result in zip(np.asarray(x, np.float64), sigmas, got, strict=True):
        np.testing.assert_allclose(result, three_boxes(image, sigma), atol=2e-6)
    np.testing.assert_array_equal(made(x, jnp.zeros(4)), x)


def test_a_blur_has_the_standard_deviation_that_was_asked_for():
    sigmas = np.array([0.05, 0.2, 0.3, 0.5, 1.0, 1.5, 2.0, 7.0])
    boxes = photometric.extended_box(jnp.float32(sigmas), 7.0)
    taps = np.asarray(jax.jit(photometric.blur_taps, static_argnums=1)(boxes, 101)[:, 50])
    distance = np.arange(taps.shape[1]) - taps.shape[1] // 2
    np.testing.assert_allclose(taps.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(np.sqrt(taps @ distance**2), sigmas, rtol=1e-5)


def test_flip_mirrors_columns_where_asked():
    images = np.arange(2 * 3 * 4 * 3).reshape(2, 3, 4, 3)
    got = views.flip(jnp.asarray(images), jnp.array([True, False]))
    np.testing.assert_array_equal(got[0], images[0, :, ::-1])
    np.testing.assert_array_equal(got[1], images[1])


def test_normalise_and_back():
    x = as_float(photographs())
    got = views.normalise(x)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(got, (np.asarray(x, np.float64) - mean) / std, atol=1e-6)
    np.testing.assert_allclose(views.denormalise(got), x, atol=3e-7)
