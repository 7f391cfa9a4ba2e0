"""Images in folders: ImageNet's layout ROOT/SPLIT/CLASS/**/NAME.JPEG, or any other."""

import functools
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from nsneg_jax.errors import UsageError, printable
from nsneg_jax.input.decode import read_encoded, read_image
from nsneg_jax.input.sources import storage
from nsneg_jax.input.sources.classes import MEND_CLASSES, UNLABELLED, Choice, some, wanted
from nsneg_jax.input.sources.folders import layout
from nsneg_jax.input.sources.folders.names import Names
from nsneg_jax.input.sources.lists.class_list import readings
from nsneg_jax.input.sources.lists.labels import Labels, found_labels

IMAGE_ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
_IMAGES = f"Images are files that end in {', '.join(IMAGE_ENDINGS)} (in any case)."
# Listing mostly waits for the file system, above all on network storage.
_LISTING_THREADS = 8


class Folder:
    """One split of a folder of images as a `Source`.

    `layout.place_of` says which folder the split is. The classes of its images are, by the first
    of these rules that applies,

    * in the file `labels`, if that names the images;
    * the folders in the split's folder, if no image lies directly in that, or if some of the
      `classes` given are there;
    * in Kaggle's table or the devkit of ImageNet, if one is in the split's folder or up to four
      folders above it and names the images;
    * unknown: `classes` is then `UNLABELLED`, and all labels are 0. In ROOT/SPLIT, unlike `root`
      itself, images must then not lie both directly and in folders, which may be classes.

    Classes are sorted by name, which gives ImageNet's usual labels. Images are ordered by path
    within their class, the same on every file system. The ending, in upper or lower case, marks a
    file as an image, at any depth. Hidden files and folders do not count, nor do the thumbnails and
    waste of file servers (`storage.LEFTOVERS`). Links are followed, except links to folders that
    lead back into the split or to a folder above it, which would give an image two classes; one
    note on standard error names those. A broken link counts as an image, so that reading it fails
    instead of silently leaving it out.

    Args:
        root: folder with the splits, or of images without splits; local or as 'gs://BUCKET/FOLDER'
            (see storage.py).
        split: name of a split; '.' if `root` has none.
        classes: classes to use; None uses all. Labels are 0 .. len(classes) - 1 in the sorted
            order of the names.
        partial: whether this is an evaluation set with some of a classifier's classes, and maybe
            others. `classes` are then the classifier's, and labels index them in the given order.
            Classes without a folder or an image are left out, but at least one must have images.
        labels: file with the classes of images that lie in no class folders, see `Labels`; ''
            leaves the choice to the rules above.

    Attributes:
        present: int32, indices of the classes with images, ascending: all of them unless `partial`.
        folder: folder of the split.

    Raises:
        UsageError: there is nothing to read, or a requested class is missing. Unless `partial`, a
            class folder without an image is an error too, as in torchvision's `ImageFolder`; it is
            usually an incomplete copy. Folders without an image directly in `root` do not count.
    """

    def __init__(
        self,
        root: str,
        split: str,
        classes: Sequence[str] | None = None,
        partial: bool = False,
        labels: str = "",
    ) -> None:
        self.name = f"folder:{root} [{split}]"
        self.folder, is_root = layout.place_of(root, split)
        self._is_by_file = False
        if labels and self._read_labels(Labels(labels), split, classes, partial):
            return
        found = storage.folders(self.folder)
        loose = layout.loose_image(self.folder, IMAGE_ENDINGS)
        asked = {name for each in classes or () for name in readings(each)}
        if tuple(classes or ()) == UNLABELLED or (loose and not asked & set(found)):
            given = None if tuple(classes or ()) == UNLABELLED else found_labels(self.folder)
            if given and self._read_labels(Labels(given), split, classes, partial):
                return
            self._read_unlabelled(classes, loose, is_root)
        else:
            self._read_folders(found, classes, partial, is_root)

    def _read_folders(
        self, found: Sequence[str], classes: Sequence[str] | None, partial: bool, is_root: bool
    ) -> None:
        """Takes the folders as classes."""
        if not found:
            raise UsageError(
                f"There are no images in {self.folder}, and no class folders. Put images there, "
                f"those of each class into {self.folder}/CLASS/ if classes are known. {_IMAGES}"
            )
        self.classes = wanted(self.folder, found, classes, partial)
        there = set(found)
        passed: list[str] = []
        with ThreadPoolExecutor(_LISTING_THREADS) as pool:
            # Of a classifier's thousand classes a set may have few.
            having = [name for name in self.classes if name in there]
            listed = dict(
                zip(having, pool.map(lambda name: self._listing(name, passed), having), strict=True)
            )
            nothing = Names.of(())
            listings = [listed.get(name, nothing) for name in self.classes]
        self._note(passed)
        empty = [name for name, files in zip(self.classes, listings, strict=True) if not files]
        if len(empty) == len(self.classes):
            raise UsageError(
                f"None of the {len(empty)} classes in {self.folder} has a folder with an image: "
                f"{some(empty)}. Class folders there: {some(found)}. {_IMAGES}"
            )
        if empty and is_root and classes is None:
            filled = [i for i, files in enumerate(listings) if files]
            self.classes = tuple(self.classes[i] for i in filled)
            listings = [listings[i] for i in filled]
        elif empty and not partial:
            raise UsageError(
                f"{len(empty)} of the {len(self.classes)} class folders in {self.folder} hold no "
                f"image: {some(empty)}. Complete or remove them, or set data.classes to the "
                "classes wanted."
            )
        self._files = Names.joined(listings)
        counts = np.array([len(files) for files in listings])
        self.labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        self.present = np.flatnonzero(counts).astype(np.int32)

    def _read_labels(
        self, labels: Labels, split: str, classes: Sequence[str] | None, partial: bool
    ) -> bool:
        """Takes the classes from a file; returns False if it names none of the images."""
        files = self._everything()
        of_image = [labels.of(path, split) for path in files]
        unknown = of_image.count(None)
        if unknown == len(files):
            return False
        if unknown:
            raise UsageError(
                f"{labels.path} does not name {unknown:,} of the {len(files):,} images in "
                f"{self.folder}; the first is {files[of_image.index(None)]}. Complete it, or "
                "remove these images."
            )
        names = sorted({name for name in of_image if name is not None})
        numbers = {name: number for number, name in enumerate(names)}
        paths = [f"{_as_folder(name)}/{path}" for name, path in zip(of_image, files, strict=True)]
        choice = Choice(
            f"{self.folder} by {labels.path}",
            names,
            np.array([numbers[name] for name in of_image if name is not None], np.int64),
            paths,
            classes,
            partial,
        )
        self.classes, self.labels, self.present = choice.classes, choice.labels, choice.present
        self._files = files.take(choice.records)
        self._is_by_file = True
        return True

    def _read_unlabelled(
        self, classes: Sequence[str] | None, loose: str | None, is_root: bool
    ) -> None:
        """Takes all images below the folder as one class without a name."""
        if classes is not None and tuple(classes) != UNLABELLED:
            raise UsageError(
                f"{self.name} has no classes: images such as {loose} lie directly in "
                f"{self.folder}, and none of the {len(classes)} classes asked for is a folder "
                f"there: {some(sorted(classes))}. {MEND_CLASSES}"
            )
        self.classes = UNLABELLED
        self._files = self._everything()
        if not self._files:
            raise UsageError(f"There are no images in {self.folder}. {_IMAGES}")
        nested = next((path for path in self._files if "/" in path), None)
        if nested and loose and classes is None and not is_root:
            raise UsageError(
                f"{self.folder} has images that lie directly in it, such as {loose}, and images "
                f"in folders, such as {nested}. If the folders are classes, move {loose} and its "
                "like away, or name the classes by --config.data.classes. If not, give "
                f"folder:{self.folder} as the source, which takes all images without classes."
            )
        self.labels = np.zeros(len(self._files), np.int32)
        self.present = np.zeros(1, np.int32)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._files)

    def path(self, index: int) -> str:
        """Returns the path of image `index` below its split, with its class: 'CLASS/NAME.JPEG'.

        If a file gives the class, it stands before the path; an image without labels has none.
        """
        name = self._files[index]
        return (
            f"{_as_folder(self.classes[self.labels[index]])}/{name}" if self._is_by_file else name
        )

    def file_name(self, index: int) -> str:
        """Returns the path of the file of image `index` below `folder`."""
        return self._files[index]

    def location(self, index: int) -> str:
        """Returns the path of the file of image `index`."""
        return storage.join(self.folder, self._files[index])

    def size(self, index: int) -> int | None:
        """Returns the length of the file of image `index`; None if it is missing or in a store."""
        if storage.is_remote(self.folder):
            return None  # a request per file
        try:
            return storage.size(self.location(index))
        except OSError:
            return None

    def files(self) -> Sequence[str]:
        """Returns the paths of the files of all images, in their order."""
        return [self.location(index) for index in range(len(self))]

    def image(self, index: int) -> np.ndarray:
        """Reads image `index` as uint8 [H, W, 3], see `read_image`.

        Raises:
            UnreadableImage: the file is missing, damaged or no image.
        """
        return read_image(self.location(index))

    def encoded(self, index: int) -> bytes:
        """Returns the bytes of the file of image `index`.

        Raises:
            UnreadableImage: the file is missing or cannot be read.
        """
        return read_encoded(self.location(index))

    def _everything(self) -> Names:
        passed: list[str] = []
        files = layout.everything(self.folder, IMAGE_ENDINGS, passed)
        self._note([path.removeprefix("./") for path in passed])
        return files

    def _note(self, passed: Sequence[str]) -> None:
        """Names the links that are not followed."""
        if passed:
            _say_once(
                f"note: {len(passed)} links in {self.folder} lead to a folder that is listed "
                f"anyway or holds the data set, and are not followed: {some(sorted(passed))}"
            )

    def _listing(self, name: str, passed: list[str]) -> Names:
        try:
            found = storage.files_below(self.folder, name, IMAGE_ENDINGS, passed)
            return Names.of(sorted(found))
        except OSError as error:
            raise UsageError(
                f"The class folder {storage.join(self.folder, name)} cannot be listed: {error}. "
                "Make it readable, or remove it."
            ) from error


@functools.cache
def _say_once(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)


def _as_folder(name: str | None) -> str:
    return (name or "").replace("/", "_")
