"""Batches for classifiers: one labelled view per image, every image counted exactly once.

Marked blanks pad the last batch of an epoch, so that no image is dropped or seen twice, whatever
the batch size and the number of devices and processes.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import grain
import numpy as np

from nsneg_jax.input.loading import Batch, Loaders, Steps, load_batches, report
from nsneg_jax.input.pipeline import mixed_seed
from nsneg_jax.input.samples import BLANK, CentralViews, LabelledCrops, Unreadable
from nsneg_jax.input.sources.protocol import Source

FIELDS = ("image", "label", "valid")


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
    on_unreadable: Callable[[Unreadable], None] = report,
) -> Iterator[Batch]:
    """Yields this process's part of a linear probe's training batches: random resized crops.

    Each epoch is a fresh permutation of all images in `steps_per_pass` steps. Like the original's
    loader it keeps the last partial batch (`drop_last` is off in main_lincls.py).

    Args:
        source: the images and labels.
        steps, loaders, image_size, crop_scale, seed, on_unreadable: see `pretrain_batches`.

    Yields:
        {'image': uint8 [n, S, S, 3], 'label': int32 [n], 'valid': bool [n], 'index': int32 [n],
        'replaced': bool [n]} with n = batch_size / process_count; blanks are 0 in all of them.
        Label and index are those of the image that is used, if it replaces another one.

    Raises:
        UsageError: the sizes do not fit together.
    """
    return load_batches(
        _ShuffledEpochs(len(source), steps.batch_size, seed),
        LabelledCrops(source, image_size, crop_scale, seed),
        steps,
        loaders,
        on_unreadable,
    )


def evaluation_batches(
    source: Source,
    batch_size: int,
    loaders: Loaders,
    *,
    image_size: int,
    resize: int,
    on_unreadable: Callable[[Unreadable], None] = report,
) -> Iterator[Batch]:
    """Yields this process's part of one pass over the `central_view` of all images, in order.

    Args:
        source: the images and labels.
        batch_size: images per batch, over all processes.
        loaders, image_size: see `pretrain_batches`.
        resize: see `central_view`.
        on_unreadable: see `load_batches`; the place of an unreadable image is left blank.

    Yields:
        Batches like those of `training_batches`.

    Raises:
        UsageError: the sizes do not fit together.
    """
    order = _InOrder(len(source), batch_size)
    return load_batches(
        order,
        CentralViews(source, image_size, resize),
        Steps(batch_size, 0, len(order)),
        loaders,
        on_unreadable,
    )


def scaled_resize(resize: int, image_size: int) -> int:
    """Scales a `resize` given at 224 to views of `image_size` pixels, for `central_view`.

    So views show the same part of a picture at every size: with 256 the centre of 224/256 of its
    shorter side, with 224 all of it. 0 stays 0.
    """
    return round(resize * image_size / 224)


def view_text(resize: int, image_size: int) -> str:
    """Says what an evaluation does to a picture, e.g. 'shorter side to 128 px, central 112 px'.

    Args:
        resize, image_size: see `scaled_resize`.
    """
    short = scaled_resize(resize, image_size)
    if not short:
        return f"not resized, central {image_size} px"
    whole = " (whole if square)" if short == image_size else ""
    return f"shorter side to {short} px, central {image_size} px{whole}"


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
    return np.pad(indices, (0, batch_size - len(indices)), constant_values=BLANK)
