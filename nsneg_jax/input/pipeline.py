"""The crops of pre-training: two per image, in an order that needs no saved state.

The host decodes and crops; the device does the rest of a view (`methods.batches`).
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass

import grain
import numpy as np

from nsneg_jax.errors import UsageError
from nsneg_jax.input.loading import Batch, Loaders, Order, Steps, load_batches, report
from nsneg_jax.input.samples import ArrangedCrops, Samples, TwoCrops, Unreadable
from nsneg_jax.input.shuffle import ShuffleOrders
from nsneg_jax.input.sources.protocol import Source


def sample_order(num_images: int, batch_size: int, seed: int) -> grain.MapDataset:
    """Makes the global order of the data, endless and with random access.

    Each epoch is a fresh permutation cut into num_images // batch_size steps, as in the original
    (`drop_last=True`); it leaves out the remainder, which differs per epoch.

    Returns:
        A data set whose item [step] is int64 [batch_size], indices of images. Epoch e begins at
        step e * (num_images // batch_size).

    Raises:
        UsageError: the data set does not fill one batch, or the seed is negative.
    """
    if batch_size < 1:
        raise UsageError(f"batch_size is {batch_size}, but must be at least 1. Correct it.")
    if num_images < batch_size:
        raise UsageError(
            f"The data set has {num_images} images, fewer than one batch of {batch_size}. "
            "Lower batch_size, or use more images."
        )
    if seed < 0:
        raise UsageError(f"The seed is {seed}, but must not be negative. Choose 0 or more.")
    order = grain.MapDataset.range(num_images).shuffle(seed=mixed_seed(seed))
    return order.batch(batch_size, drop_remainder=True).repeat()


def pretrain_batches(
    source: Source,
    steps: Steps,
    loaders: Loaders,
    *,
    image_size: int,
    crop_scale: tuple[float, float],
    seed: int,
    textures: Source | None = None,
    shuffle: ShuffleOrders | None = None,
    on_unreadable: Callable[[Unreadable], None] = report,
) -> Generator[Batch, None, None]:
    """Loads this process's part of the batches of `steps`, two crops per image.

    An image is decoded once and cropped twice. Its crops depend only on the seed and its place in
    the run (step * batch_size + place in the global batch).

    Args:
        source: the images.
        steps: batches to load.
        loaders: threads and processes to load them with.
        image_size: side of the crops in pixels.
        crop_scale: smallest and largest area of both crops, see `sample_crop`.
        seed: seed of order and crops.
        textures: textures of the images, in their order; cropped by `sample_texture_crop` with the
            draws of the queries, or as the queries where they have the size of the image.
        shuffle: the orders of shuffling BN, if the crops are to be arranged by them.
        on_unreadable: see `load_batches`. Another image, which depends only on the seed and the
            place, replaces one that cannot be read; all other samples stay as they are.

    Yields:
        {'query', 'key': uint8 [n, image_size, image_size, 3], 'index': int64 [n], the order's
        images, 'replaced': bool [n]} and, with textures, 'texture' like 'query';
        n = batch_size / process_count. The caller may keep them.
        With `shuffle`, place i of the global batch holds the query of sample i, the key crop at
        place i of the key pass and, instead of 'texture', 'negatives' [n, M, ...]: the sources of
        the negatives at place i of their passes, queries first and the texture last. An image is
        then decoded once for each of its 2 + M places.

    Raises:
        UsageError: the sizes do not fit together. This is raised at once, not by the first step.
        Exception: any error of `source.image` other than UnreadableImage, unchanged.
    """
    order: Order = sample_order(len(source), steps.batch_size, seed)
    two = TwoCrops(source, textures, image_size, crop_scale, seed)
    samples: Samples = two
    if shuffle is not None:
        samples = ArrangedCrops(two, shuffle.passes)
        order = _Arranged(order, shuffle)
    return load_batches(order, samples, steps, loaders, on_unreadable)


def mixed_seed(seed: int) -> int:
    """Returns a seed for grain's shuffle.

    grain adds the epoch to the seed; without mixing, seed 1 would repeat seed 0 one epoch later.
    """
    return int(np.random.SeedSequence(seed).generate_state(1)[0])


@dataclass(frozen=True)
class _Arranged:
    """The order of the crops that the passes of shuffling BN use, see `ArrangedCrops`."""

    order: Order
    shuffle: ShuffleOrders

    def __getitem__(self, step: int) -> np.ndarray:
        indices, size = self.order[step], self.shuffle.batch_size
        # the sample at each place: of its query crop, then of each pass
        samples = np.vstack([np.arange(size), self.shuffle(step)])
        pairs = np.stack([indices[samples], step * size + samples], axis=-1)
        return pairs.swapaxes(0, 1).reshape(size, -1)
