"""The crops of pre-training: two per image, in an order that needs no saved state.

The host decodes and crops; the device does the rest of a view (`methods.batches`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import grain
import numpy as np

from nsneg_jax.errors import UsageError
from nsneg_jax.input.crops import resized_crop, sample_crop, sample_texture_crop
from nsneg_jax.input.loading import (
    Batch,
    Loaders,
    Order,
    Sample,
    Steps,
    images_of,
    load_batches,
    once,
)
from nsneg_jax.input.shuffle import ShuffleOrders
from nsneg_jax.input.sources.source import Source


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
) -> Iterator[Batch]:
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

    Yields:
        {'query', 'key': uint8 [n, image_size, image_size, 3], 'index': int64 [n]} and, with
        textures, 'texture' like 'query'; n = batch_size / process_count. The caller may keep them.
        With `shuffle`, place i of the global batch holds the query of sample i, the key crop at
        place i of the key pass and, instead of 'texture', 'negatives' [n, M, ...]: the sources of
        the negatives at place i of their passes, queries first and the texture last. An image is
        then decoded once for each of its 2 + M places.

    Raises:
        UsageError: the sizes do not fit together. This is raised at once, not by the first step.
        Exception: any error of `source.image`, such as UnreadableImage, unchanged.
    """
    order = sample_order(len(source), steps.batch_size, seed)
    two = _TwoCrops(source, textures, image_size, crop_scale, seed)
    load: Callable[[int, int], Sample] = two
    crops = 2 if textures is None else 3
    if shuffle is not None:
        load, crops = _ShuffledCrops(two, order, shuffle), 1 + shuffle.passes
    return load_batches(order, load, crops * image_size * image_size * 3, steps, loaders)


def mixed_seed(seed: int) -> int:
    """Returns a seed for grain's shuffle.

    grain adds the epoch to the seed; without mixing, seed 1 would repeat seed 0 one epoch later.
    """
    return int(np.random.SeedSequence(seed).generate_state(1)[0])


def place_generator(seed: int, place: int) -> np.random.Generator:
    """Makes the generator of a sample's draws on the host, from its place in the run."""
    # Philox is cheap to make and gives independent streams per key.
    return np.random.Generator(np.random.Philox(key=np.array([seed, place], np.uint64)))


@dataclass(frozen=True)
class _TwoCrops:
    """Loads a sample of pre-training."""

    source: Source
    textures: Source | None
    image_size: int
    crop_scale: tuple[float, float]
    seed: int

    def __call__(self, index: int, place: int) -> Sample:
        names = ("query", "key") if self.textures is None else ("query", "key", "texture")
        return self.crops(index, place, names) | {"index": np.int64(index)}

    def crops(self, index: int, place: int, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Makes the named crops, of 'query', 'key' and 'texture'."""
        image = self.source.image(index)
        rng = place_generator(self.seed, place)
        height, width = image.shape[:2]
        boxes = [sample_crop(rng, height, width, self.crop_scale) for _ in range(2)]
        sample = {
            name: resized_crop(image, box, self.image_size)
            for name, box in zip(("query", "key"), boxes, strict=True)
            if name in names
        }
        if self.textures is not None and "texture" in names:
            texture = self.textures.image(index)
            box = boxes[0]
            if texture.shape != image.shape:
                height, width = texture.shape[:2]
                rng = place_generator(self.seed, place)
                box = sample_texture_crop(rng, height, width, self.crop_scale)
            sample["texture"] = resized_crop(texture, box, self.image_size)
        return sample


@dataclass(frozen=True)
class _ShuffledCrops:
    """Loads the crops that the passes of shuffling BN use at one place of the global batch."""

    load: _TwoCrops
    order: Order
    shuffle: ShuffleOrders

    def __call__(self, index: int, place: int) -> Sample:
        step, at = divmod(place, self.shuffle.batch_size)
        indices, passes = images_of(self.order, step), _passes_of(self.shuffle, step)

        def crop(sample: int, name: str) -> np.ndarray:
            first = step * self.shuffle.batch_size
            return self.load.crops(int(indices[sample]), first + int(sample), (name,))[name]

        key, *negatives = passes[:, at]
        kinds = ["query"] * len(negatives)
        if self.load.textures is not None:
            kinds[-1] = "texture"
        loaded: dict[str, np.ndarray | np.generic] = {
            "query": crop(at, "query"),
            "key": crop(key, "key"),
            "index": np.int64(index),
        }
        if negatives:
            crops = [crop(sample, kind) for sample, kind in zip(negatives, kinds, strict=True)]
            loaded["negatives"] = np.stack(crops)
        return loaded


@once
def _passes_of(shuffle: ShuffleOrders, step: int) -> np.ndarray:
    return shuffle(step)
