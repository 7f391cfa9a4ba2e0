"""Labels of the validation images from ImageNet's devkit, ILSVRC2012_devkit_t12.tar.gz.

The devkit numbers the classes in an order of its own and keeps that in meta.mat, a MATLAB file of
level 5. Its structs, strings and numbers are read here, so that SciPy is not needed for one file.
"""

import re
import struct
import tarfile
import zlib
from collections.abc import Iterator
from typing import Any

from nsneg_jax.errors import UsageError

_META = "data/meta.mat"
_LABELS = "data/ILSVRC2012_validation_ground_truth.txt"

# types of data elements, and classes of arrays, in MATLAB's documentation of the format
_NUMBERS = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}
_TEXTS = {16: "utf-8", 17: "utf-16", 18: "utf-32"}
_MATRIX, _COMPRESSED = 14, 15
_STRUCT, _CHAR, _NUMERIC = 2, 4, range(6, 16)

# what a file that is something else leads to
_UNREADABLE = (
    *(OSError, EOFError, tarfile.TarError, zlib.error, struct.error),
    *(LookupError, ValueError, TypeError, StopIteration),
)


def validation_wnids(path: str) -> list[str]:
    """The wnid of each validation image, in the order of their numbers.

    Args:
        path: of the devkit.

    Raises:
        UsageError: the file is not the devkit.
    """
    try:
        with tarfile.open(path) as archive:
            members = {name: _read(archive, name) for name in (_META, _LABELS)}
        synsets = read_mat(members[_META])["synsets"]
        wnids = {int(s["ILSVRC2012_ID"]): s["WNID"] for s in synsets}
        labels = [wnids[int(word)] for word in members[_LABELS].split()]
    except _UNREADABLE as error:
        raise UsageError(
            f"The labels of the validation images cannot be read from {path}: "
            f"{type(error).__name__}: {error}. Give ImageNet's ILSVRC2012_devkit_t12.tar.gz with "
            "--devkit, or a text file with the wnid of each image a line with --val-labels."
        ) from error
    return labels


def _read(archive: tarfile.TarFile, ending: str) -> bytes:
    for member in archive:
        if member.isfile() and member.name.endswith(ending):
            return archive.extractfile(member).read()
    raise KeyError(f"there is no {ending} in it")


def read_mat(data: bytes) -> dict[str, Any]:
    """The variables of a MATLAB file of level 5.

    Strings are read as str, arrays of one number as that number, other arrays of numbers as tuples
    in MATLAB's order, and arrays of structs as lists of dicts; other kinds are left out as None.
    """
    order = {b"IM": "<", b"MI": ">"}[data[126:128]]
    variables = {}
    for kind, content in _elements(data[128:], order):
        if kind == _COMPRESSED:
            ((kind, content),) = _elements(zlib.decompress(content), order)
        if kind == _MATRIX:
            name, value = _matrix(content, order)
            variables[name] = value
    return variables


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(order + "II", data, at)
        if kind >> 16:  # up to four bytes, in the tag itself
            yield kind & 0xFFFF, data[at + 4 : at + 4 + (kind >> 16)]
            at += 8
        else:
            yield kind, data[at + 8 : at + 8 + size]
            at += 8 + (size if kind == _COMPRESSED else -(-size // 8) * 8)


def _matrix(data: bytes, order: str) -> tuple[str, Any]:
    if not data:
        return "", ()
    elements = _elements(data, order)
    form = _numbers(*next(elements), order)[0] & 0xFF
    shape = _numbers(*next(elements), order)
    name = next(elements)[1].decode("ascii")
    if form == _STRUCT:
        length = _numbers(*next(elements), order)[0]
        names = re.findall(b"(?s)" + b"." * length, next(elements)[1])
        fields = [name.rstrip(b"\0").decode("ascii") for name in names]
        values = (_matrix(content, order)[1] for _, content in elements)
        count = 1
        for size in shape:
            count *= size
        return name, [{field: next(values) for field in fields} for _ in range(count)]
    if form == _CHAR:
        kind, content = next(elements)
        if kind in _TEXTS:
            return name, content.decode(_TEXTS[kind])
        return name, "".join(map(chr, _numbers(kind, content, order)))
    if form in _NUMERIC:
        numbers = _numbers(*next(elements), order)
        return name, numbers[0] if len(numbers) == 1 else numbers
    return name, None


def _numbers(kind: int, content: bytes, order: str) -> tuple[Any, ...]:
    code = _NUMBERS[kind]
    return struct.unpack(f"{order}{len(content) // struct.calcsize(code)}{code}", content)
