"""Makes the samples of a batch: reads an image, cuts its views, and writes them into the batch.

Worker processes import this module, so it imports neither JAX nor grain.

An unreadable image is replaced in training, by another image that depends only on the seed and the
place, so that all other samples and the order stay as they are. Passes that count every image once
leave it out instead.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from nsneg_jax.errors import UsageError
from nsneg_jax.input.crops import (
    central_view,
    resized_crop,
    sample_crop,
    sample_texture_crop,
)
from nsneg_jax.input.decode import UnreadableImage
from nsneg_jax.input.draws import PlaceGenerator
from nsneg_jax.input.sources.protocol import Source

BLANK = -1  # the index of a place without an image
# An image is read anew this often, each time another one, before the run is given up.
_SUBSTITUTES = 100

Words = Sequence[int]
Fields = Mapping[str, tuple[tuple[int, ...], type[np.generic]]]


@dataclass(frozen=True)
class Unreadable:
    """An image that could not be read.

    Attributes:
        index: its index in the data set.
        path: its file.
        reason: what is wrong with it.
    """

    index: int
    path: str
    reason: str


class Samples(Protocol):
    """Makes samples; threads call it at the same time, and worker processes get a copy.

    Attributes:
        fields: shape and type of each entry of a sample, without the batch's axis.
        seed: seed of the samples' draws; None if they draw nothing from `words`.
    """

    @property
    def fields(self) -> Fields: ...

    @property
    def seed(self) -> int | None: ...

    def __call__(
        self, wanted: np.ndarray, place: int, words: Words, out: Mapping[str, np.ndarray]
    ) -> Sequence[Unreadable]:
        """Writes a sample into a batch.

        Args:
            wanted: int64, what the order gives for this place: an image's index, or more.
            place: place in the run, step * batch_size + place in the global batch.
            words: first words of the place's generator, see `draws.philox_words`; fewer, or none,
                only make its draws slower.
            out: arrays to write the entries to.

        Returns:
            The images that could not be read.
        """
        ...

    def path(self, index: int) -> str:
        """Names the file of an image."""
        ...


def path_of(source: Source, index: int) -> str:
    """Returns the path of an image within its source, or its index where it is no file."""
    path = getattr(source, "path", None)
    return f"{path(index)} of {source.name}" if path else f"image {index} of {source.name}"


def fill(
    samples: Samples,
    arrays: Mapping[str, np.ndarray],
    start: int,
    all_wanted: np.ndarray,
    place: int,
    words: np.ndarray,
    note: Callable[[int], None],
) -> list[Unreadable]:
    """Writes samples into rows of a batch.

    Args:
        samples: makes the samples.
        arrays: arrays of the batch.
        start: first row to write.
        all_wanted: int64 [rows, ...], see `Samples`.
        place: place in the run of the first row.
        words: uint64 [rows, ...], see `Samples`.
        note: called with the index of each image before it is read.

    Returns:
        The images that could not be read.
    """
    found: list[Unreadable] = []
    for offset, (wanted, first) in enumerate(zip(all_wanted, words.tolist(), strict=True)):
        note(int(wanted.flat[0]))
        out = {name: array[start + offset, ...] for name, array in arrays.items()}
        found += samples(wanted, place + offset, first, out)
    return found


def _read(source: Source, index: int, found: list[Unreadable]) -> np.ndarray | None:
    """Reads an image; adds an unreadable one to `found`."""
    try:
        return source.image(index)
    except UnreadableImage as error:
        found.append(Unreadable(index, error.path, error.reason))
        return None


@dataclass(frozen=True)
class _Images:
    """Reads images, and other ones in place of those that cannot be read."""

    source: Source
    seed: int

    def read(self, index: int, place: int, found: list[Unreadable]) -> tuple[int, np.ndarray]:
        """Returns the index of the image that is used, and the image; adds to `found`."""
        image = _read(self.source, index, found)
        if image is not None:
            return index, image
        key = np.array([self.seed, place], np.uint64)
        # apart from the counters that the crops' draws can reach
        rng = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, 1]))
        for _ in range(_SUBSTITUTES):
            other = int(rng.integers(len(self.source)))
            image = _read(self.source, other, found)
            if image is not None:
                return other, image
        raise UsageError(
            f"{_SUBSTITUTES} images of {self.source.name}, chosen at random, could not be read; "
            f"the last one is {found[-1].path}: {found[-1].reason}. Find out whether the data are "
            "still there and complete with `nsneg prepare check`."
        )


class TwoCrops:
    """Makes a sample of pre-training: two crops of an image, and one of its texture.

    Args:
        source: the images.
        textures: textures of the images, in their order; None if there are none.
        image_size: side of the crops in pixels.
        crop_scale: smallest and largest area of the crops, see `sample_crop`.
        seed: seed of the crops.
    """

    def __init__(
        self,
        source: Source,
        textures: Source | None,
        image_size: int,
        crop_scale: tuple[float, float],
        seed: int,
    ) -> None:
        self.names = ("query", "key") if textures is None else ("query", "key", "texture")
        self.image_size = image_size
        self._images = _Images(source, seed)
        self._textures = None if textures is None else _Images(textures, seed)
        self._crop_scale = crop_scale
        self.seed = seed

    @property
    def fields(self) -> Fields:
        """See `Samples`."""
        crops: Fields = dict.fromkeys(self.names, ((self.image_size, self.image_size, 3), np.uint8))
        return {**crops, "index": ((), np.int64), "replaced": ((), np.bool_)}

    def __call__(
        self, wanted: np.ndarray, place: int, words: Words, out: Mapping[str, np.ndarray]
    ) -> Sequence[Unreadable]:
        """See `Samples`."""
        views = {name: out[name] for name in self.names}
        found = self.crop(int(wanted), place, words, views)
        out["index"][...] = wanted
        out["replaced"][...] = bool(found)
        return found

    def crop(
        self, index: int, place: int, words: Words, out: Mapping[str, np.ndarray]
    ) -> list[Unreadable]:
        """Writes the crops that `out` has places for, of 'query', 'key' and 'texture'."""
        found: list[Unreadable] = []
        index, image = self._images.read(index, place, found)
        rng = PlaceGenerator(self.seed, place, words)
        height, width = image.shape[:2]
        boxes = [sample_crop(rng, height, width, self._crop_scale) for _ in range(2)]
        for name, box in zip(("query", "key"), boxes, strict=True):
            if name in out:
                resized_crop(image, box, self.image_size, out[name])
        if self._textures is not None and "texture" in out:
            _, texture = self._textures.read(index, place, found)
            box = boxes[0]
            if texture.shape != image.shape:
                again = PlaceGenerator(self.seed, place, words)
                height, width = texture.shape[:2]
                box = sample_texture_crop(again, height, width, self._crop_scale)
            resized_crop(texture, box, self.image_size, out["texture"])
        return found

    def path(self, index: int) -> str:
        """See `Samples`."""
        return path_of(self._images.source, index)


class ArrangedCrops:
    """Makes the crops that the passes of shuffling BN use at one place of the global batch.

    `wanted` is int64 [2 * (1 + passes)], in pairs: index and place in the run of the sample whose
    query crop is at this place, then of those whose crops the key pass and the passes of the
    negatives have.

    Args:
        two: makes the crops.
        passes: 1 + M, one for the keys and one per negative.
    """

    seed = None  # the words of a place are of use at many places

    def __init__(self, two: TwoCrops, passes: int) -> None:
        self._two = two
        self._kinds = ["query"] * (passes - 1)
        if "texture" in two.names and self._kinds:
            self._kinds[-1] = "texture"

    @property
    def fields(self) -> Fields:
        """See `Samples`."""
        crop, dtype = self._two.fields["query"]
        fields = {**self._two.fields, "negatives": ((len(self._kinds), *crop), dtype)}
        if not self._kinds:
            del fields["negatives"]
        fields.pop("texture", None)
        return fields

    def __call__(
        self, wanted: np.ndarray, place: int, words: Words, out: Mapping[str, np.ndarray]
    ) -> Sequence[Unreadable]:
        """See `Samples`."""
        kinds = ["query", "key", *self._kinds]
        places = [out["query"], out["key"], *(out["negatives"] if self._kinds else ())]
        found: list[Unreadable] = []
        for (index, at), kind, crop in zip(wanted.reshape(-1, 2), kinds, places, strict=True):
            found += self._two.crop(int(index), int(at), (), {kind: crop})
        out["index"][...] = wanted[0]
        out["replaced"][...] = bool(found)
        return found

    def path(self, index: int) -> str:
        """See `Samples`."""
        return self._two.path(index)


class _Labelled:
    """Makes one labelled view per image; blanks are 0 in all entries.

    Args:
        source: the images and labels.
        image_size: side of a view in pixels.
        seed: seed of the views' draws; None if they draw nothing.
    """

    def __init__(self, source: Source, image_size: int, seed: int | None = None) -> None:
        self.source = source
        self.image_size = image_size
        self.seed = seed

    @property
    def fields(self) -> Fields:
        """See `Samples`."""
        return {
            "image": ((self.image_size, self.image_size, 3), np.uint8),
            "label": ((), np.int32),
            "valid": ((), np.bool_),
            "index": ((), np.int32),
            "replaced": ((), np.bool_),
        }

    def __call__(
        self, wanted: np.ndarray, place: int, words: Words, out: Mapping[str, np.ndarray]
    ) -> Sequence[Unreadable]:
        """See `Samples`."""
        found: list[Unreadable] = []
        index = int(wanted)
        used = None if index == BLANK else self._view(index, place, words, out["image"], found)
        if used is None:
            for array in out.values():
                array[...] = 0
            return found
        out["label"][...] = self.source.labels[used]
        out["valid"][...] = True
        out["index"][...] = used
        out["replaced"][...] = bool(found)
        return found

    def path(self, index: int) -> str:
        """See `Samples`."""
        return path_of(self.source, index)

    def _view(
        self, index: int, place: int, words: Words, out: np.ndarray, found: list[Unreadable]
    ) -> int | None:
        """Writes a view of an image; returns the index of the image used, None to leave a blank."""
        raise NotImplementedError


class LabelledCrops(_Labelled):
    """Makes a random crop per image, to train classifiers.

    Args:
        source, image_size: see `_Labelled`.
        crop_scale: smallest and largest area of the crops, see `sample_crop`.
        seed: seed of the crops.
    """

    def __init__(
        self, source: Source, image_size: int, crop_scale: tuple[float, float], seed: int
    ) -> None:
        super().__init__(source, image_size, seed)
        self._crop_scale = crop_scale
        self._images = _Images(source, seed)

    def _view(
        self, index: int, place: int, words: Words, out: np.ndarray, found: list[Unreadable]
    ) -> int:
        index, image = self._images.read(index, place, found)
        rng = PlaceGenerator(self._images.seed, place, words)
        height, width = image.shape[:2]
        box = sample_crop(rng, height, width, self._crop_scale)
        resized_crop(image, box, self.image_size, out)
        return index


class CentralViews(_Labelled):
    """Makes the `central_view` of each image; an unreadable one is left blank.

    Args:
        source, image_size: see `_Labelled`.
        resize: see `central_view`.
    """

    def __init__(self, source: Source, image_size: int, resize: int) -> None:
        super().__init__(source, image_size)
        self._resize = resize

    def _view(
        self, index: int, place: int, words: Words, out: np.ndarray, found: list[Unreadable]
    ) -> int | None:
        image = _read(self.source, index, found)
        if image is None:
            return None
        out[...] = central_view(image, self.image_size, self._resize)
        return index
