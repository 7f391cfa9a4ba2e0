"""Images in class folders, ImageNet's layout: ROOT/SPLIT/CLASS/**/NAME.JPEG."""

import functools
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from nsneg_jax.errors import UsageError, printable
from nsneg_jax.files import earlier_data
from nsneg_jax.input.decode import read_encoded, read_image
from nsneg_jax.input.sources import storage
from nsneg_jax.input.sources.classes import some, wanted
from nsneg_jax.input.sources.names import Names

IMAGE_ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
# Listing mostly waits for the file system, above all on network storage.
_LISTING_THREADS = 8


class Folder:
    """One split of a folder of images as a `Source`.

    Classes are the folders in ROOT/SPLIT in the order of their names, which gives ImageNet's usual
    labels. Images are ordered by path within their class, the same on every file system. The
    ending, in upper or lower case, marks a file as an image, at any depth. Hidden files and folders
    do not count, nor do the thumbnails and waste of file servers (`storage.LEFTOVERS`). Links are
    followed, except links to folders that lead back into ROOT/SPLIT or to a folder above it, which
    would give an image two classes; one note on standard error names those. A broken link counts as
    an image, so that reading it fails instead of silently leaving it out.

    Args:
        root: folder with the splits, local or as 'gs://BUCKET/FOLDER' (see storage.py).
        split: name of a split; '.' if the class folders lie directly in `root`.
        classes: class folders to use; None uses all. Labels are 0 .. len(classes) - 1 in the sorted
            order of the names.
        partial: whether this is an evaluation set with some of a classifier's classes, and maybe
            others. `classes` are then the classifier's, and labels index them in the given order.
            Classes without a folder or an image are left out, but at least one must have images.

    Attributes:
        present: int32, indices of the classes with images, ascending: all of them unless `partial`.

    Raises:
        UsageError: there is nothing to read, or a requested class is missing. Unless `partial`, a
            class folder without an image is an error too, as in torchvision's `ImageFolder`; it is
            usually an incomplete copy.
    """

    def __init__(
        self,
        root: str,
        split: str,
        classes: Sequence[str] | None = None,
        partial: bool = False,
    ) -> None:
        self.name = f"folder:{root} [{split}]"
        self._folder = storage.join(root, split)
        found = _class_folders(root, split)
        self.classes = wanted(self._folder, found, classes, partial)
        there = set(found)
        passed: list[str] = []
        with ThreadPoolExecutor(_LISTING_THREADS) as pool:
            listings = list(
                pool.map(
                    lambda name: self._listing(name if name in there else None, passed),
                    self.classes,
                )
            )
        if passed:
            _say_once(
                f"note: {len(passed)} links in {self._folder} lead to a folder that is listed "
                f"anyway or holds the data set, and are not followed: {some(sorted(passed))}"
            )
        empty = [name for name, files in zip(self.classes, listings, strict=True) if not files]
        if len(empty) == len(self.classes):
            raise UsageError(
                f"None of the {len(empty)} classes in {self._folder} has a folder with an image: "
                f"{some(empty)}. Class folders there: {some(found)}. Images are files that end "
                f"in {', '.join(IMAGE_ENDINGS)} (in any case)."
            )
        if empty and not partial:
            raise UsageError(
                f"{len(empty)} of the {len(self.classes)} class folders in {self._folder} hold no "
                f"image: {some(empty)}. Complete or remove them, or set data.classes to the "
                "classes wanted."
            )
        self._files = Names.joined(listings)
        counts = np.array([len(files) for files in listings])
        self.labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        self.present = np.flatnonzero(counts).astype(np.int32)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._files)

    def path(self, index: int) -> str:
        """Returns the path of image `index` below ROOT/SPLIT, with its class: 'CLASS/NAME.JPEG'."""
        return self._files[index]

    def image(self, index: int) -> np.ndarray:
        """Reads image `index` as uint8 [H, W, 3], see `read_image`.

        Raises:
            UnreadableImage: the file is missing, damaged or no image.
        """
        return read_image(storage.join(self._folder, self._files[index]))

    def encoded(self, index: int) -> bytes:
        """Returns the bytes of the file of image `index`.

        Raises:
            UnreadableImage: the file is missing or cannot be read.
        """
        return read_encoded(storage.join(self._folder, self._files[index]))

    def _listing(self, name: str | None, passed: list[str]) -> Names:
        if name is None:
            return Names.of(())
        try:
            found = storage.files_below(self._folder, name, IMAGE_ENDINGS, passed)
            return Names.of(sorted(found))
        except OSError as error:
            raise UsageError(
                f"The class folder {storage.join(self._folder, name)} cannot be listed: {error}. "
                "Make it readable, or remove it."
            ) from error


@functools.cache
def _say_once(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)


def _class_folders(root: str, split: str) -> list[str]:
    if not storage.is_folder(root):
        raise UsageError(
            f"The data folder {root} {'is not a folder' if storage.exists(root) else 'is missing'}."
            f" Give the folder that holds the splits, with images in {root}/{split}/CLASS/: set "
            "--config.data.source=folder:PATH, or the source of the test set."
            f"{earlier_data(root)}"
        )
    folder = storage.join(root, split)
    if not storage.is_folder(folder):
        raise UsageError(
            f"The data folder {root} has no split {split!r}. Folders there: "
            f"{some(storage.folders(root)) or 'none'}. Set the field that names it (data.split or "
            f"data.eval_split) to one of them, or put the images in {folder}/CLASS/."
        )
    found = storage.folders(folder)
    if not found:
        raise UsageError(
            f"There are no class folders in {folder}. Put the images of each class into "
            f"{folder}/CLASS/, images without classes into one folder, such as {folder}/all/."
        )
    return found
