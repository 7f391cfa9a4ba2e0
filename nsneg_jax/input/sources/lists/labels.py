"""Labels of images that lie in no class folders, from a file.

It may be

    a table of two columns, image and class, separated by commas, tabs or blanks, with or without a
    header, such as Kaggle's LOC_val_solution.csv of ImageNet
    a list of one wnid per line, for the validation images of ImageNet in the order of their numbers
    ImageNet's devkit, ILSVRC2012_devkit_t12.tar.gz, which has that list
"""

import csv
import io
import os
import re
import tarfile
import zlib
from collections.abc import Mapping, Sequence

from nsneg_jax.errors import UsageError
from nsneg_jax.files import expand
from nsneg_jax.input.sources import storage
from nsneg_jax.input.sources.folders import layout

DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
KAGGLE = "LOC_val_solution.csv"
# In Kaggle's archive val/ is four folders below the file: ILSVRC/Data/CLS-LOC/val.
_KAGGLE_LEVELS = 5
# The column of Kaggle's tables whose first word is the class; boxes follow.
_BOXES = "PredictionString"
_WNID = re.compile(r"n\d{8}")
_NUMBER = re.compile(r"ILSVRC2012_val_(\d+)\.\w+$")

# The devkit's numbers of the classes, and the number of each validation image.
_META = "data/meta.mat"
_LABELS = "data/ILSVRC2012_validation_ground_truth.txt"
# Errors of reading a file that is not the devkit.
_UNREADABLE = (
    *(OSError, EOFError, tarfile.TarError, zlib.error),
    *(LookupError, ValueError, TypeError, NotImplementedError),
)


class Labels:
    """The class of each image that a file names.

    Args:
        path: the file, local or in a store.

    Attributes:
        path: the file.

    Raises:
        UsageError: the file cannot be read, or names no classes.
    """

    def __init__(self, path: str) -> None:
        self.path = path = expand(path)
        self._by_name: Mapping[str, str] = {}
        self._by_number: Sequence[str] = ()
        try:
            data = storage.read_bytes(path)
            if b"\0" in data:  # an archive, compressed or not
                self._by_number = validation_wnids(path)
                return
            text = data.decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"The labels {path} cannot be read: {error}. Give a text file with the columns "
                "image and class."
            ) from error
        rows = _rows(text)
        if rows and all(len(row) == 1 for row in rows):
            self._by_number = _wnids([row[0] for row in rows], path)
        elif rows and all(len(row) >= 2 for row in rows):
            first_word = rows[0][1] == _BOXES
            self._by_name = {
                row[0].removeprefix("./"): row[1].split()[0] if first_word else row[1]
                for row in rows
                if row[1].strip()
            }
        if not self._by_name and not self._by_number:
            odd = next((row for row in rows if len(row) < 2), [])
            raise UsageError(
                f"The labels {path} must have the columns image and class in every row, separated "
                f"by commas, tabs or blanks, but {f'a row is {odd[0]!r}' if odd else 'are empty'}. "
                "Correct that."
            )

    def of(self, path: str, split: str = "") -> str | None:
        """Returns the class of an image; None if the file does not name it.

        Args:
            path: path of the image below its split. The file may name the image by this path, the
                same below the data folder (with the split), or its name, with or without an ending.
            split: name of the split.
        """
        if self._by_number:
            number = _NUMBER.search(path)
            place = int(number[1]) - 1 if number else -1
            return self._by_number[place] if 0 <= place < len(self._by_number) else None
        for name in (path, os.path.splitext(path)[0]):
            for key in (name, f"{split}/{name}", name.rpartition("/")[2]):
                if key in self._by_name:
                    return self._by_name[key]
        return None


def found_labels(folder: str) -> str | None:
    """Finds Kaggle's table or the devkit of ImageNet, in a folder or above it."""
    for above in layout.parents(folder, _KAGGLE_LEVELS):
        for name in (KAGGLE, DEVKIT):
            if storage.exists(storage.join(above, name)):
                return storage.join(above, name)
    return None


def validation_wnids(path: str) -> list[str]:
    """Reads the wnids of ImageNet's validation images, in the order of their numbers.

    Args:
        path: path of the devkit, local or in a store.

    Raises:
        UsageError: the file is not the devkit.
    """
    # Only here: worker processes import this module.
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        with tarfile.open(fileobj=io.BytesIO(storage.read_bytes(path))) as archive:
            meta, numbers = (_member(archive, name) for name in (_META, _LABELS))
        synsets = loadmat(io.BytesIO(meta), simplify_cells=True)["synsets"]
        wnids = {int(synset["ILSVRC2012_ID"]): synset["WNID"] for synset in synsets}
        return [wnids[int(number)] for number in numbers.split()]
    except (*_UNREADABLE, MatReadError) as error:
        raise UsageError(
            f"The labels of the validation images cannot be read from {path}: "
            f"{type(error).__name__}: {error}. Give ImageNet's {DEVKIT}, Kaggle's {KAGGLE}, or a "
            "text file with one wnid per line and image."
        ) from error


def _member(archive: tarfile.TarFile, ending: str) -> bytes:
    for member in archive:
        if member.isfile() and member.name.endswith(ending):
            file = archive.extractfile(member)
            if file is not None:
                return file.read()
    raise KeyError(f"there is no {ending} in it")


def _rows(text: str) -> list[list[str]]:
    """Splits a table into rows of cells, without empty rows."""
    lines = text.splitlines()
    first = next((line for line in lines if line.strip()), "")
    if "\t" in first or "," in first:
        rows = csv.reader(lines, delimiter="\t" if "\t" in first else ",", skipinitialspace=True)
        return [[cell.strip() for cell in row] for row in rows if any(map(str.strip, row))]
    # A name may have blanks, a class of such a table has none.
    return [line.strip().rsplit(None, 1) for line in lines if line.strip()]


def _wnids(words: Sequence[str], path: str) -> Sequence[str]:
    wrong = next((word for word in words if not _WNID.fullmatch(word)), None)
    if wrong is not None:
        raise UsageError(
            f"The labels {path} must hold one wnid per line, such as n01558993, or two columns, "
            f"image and class, but have {wrong!r}. Correct that line."
        )
    return words
