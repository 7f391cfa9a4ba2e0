"""Data sets in the files of MNIST (LeCun et al. 1998): MNIST, Fashion-MNIST and their like.

An idx file is two zeros, the type of its numbers, the number of its axes, their lengths as 32-bit
numbers with the highest byte first, and the numbers.
"""

import math
import os
import struct

import numpy as np

from nsneg_jax.errors import UsageError, printable
from nsneg_jax.input.sources.arrays.containers import AGAIN, damaged, local, read_whole
from nsneg_jax.input.sources.arrays.tables import Table

_BYTE = 8  # type of unsigned bytes
_PREFIXES = {"train": "train", "test": "t10k"}
_FORMS = ("{}-{}-idx{}-ubyte", "{}-{}.idx{}-ubyte")
_KINDS = {"images": 3, "labels": 1}  # axes by kind of file


def read(where: str, split: str) -> Table:
    """Reads a split into memory; the names of its classes are their numbers, from '0'.

    Args:
        where: the folder with train-images-idx3-ubyte and the three others, also packed as .gz.
        split: 'train' or 'test'.

    Raises:
        UsageError: a file is missing, damaged or incomplete.
    """
    folder = local(f"idx:{where}", where)
    paths = {kind: _path(folder, split, kind) for kind in _KINDS}
    images, labels = (_array(paths[kind], axes) for kind, axes in _KINDS.items())
    if len(images) != len(labels):
        raise UsageError(
            f"{printable(paths['labels'])} has {len(labels):,} labels, but there are "
            f"{len(images):,} images in {printable(paths['images'])}. {AGAIN}"
        )
    count, height, width = images.shape
    if not count or not height or not width:
        raise damaged(paths["images"], "it has no images")
    names = tuple(str(number) for number in range(int(labels.max()) + 1))
    rows = images.reshape(count, height * width)
    return Table(
        rows,
        (height, width),
        (0, 1),
        labels.astype(np.int64),
        names,
        paths["images"],
        list(paths.values()),
    )


def is_in(folder: str) -> bool:
    """Returns whether a local folder holds such files."""
    return _find(folder, "train", "images") is not None


def _find(folder: str, split: str, kind: str) -> str | None:
    for form in _FORMS:
        for ending in ("", ".gz"):
            name = form.format(_PREFIXES[split], kind, _KINDS[kind]) + ending
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                return path
    return None


def _path(folder: str, split: str, kind: str) -> str:
    path = _find(folder, split, kind)
    if path is None:
        name = _FORMS[0].format(_PREFIXES[split], kind, _KINDS[kind])
        raise UsageError(
            f"{printable(folder)} has no file {name} or {name}.gz. Give the folder that holds the "
            "four files of MNIST, Fashion-MNIST or another set in their format, as idx:PATH."
        )
    return path


def _array(path: str, axes: int) -> np.ndarray:
    content = read_whole(path)
    start = 4 + 4 * axes
    if len(content) < start or content[:3] != bytes((0, 0, _BYTE)) or content[3] != axes:
        raise damaged(path, f"it does not begin as an idx file of bytes with {axes} axes")
    shape = struct.unpack(f">{axes}I", content[4:start])
    expected = start + math.prod(shape)
    if len(content) != expected:
        raise damaged(path, f"it has {len(content):,} bytes, but must have {expected:,}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
