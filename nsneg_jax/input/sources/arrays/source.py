"""Data sets of small pictures in files of arrays, as they are published: CIFAR, STL-10, MNIST."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import numpy as np

from nsneg_jax.errors import UsageError, printable
from nsneg_jax.input.decode import UnreadableImage
from nsneg_jax.input.sources.arrays import cifar, idx, stl10
from nsneg_jax.input.sources.arrays.tables import Table
from nsneg_jax.input.sources.classes import UNLABELLED, Choice
from nsneg_jax.input.sources.folders.names import Names
from nsneg_jax.input.sources.records import RecordSource

_USUAL = ("train", "test")


class Kind(NamedTuple):
    """A data set, or a format of several.

    Attributes:
        read: reads a split of the one at a path.
        splits: names of the splits.
    """

    read: Callable[[str, str], Table]
    splits: tuple[str, ...] = _USUAL


SCHEMES: Mapping[str, Kind] = {
    "cifar10": Kind(partial(cifar.read, "cifar10")),
    "cifar100": Kind(partial(cifar.read, "cifar100")),
    "stl10": Kind(stl10.read, (*_USUAL, "unlabeled", *stl10.FOLDS)),
    "idx": Kind(idx.read),
}


class Arrays(RecordSource):
    """One split of a data set in files of arrays, as a `FileSource`.

    Each picture is a file in the simplest format, PPM (PGM if it is grey), named by its number:
    'CLASS/00000012.ppm', or '00000012.ppm' without labels. So the images have the order of a folder
    of these files, by class and number, whichever of the published forms is read. Classes are
    sorted by name.

    Args:
        scheme: one of `SCHEMES`.
        where: path of the data set, see `read` of the module of the scheme.
        split: one of its splits; 'val' and '.' mean 'test', the only one held out.
        classes, partial: see `Folder`, with the names of the labels for folders. Without `classes`
            all names are classes, even those without an image.

    Raises:
        UsageError: the data set, the split or a class is not there, or a file is damaged.
    """

    def __init__(
        self,
        scheme: str,
        where: str,
        split: str,
        classes: Sequence[str] | None = None,
        partial: bool = False,
    ) -> None:
        kind = SCHEMES[scheme]
        chosen = "test" if split in ("val", ".", "") else split
        if chosen not in kind.splits:
            raise UsageError(
                f"{scheme}:{where} has no split {split!r}. Set the field that names it (data.split "
                f"or data.eval_split) to one of {', '.join(kind.splits)}."
            )
        self.name = f"{scheme}:{where} [{chosen}]"
        self._table = table = kind.read(where, chosen)
        count = len(table.rows) if table.labels is None else len(table.labels)
        numbers = np.arange(count) if table.numbers is None else table.numbers
        ending = "ppm" if len(table.axes) == 3 else "pgm"
        stems = [f"{number:08}.{ending}" for number in numbers.tolist()]
        if table.labels is None:
            self._take_unlabelled(stems, classes)
            order = np.arange(count)
        else:
            folders = [name.replace("/", "_") for name in table.names]
            labels = table.labels.tolist()
            paths = [f"{folders[k]}/{stem}" for k, stem in zip(labels, stems, strict=True)]
            choice = Choice(self.name, table.names, table.labels, paths, classes, partial)
            self.classes, self.labels, self.present = choice.classes, choice.labels, choice.present
            order = choice.records
            self.paths = Names.of(paths[record] for record in order.tolist())
        self._numbers = numbers[order]

    def _take_unlabelled(self, stems: Sequence[str], classes: Sequence[str] | None) -> None:
        if classes is not None and tuple(classes) != UNLABELLED:
            raise UsageError(
                f"{self.name} has no classes: its images have no labels. Leave data.classes empty, "
                "or choose another split."
            )
        self.classes = UNLABELLED
        self.labels, self.present = np.zeros(len(stems), np.int32), np.zeros(1, np.int32)
        self.paths = Names.of(stems)

    def location(self, index: int) -> str:
        """Returns where image `index` is, for messages."""
        return f"{self._table.place}, image {self._numbers[index]}"

    def files(self) -> Sequence[str]:
        """Returns the paths of the files on the disk that hold the images."""
        return self._table.files

    def encoded(self, index: int) -> bytes:
        """Returns image `index` as a PPM or PGM file.

        Raises:
            UnreadableImage: the file that holds it has become shorter, or cannot be read.
        """
        pixels = self._pixels(index)
        height, width = pixels.shape[:2]
        header = f"{'P6' if pixels.ndim == 3 else 'P5'}\n{width} {height}\n255\n"
        return header.encode() + pixels.tobytes()

    def image(self, index: int) -> np.ndarray:
        """Returns image `index` as uint8 [H, W, 3].

        Raises:
            UnreadableImage: see `encoded`.
        """
        pixels = self._pixels(index)
        return pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)

    def _pixels(self, index: int) -> np.ndarray:
        try:
            return self._table.pixels(int(self._numbers[index]))
        except OSError as error:
            raise UnreadableImage(self.location(index), error.strerror or str(error)) from error


def published_images(spec: str, split: str) -> int | None:
    """Returns the number of images of a split without opening it; None where it is not known."""
    scheme = spec.partition(":")[0]
    if scheme not in SCHEMES or split not in SCHEMES[scheme].splits or scheme == "idx":
        return None
    if scheme == "stl10":
        return stl10.COUNTS.images.get(split, stl10.COUNTS.per_fold)
    return cifar.images(scheme, split)


@contextmanager
def advised(scheme: str, path: str) -> Iterator[None]:
    """Adds to the error of a source which data sets of arrays its folder has under other schemes.

    Args:
        scheme, path: the source, 'SCHEME:PATH'.
    """
    try:
        yield
    except UsageError as error:
        others = [each for each in _found(path) if each != scheme] if os.path.isdir(path) else []
        if not others:
            raise
        given = " or ".join(f"{each}:{printable(path)}" for each in others)
        raise UsageError(
            f"{error} But {printable(path)} has files of arrays: give {given} as the source, such "
            "as by --config.data.source (docs/recipes.md has recipes for them)."
        ) from error


def _found(path: str) -> Iterator[str]:
    yield from cifar.found_in(path)
    for scheme, module in (("stl10", stl10), ("idx", idx)):
        if module.is_in(path):
            yield scheme
