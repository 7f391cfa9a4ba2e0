"""Batches for classifiers: one labelled view per image, every image counted exactly once.

Marked blanks pad the last batch of an epoch, so that no image is dropped or seen twice, whatever
the batch size and the number of devices and processes.
"""

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import grain
import numpy as np

from nsneg_jax.input.crops import resize_short, resized_crop, sample_crop
from nsneg_jax.input.decode import UnreadableImage
from nsneg_jax.input.loading import Batch, Loaders, Sample, Steps, load_batches
from nsneg_jax.input.pipeline import mixed_seed, place_generator
from nsneg_jax.input.sources.source import Source

FIELDS = ("image", "label", "valid")
_BLANK = -1


def steps_per_pass(num_images: int, batch_size: int) -> int:
    """Returns the number of batches that hold every image once, the last one padded."""
    return math.ceil(num_images / batch_size)


def training_batches(
    source: Source,
    steps: Steps,
    loaders: Loaders,
    *,
    image_size: int,
    crop_scale: tuple[float, float],
    seed: int,
) -> Iterator[Batch]:
    """Yields this process's part of a linear probe's training batches: random resized crops.

    Each epoch is a fresh permutation of all images in `steps_per_pass` steps. Like the original's
    loader it keeps the last partial batch (`drop_last` is off in main_lincls.py).

    Args:
        source: the images and labels.
        steps, loaders, image_size, crop_scale, seed: see `pretrain_batches`.

    Yields:
        {'image': uint8 [n, S, S, 3], 'label': int32 [n], 'valid': bool [n], 'index': int32 [n]}
        with n = batch_size / process_count; blanks are 0 in all of them.

    Raises:
        UsageError: the sizes do not fit together.
    """
    return load_batches(
        _ShuffledEpochs(len(source), steps.batch_size, seed),
        _Crop(source, image_size, crop_scale, seed),
        3 * image_size * image_size,
        steps,
        loaders,
    )


def evaluation_batches(
    source: Source,
    batch_size: int,
    loaders: Loaders,
    *,
    image_size: int,
    resize: int,
    skip_unreadable: bool = False,
) -> Iterator[Batch]:
    """Yields this process's part of one pass over the `central_view` of all images, in order.

    Args:
        source: the images and labels.
        batch_size: images per batch, over all processes.
        loaders, image_size: see `pretrain_batches`.
        resize: see `central_view`.
        skip_unreadable: whether to report an unreadable image on standard error and leave its
            place blank, instead of raising UnreadableImage.

    Yields:
        Batches like those of `training_batches`.

    Raises:
        UsageError: the sizes do not fit together.
    """
    order = _InOrder(len(source), batch_size)
    return load_batches(
        order,
        _Central(source, image_size, resize, skip_unreadable),
        3 * image_size * image_size,
        Steps(batch_size, 0, len(order)),
        loaders,
    )


def central_view(image: np.ndarray, size: int, resize: int) -> np.ndarray:
    """Makes the view that a classifier is tested on: torchvision's Resize and CenterCrop.

    Args:
        image: uint8 [H, W, 3].
        size: side of the result in pixels.
        resize: length of the shorter side in pixels after an antialiased resize; 0 does not
            resize. As in torchvision, black pads an image that is smaller than the crop.

    Returns:
        uint8 [size, size, 3]; do not write to it.
    """
    if resize:
        image = resize_short(image, resize, size)
    height, width = image.shape[:2]
    if height < size or width < size:
        missing = [max(size - side, 0) for side in (height, width)]
        around = [(lack // 2, (lack + 1) // 2) for lack in missing]
        image = np.pad(image, (*around, (0, 0)))
        height, width = image.shape[:2]
    top, left = round((height - size) / 2), round((width - size) / 2)
    return image[top : top + size, left : left + size]


def scaled_resize(resize: int, image_size: int) -> int:
    """Scales a `resize` given at 224 to views of `image_size` pixels, for `central_view`."""
    return round(resize * image_size / 224)


class _ShuffledEpochs:
    """Item [step] is int64 [batch_size], the images of a step with marked blanks."""

    def __init__(self, num_images: int, batch_size: int, seed: int) -> None:
        self._batch_size = batch_size
        shuffled = grain.MapDataset.range(num_images).shuffle(seed=mixed_seed(seed))
        self._order = shuffled.batch(batch_size, drop_remainder=False).repeat()

    def __getitem__(self, step: int) -> np.ndarray:
        return _filled(self._order[step], self._batch_size)


@dataclass(frozen=True)
class _InOrder:
    """Like `_ShuffledEpochs`, without a permutation."""

    num_images: int
    batch_size: int

    def __len__(self) -> int:
        return steps_per_pass(self.num_images, self.batch_size)

    def __getitem__(self, step: int) -> np.ndarray:
        first = step * self.batch_size
        return _filled(
            np.arange(first, min(first + self.batch_size, self.num_images)), self.batch_size
        )


def _filled(indices: np.ndarray, batch_size: int) -> np.ndarray:
    return np.pad(indices, (0, batch_size - len(indices)), constant_values=_BLANK)


@dataclass(frozen=True)
class _Crop:
    """Loads a sample for training."""

    source: Source
    image_size: int
    crop_scale: tuple[float, float]
    seed: int

    def __call__(self, index: int, place: int) -> Sample:
        if index == _BLANK:
            return _blank(self.image_size)
        image = self.source.image(index)
        rng = place_generator(self.seed, place)
        height, width = image.shape[:2]
        box = sample_crop(rng, height, width, self.crop_scale)
        return _sample(self.source, index, resized_crop(image, box, self.image_size))


@dataclass(frozen=True)
class _Central:
    """Loads a sample for evaluation."""

    source: Source
    image_size: int
    resize: int
    skip_unreadable: bool

    def __call__(self, index: int, place: int) -> Sample:
        if index == _BLANK:
            return _blank(self.image_size)
        try:
            image = self.source.image(index)
        except UnreadableImage as error:
            if not self.skip_unreadable:
                raise
            print(f"left out: {error}", file=sys.stderr, flush=True)
            return _blank(self.image_size)
        return _sample(self.source, index, central_view(image, self.image_size, self.resize))


def _sample(source: Source, index: int, view: np.ndarray) -> Sample:
    label = source.labels[index]
    return {"image": view, "label": label, "valid": np.True_, "index": np.int32(index)}


def _blank(size: int) -> Sample:
    return {
        "image": np.zeros((size, size, 3), np.uint8),
        "label": np.int32(0),
        "valid": np.False_,
        "index": np.int32(0),
    }
