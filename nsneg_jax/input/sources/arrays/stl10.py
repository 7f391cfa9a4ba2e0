"""STL-10 (Coates, Ng, Lee 2011) as its archive unpacks.

Pictures are read from the files as they are needed: the unlabelled ones have 2.8 GB. So the packed
archive, in which nothing can be found without unpacking what is before it, is not read.
"""

import os
from dataclasses import dataclass

import numpy as np

from nsneg_jax.errors import UsageError, printable
from nsneg_jax.input.sources.arrays.containers import AGAIN, Container, damaged, local
from nsneg_jax.input.sources.arrays.tables import FileRows, Table

_SHAPE = (3, 96, 96)  # red, green and blue planes, each column by column
_AXES = (2, 1, 0)
_BYTES = 3 * 96 * 96
_FOLDER = "stl10_binary"
_ARCHIVES = (f"{_FOLDER}.tar.gz", f"{_FOLDER}.tar")
_NAMES, _FOLDS = "class_names.txt", "fold_indices.txt"
WHERE = "https://cs.stanford.edu/~acoates/stl10/"
FOLDS = tuple(f"fold{number}" for number in range(10))


@dataclass(frozen=True)
class Counts:
    """Numbers of images.

    Attributes:
        images: by file.
        per_fold: of a fold.
    """

    images: dict[str, int]
    per_fold: int


COUNTS = Counts({"train": 5_000, "test": 8_000, "unlabeled": 100_000}, 1_000)


def read(where: str, split: str) -> Table:
    """Opens a split.

    Args:
        where: the folder that holds train_X.bin and the others, or the one above it.
        split: 'train', 'test', 'unlabeled', or 'fold0' to 'fold9', the parts of the training
            images that the data set's protocol trains on one by one.

    Raises:
        UsageError: the data set is not there, or a file is missing, damaged or incomplete.
    """
    folder = _folder(local(f"stl10:{where}", where))
    if folder is None:
        raise UsageError(_absent(where))
    container = Container(folder, False)
    file = "train" if split in FOLDS else split
    path, count = container.place(f"{file}_X.bin"), COUNTS.images[file]
    size = os.path.getsize(path) if os.path.isfile(path) else None
    if size is None:
        raise UsageError(f"{printable(path)} is missing. {AGAIN}")
    if size != count * _BYTES:
        raise damaged(path, f"it has {size:,} bytes, but must have {count * _BYTES:,}")
    rows = FileRows(path, count, _BYTES)
    if file == "unlabeled":
        return Table(rows, _SHAPE, _AXES, None, (), path, [path])
    read = container.read((_NAMES, f"{file}_y.bin", *((_FOLDS,) if split in FOLDS else ())))
    names = tuple(read[_NAMES].decode("utf-8", "replace").split())
    labels = np.frombuffer(read[f"{file}_y.bin"], np.uint8).astype(np.int64) - 1
    if not names or len(set(names)) < len(names):
        raise damaged(container.place(_NAMES), "it has no list of different names")
    if len(labels) != count or labels.min() < 0 or labels.max() >= len(names):
        raise damaged(
            container.place(f"{file}_y.bin"),
            f"it must have {count:,} labels from 1 to {len(names)}",
        )
    files = container.files((f"{file}_X.bin", *read))
    numbers = None
    if split in FOLDS:
        numbers = _fold(container.place(_FOLDS), read[_FOLDS], FOLDS.index(split))
        labels = labels[numbers]
    return Table(rows, _SHAPE, _AXES, labels, names, path, files, numbers)


def is_in(folder: str) -> bool:
    """Returns whether a local folder holds STL-10, packed or not."""
    archives = (os.path.join(folder, name) for name in _ARCHIVES)
    return _folder(folder) is not None or any(map(os.path.isfile, archives))


def _folder(where: str) -> str | None:
    for folder in (where, os.path.join(where, _FOLDER)):
        if any(os.path.isfile(os.path.join(folder, f"{name}_X.bin")) for name in COUNTS.images):
            return folder
    return None


def _absent(where: str) -> str:
    packed = next((name for name in _ARCHIVES if os.path.isfile(os.path.join(where, name))), None)
    path = where if os.path.isfile(where) else os.path.join(where, packed or "")
    if packed or os.path.isfile(where):
        inside = os.path.dirname(path) or "."
        return (
            f"{printable(path)} is packed, and its pictures cannot be read in any order. Unpack it "
            f"with `tar -xf {printable(path)} -C {printable(inside)}` (3.1 GB), and give "
            f"stl10:{printable(inside)}."
        )
    return (
        f"There is no STL-10 in {printable(where)}: no train_X.bin, test_X.bin or unlabeled_X.bin. "
        f"Unpack {_ARCHIVES[0]} there ({WHERE}), or give the folder that holds it, such as "
        "by --config.data.source=stl10:PATH."
    )


def _fold(path: str, content: bytes, fold: int) -> np.ndarray:
    lines = content.decode("ascii", "replace").splitlines()
    try:
        numbers = np.array(lines[fold].split(), np.int64)
        if len(numbers) != COUNTS.per_fold or len(set(numbers.tolist())) < len(numbers):
            raise ValueError(f"its line {fold + 1} has no {COUNTS.per_fold:,} different numbers")
        if numbers.min() < 0 or numbers.max() >= COUNTS.images["train"]:
            raise ValueError(f"its line {fold + 1} has numbers of no image")
    except IndexError:
        raise damaged(path, f"it has no line {fold + 1}") from None
    except ValueError as error:
        raise damaged(path, error) from error
    return np.sort(numbers)
