"""Every image once, the same view wherever it is loaded, and torchvision's central view."""

import itertools
import time
import tracemalloc

import numpy as np
import pytest
from loading_settings import grouped
from PIL import Image

from nsneg_jax.errors import UsageError
from nsneg_jax.input import crops
from nsneg_jax.input.crops import central_view, sample_crop
from nsneg_jax.input.labelled import (
    evaluation_batches,
    steps_per_pass,
    training_batches,
)
from nsneg_jax.input.shapes.source import Shapes

IMAGES, BATCH, SIZE = 27, 8, 16
STEPS = 4


@pytest.fixture(scope="module")
def source():
    return Shapes("val", image_size=20, size=IMAGES)


def training(source, **changes):
    settings = {
        "batch_size": BATCH,
        "image_size": SIZE,
        "crop_scale": (0.08, 1.0),
        "seed": 5,
        "start_step": 0,
        "total_steps": 3 * STEPS,
        "threads": 2,
        "workers": 0,
    }
    steps, loaders, rest = grouped({**settings, **changes})
    return list(training_batches(source, steps, loaders, **rest))


def evaluation(source, **changes):
    settings = {
        "batch_size": BATCH,
        "image_size": SIZE,
        "resize": 18,
        "threads": 2,
        "workers": 0,
    }
    steps, loaders, rest = grouped({**settings, **changes})
    return list(evaluation_batches(source, steps.batch_size, loaders, **rest))


def assert_same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        for name in ("image", "label", "valid"):
            np.testing.assert_array_equal(a[name], b[name])


def joined(parts):
    """Batches of several processes as one process has them."""
    return [
        {name: np.concatenate([part[name] for part in step]) for name in step[0]}
        for step in zip(*parts, strict=True)
    ]


def test_a_pass_sees_every_image_once_in_order(source):
    batches = evaluation(source)
    assert len(batches) == steps_per_pass(IMAGES, BATCH) == STEPS
    assert [len(batch["label"]) for batch in batches] == [BATCH] * STEPS
    whole = {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}
    assert whole["valid"].sum() == IMAGES and whole["valid"][:IMAGES].all()
    np.testing.assert_array_equal(whole["label"][:IMAGES], source.labels)
    for i in range(IMAGES):
        np.testing.assert_array_equal(whole["image"][i], central_view(source.image(i), SIZE, 18))
    assert not whole["image"][IMAGES:].any() and not whole["label"][IMAGES:].any()


def test_an_epoch_trains_on_every_image_once(source):
    # labels tell little, so images that carry their number
    class Numbered:
        name, classes, labels = "numbered", ("a",), np.arange(IMAGES, dtype=np.int32)

        def __len__(self):
            return IMAGES

        def image(self, index):
            return np.full((9, 9, 3), index, np.uint8)

    batches = training(Numbered())
    epochs = [batches[i : i + STEPS] for i in range(0, len(batches), STEPS)]
    orders = []
    for epoch in epochs:
        valid = np.concatenate([batch["valid"] for batch in epoch])
        labels = np.concatenate([batch["label"] for batch in epoch])[valid]
        pixels = np.concatenate([batch["image"] for batch in epoch])[valid]
        assert sorted(labels) == list(range(IMAGES))
        np.testing.assert_array_equal(pixels[:, 3, 3, 0], labels)
        orders.append(labels.tolist())
    assert orders[0] != orders[1] != orders[2]


@pytest.mark.parametrize("load", [training, evaluation])
def test_processes_share_the_batches_of_one(source, load):
    whole = load(source)
    for count in (2, 4):
        parts = [load(source, process_index=p, process_count=count) for p in range(count)]
        assert_same(joined(parts), whole)


def test_training_goes_on_anywhere(source):
    whole = training(source)
    assert_same(training(source, start_step=5, threads=1), whole[5:])
    assert not np.array_equal(training(source, seed=6)[0]["image"], whole[0]["image"])


