"""Images in class folders, ImageNet's layout: ROOT/SPLIT/CLASS/**/NAME.JPEG."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from nsneg_jax.errors import UsageError
from nsneg_jax.files import earlier_data
from nsneg_jax.input.decode import read_image, unreadable
from nsneg_jax.input.sources import storage
from nsneg_jax.input.sources.classes import some, wanted

IMAGE_ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
# Listing waits for the file system, on network storage for most of the time.
_LISTING_THREADS = 8


class Folder:
    """One split of a folder of images as a `Source`.

    Classes are the folders in ROOT/SPLIT in the order of their names, which gives ImageNet's usual
    labels, and images are ordered by path within their class: the same on every file system. Files
    count as images by their ending, in upper or lower case, at any depth; hidden files and folders
    do not count, links are followed (a link back to a folder above it is not). A link to nothing
    counts as an image, so that it is reported when read instead of being left out in silence.

    Args:
        root: folder with the splits, local or as 'gs://BUCKET/FOLDER' (see storage.py).
        split: name of one of them; '.' where the class folders lie directly in `root`.
        classes: takes only these class folders; labels are then 0 .. len(classes) - 1 in the order
            of the names, whatever order they are given in.
        partial: for evaluation sets that have some of a classifier's classes, and others: `classes`
            are those of the classifier, and labels are indices into them in the order given. Those
            that have no folder, or no image in it, are left out, but one must have some.

    Attributes:
        present: int32, indices of the classes with images, ascending: all of them unless `partial`.

    Raises:
        UsageError: there is nothing to read, or a class asked for is not there. Unless `partial`, a
            class folder without an image is an error too, as in torchvision's `ImageFolder`: it
            usually is an incomplete copy.
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
        with ThreadPoolExecutor(_LISTING_THREADS) as pool:
            listings = list(
                pool.map(lambda name: self._listing(name) if name in there else [], self.classes)
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
        self._files = [file for files in listings for file in files]
        counts = np.array([len(files) for files in listings])
        self.labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        self.present = np.flatnonzero(counts).astype(np.int32)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._files)

    def path(self, index: int) -> str:
        """Path of image `index`, below ROOT/SPLIT and with its class folder: 'CLASS/NAME.JPEG'."""
        return self._files[index]

    def image(self, index: int) -> np.ndarray:
        """Image `index` as uint8 [H, W, 3], see `read_image`.

        Raises:
            UnreadableImage: the file is missing, damaged or no image.
        """
        return read_image(storage.join(self._folder, self._files[index]))

    def encoded(self, index: int) -> bytes:
        """The file of image `index`.

        Raises:
            UnreadableImage: it is missing or cannot be read.
        """
        path = storage.join(self._folder, self._files[index])
        try:
            return storage.read_bytes(path)
        except OSError as error:
            raise unreadable(path, error.strerror or str(error)) from error

    def _listing(self, name: str) -> list[str]:
        try:
            return sorted(storage.files_below(self._folder, name, IMAGE_ENDINGS))
        except OSError as error:
            raise UsageError(
                f"The class folder {storage.join(self._folder, name)} cannot be listed: {error}. "
                "Make it readable, or remove it."
            ) from error


def _class_folders(root: str, split: str) -> list[str]:
    if not storage.is_folder(root):
        raise UsageError(
            f"The data folder {root} {'is not a folder' if storage.exists(root) else 'is missing'}."
            f" Give the folder that holds the splits, with images in {root}/{split}/CLASS/."
            f"{earlier_data(root)}"
        )
    folder = storage.join(root, split)
    if not storage.is_folder(folder):
        raise UsageError(
            f"The data folder {root} has no split {split!r}. Folders there: "
            f"{some(storage.folders(root)) or 'none'}. Set data.split to one of them, or put the "
            f"images in {folder}/CLASS/."
        )
    found = storage.folders(folder)
    if not found:
        raise UsageError(
            f"There are no class folders in {folder}. Put the images of each class in a folder of "
            f"its own, {folder}/CLASS/."
        )
    return found
