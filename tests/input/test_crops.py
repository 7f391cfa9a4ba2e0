"""Crop boxes against a plain writing of torchvision's rule; crops against Pillow."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from nsneg_jax.input import crops
from nsneg_jax.input.crops import resized_crop, sample_crop


def plain_crop(rng, height, width, scale, ratio):
    """torchvision.transforms.RandomResizedCrop.get_params, from its documentation."""
    for _ in range(10):
        target_area = height * width * rng.uniform(scale[0], scale[1])
        aspect = np.exp(rng.uniform(np.log(ratio[0]), np.log(ratio[1])))
        w = round(np.sqrt(target_area * aspect))
        h = round(np.sqrt(target_area / aspect))
        if 0 < w <= width and 0 < h <= height:
            i = rng.integers(0, height - h, endpoint=True)
            j = rng.integers(0, width - w, endpoint=True)
            return i, j, h, w
    in_ratio = width / height
    if in_ratio < min(ratio):
        w = width
        h = round(w / min(ratio))
    elif in_ratio > max(ratio):
        h = height
        w = round(h * max(ratio))
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


def photograph(height=375, width=500, seed=0):
    """Colour noise with the spectrum of photographs (amplitude 1/f), uint8."""
    rng = np.random.default_rng(seed)
    f = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    f[0, 0] = 1
    spectrum = np.fft.rfft2(rng.standard_normal((3, height, width))) / f
    spectrum[:, 0, 0] = 0
    image = np.fft.irfft2(spectrum, s=(height, width))
    image = 128 + 50 * image / max(image.std(), 1e-9)
    return np.clip(image, 0, 255).astype(np.uint8).transpose(1, 2, 0)


@pytest.mark.parametrize(
    "size", [(375, 500), (500, 375), (224, 224), (96, 1000), (1000, 96), (3, 2), (1, 1), (1, 50)]
)
@pytest.mark.parametrize("scale", [(0.2, 1.0), (0.08, 1.0), (1.0, 1.0)])
def test_same_draws_give_the_same_box(size, scale):
    ours, plain = np.random.default_rng(1), np.random.default_rng(1)
    for _ in range(100):
        box = sample_crop(ours, *size, scale)
        assert box == plain_crop(plain, *size, scale, (3 / 4, 4 / 3))
        top, left, h, w = box
        assert 0 <= top <= top + h <= size[0] and 0 <= left <= left + w <= size[1]
        assert h > 0 and w > 0 and all(type(n) is int for n in box)


def test_area_shape_and_corner_are_uniform():
    # with areas up to a half every draw fits, so that no rejection bends the distributions
    rng = np.random.default_rng(2)
    top, left, h, w = np.array(
        [sample_crop(rng, 1000, 1000, (0.2, 0.5)) for _ in range(4000)], float
    ).T
    bound = math.log(4 / 3)
    assert stats.kstest(h * w / 1e6, stats.uniform(0.2, 0.3).cdf).pvalue > 1e-3
    assert stats.kstest(np.log(w / h), stats.uniform(-bound, 2 * bound).cdf).pvalue > 1e-3
    assert stats.kstest(top / (1000 - h), stats.uniform().cdf).pvalue > 1e-3
    assert stats.kstest(left / (1000 - w), stats.uniform().cdf).pvalue > 1e-3


def test_corners_reach_both_ends():
    rng = np.random.default_rng(3)
    corners = {sample_crop(rng, 4, 4, (0.5, 0.6), (1, 1))[:2] for _ in range(300)}
    assert corners == {(0, 0), (0, 1), (1, 0), (1, 1)}  # 3 x 3 of 4 x 4


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((100, 1000), (0, 433, 100, 133)),
        ((1000, 100), (433, 0, 133, 100)),
        ((90, 100), (0, 0, 90, 100)),
    ],
)
def test_fallback_is_central_and_within_the_ratio(size, expected):
    # an area of more than the whole image never fits
    assert sample_crop(np.random.default_rng(0), *size, (1.5, 1.5)) == expected


@pytest.fixture(params=["installed", "pillow"])
def each_resizer(request, monkeypatch):
    if request.param == "pillow":
        monkeypatch.setattr(crops, "fast", None)
    elif crops.fast is None:
        pytest.skip("cykooz_resizer is not installed")


@pytest.mark.usefixtures("each_resizer")
@pytest.mark.parametrize("size", [32, 224])
@pytest.mark.parametrize(
    "box", [(0, 0, 375, 500), (10, 20, 350, 300), (100, 99, 224, 224), (50, 300, 100, 75)]
)
def test_crop_is_pillows_antialiased_bilinear(box, size):
    image = photograph()
    top, left, h, w = box
    out = resized_crop(image, box, size)
    assert out.shape == (size, size, 3) and out.dtype == np.uint8
    # of the whole picture, Pillow takes in pixels from outside the box at its rim
    reference = Image.fromarray(image).resize(
        (size, size), Image.Resampling.BILINEAR, box=(left, top, left + w, top + h)
    )
    assert np.abs(out.astype(float) - np.asarray(reference)).mean() < 0.75
    alone = Image.fromarray(np.ascontiguousarray(image[top : top + h, left : left + w]))
    alone = np.asarray(alone.resize((size, size), Image.Resampling.BILINEAR), float)
    assert np.abs(out - alone).max() <= 1
    assert abs((out - alone).mean()) < 0.02


@pytest.mark.usefixtures("each_resizer")
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (3, 2), (700, 2)])
def test_tiny_and_thin_crops(shape):
    image = photograph(*shape)
    out = resized_crop(image, (0, 0, *shape), 16)
    reference = Image.fromarray(image).resize((16, 16), Image.Resampling.BILINEAR)
    assert np.abs(out.astype(int) - np.asarray(reference)).max() <= 1


@pytest.mark.usefixtures("each_resizer")
def test_enlarging_keeps_corners_and_range():
    image = photograph(6, 5)
    out = resized_crop(image, (0, 0, 6, 5), 64)
    corners = np.ix_([0, -1], [0, -1])
    np.testing.assert_array_equal(out[corners], image[corners])
    assert out.min() >= image.min() and out.max() <= image.max()


@pytest.mark.usefixtures("each_resizer")
def test_no_aliasing():
    image = np.zeros((400, 400, 3), np.uint8)
    image[::2] = 200
    out = resized_crop(image, (0, 0, 400, 400), 50)
    assert np.abs(out[1:-1].astype(int) - 100).max() <= 1


@pytest.mark.usefixtures("each_resizer")
def test_threads_do_not_disturb_one_another():
    images = [photograph(50 + 7 * i, 90 - 5 * i, seed=i) for i in range(10)] * 10
    alone = [resized_crop(image, (0, 0, *image.shape[:2]), 48) for image in images]
    with ThreadPoolExecutor(8) as pool:
        together = pool.map(lambda image: resized_crop(image, (0, 0, *image.shape[:2]), 48), images)
        np.testing.assert_array_equal(list(together), alone)