def test_worker_processes_load_the_same(source):
    assert_same(evaluation(source, workers=2), evaluation(source))


@pytest.mark.parametrize("shape", [(375, 500), (500, 333), (224, 224), (300, 257)])
def test_central_view_is_torchvisions(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    view = central_view(image, 224, 256)
    short = min(shape)
    # torchvision.transforms.functional: _compute_resized_output_size and center_crop
    height, width = (int(256 * side / short) for side in shape)
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    top, left = round((height - 224) / 2.0), round((width - 224) / 2.0)
    reference = np.asarray(resized.crop((left, top, left + 224, top + 224)), float)
    # noise is rounded either way
    assert np.abs(view - reference).mean() < 0.5 and np.abs(view - reference).max() <= 2


SIDES = [1, 3, 17, 224, 255, 256, 375]


@pytest.mark.parametrize(("size", "resize"), [(16, 18), (224, 256), (40, 20)])
def test_ordinary_pictures_are_resized_whole_and_then_cut(size, resize):
    rng = np.random.default_rng(0)
    for height, width in itertools.product(SIDES, SIDES):
        short = min(height, width)
        tall, wide = resize * height // short, resize * width // short
        if tall * wide > 2**24:
            continue
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        whole = crops.resize(image, tall, wide)
        np.testing.assert_array_equal(
            central_view(image, size, resize), central_view(whole, size, 0)
        )


@pytest.mark.parametrize(("size", "resize"), [(16, 18), (224, 256), (40, 20)])
def test_the_middle_alone_equals_the_middle_of_the_whole(size, resize, monkeypatch):
    """As for long thin pictures, where the whole would not fit into memory."""
    monkeypatch.setattr(crops, "_MOST_WHOLE", 0)
    rng = np.random.default_rng(0)
    for height, width in [*itertools.product(SIDES, SIDES[2:]), (1, 300), (400, 2)]:
        short = min(height, width)
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        # torchvision.transforms.Resize and CenterCrop, by Pillow
        whole = Image.fromarray(image).resize(
            (resize * width // short, resize * height // short), Image.Resampling.BILINEAR
        )
        expected = central_view(np.asarray(whole), size, 0).astype(int)
        difference = np.abs(central_view(image, size, resize) - expected)
        # noise is rounded either way, often half of it when it is enlarged evenly
        assert difference.max() <= 2 and difference.mean() < 0.3


@pytest.mark.parametrize("shape", [(1, 60_000), (60_000, 1), (2, 2_000_000), (3_000_000, 1)])
def test_long_thin_pictures_cost_no_more_than_others(shape):
    image = np.broadcast_to(np.array([[[10, 200, 30]]], np.uint8), (*shape, 3)).copy()
    middle = [slice(side // 2 - 1, side // 2 + 1) if side > 9 else slice(None) for side in shape]
    image[tuple(middle)] = 99
    begin = time.perf_counter()
    tracemalloc.start()
    view = central_view(image, 224, 256)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    assert view.shape == (224, 224, 3) and (view[112, 112] == 99).all()
    for seed in range(20):
        box = sample_crop(np.random.default_rng(seed), *shape, (0.08, 1.0))
        assert max(box[2:]) <= 3 * min(shape)
        assert crops.resized_crop(image, box, 224).shape == (224, 224, 3)
    assert time.perf_counter() - begin < 1


def test_a_huge_resize_makes_the_middle_only():
    view = central_view(np.full((30, 40, 3), 7, np.uint8), 224, 10**6)
    assert view.shape == (224, 224, 3) and (view == 7).all()


def test_without_resizing_small_images_get_a_black_border():
    image = np.full((4, 7, 3), 9, np.uint8)
    view = central_view(image, 6, 0)
    assert view.shape == (6, 6, 3) and (view[1:5] == 9).all() and not view[[0, 5]].any()


def test_impossible_sharing_is_named(source):
    with pytest.raises(UsageError, match="shared evenly by 3 processes"):
        evaluation(source, process_count=3)
