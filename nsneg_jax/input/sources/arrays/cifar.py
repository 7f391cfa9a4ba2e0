"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) as they are published: pickles or binary files.

Either is read from its folder or from the archive, without unpacking that. Both have the same
images in the same order.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nsneg_jax.errors import UsageError, printable
from nsneg_jax.input.sources.arrays.containers import ARCHIVES, Container, damaged, local
from nsneg_jax.input.sources.arrays.pickles import Refused, read_pickle
from nsneg_jax.input.sources.arrays.tables import Table

_SHAPE = (3, 32, 32)  # red, green and blue planes, each row by row
_BYTES = 3 * 32 * 32
WHERE = "https://www.cs.toronto.edu/~kriz/cifar.html"


@dataclass(frozen=True)
class Form:
    """One of the published forms.

    Attributes:
        folder: folder that the archive unpacks to.
        archive: name of the archive without its ending.
        meta: file with the names of the classes, by kind of label.
        splits: files of each split, in order.
        is_binary: whether they are binary files, rather than pickles.
    """

    folder: str
    archive: str
    meta: dict[str, str]
    splits: dict[str, tuple[str, ...]]
    is_binary: bool


@dataclass(frozen=True)
class Cifar:
    """A data set with its forms.

    Attributes:
        title: its name.
        forms: the published forms, the preferred one first.
        kinds: kinds of label in the order of the binary files; the last one is the default.
        keys: key of each kind's labels in the pickles.
        names: key of the names of each kind's classes in the pickles.
        per_file: number of images in a file of each split.
    """

    title: str
    forms: tuple[Form, ...]
    kinds: tuple[str, ...]
    keys: tuple[str, ...]
    names: tuple[str, ...]
    per_file: dict[str, int]


def _ten(ending: str) -> dict[str, tuple[str, ...]]:
    train = tuple(f"data_batch_{number}{ending}" for number in range(1, 6))
    return {"train": train, "test": (f"test_batch{ending}",)}


SETS = {
    "cifar10": Cifar(
        "CIFAR-10",
        (
            Form("cifar-10-batches-py", "cifar-10-python", {"": "batches.meta"}, _ten(""), False),
            Form(
                "cifar-10-batches-bin",
                "cifar-10-binary",
                {"": "batches.meta.txt"},
                _ten(".bin"),
                True,
            ),
        ),
        ("",),
        ("labels",),
        ("label_names",),
        {"train": 10_000, "test": 10_000},
    ),
    "cifar100": Cifar(
        "CIFAR-100",
        (
            Form(
                "cifar-100-python",
                "cifar-100-python",
                {"coarse": "meta", "fine": "meta"},
                {"train": ("train",), "test": ("test",)},
                False,
            ),
            Form(
                "cifar-100-binary",
                "cifar-100-binary",
                {"coarse": "coarse_label_names.txt", "fine": "fine_label_names.txt"},
                {"train": ("train.bin",), "test": ("test.bin",)},
                True,
            ),
        ),
        ("coarse", "fine"),
        ("coarse_labels", "fine_labels"),
        ("coarse_label_names", "fine_label_names"),
        {"train": 50_000, "test": 10_000},
    ),
}


def read(scheme: str, where: str, split: str) -> Table:
    """Reads a split of CIFAR into memory.

    Args:
        scheme: 'cifar10' or 'cifar100'.
        where: the folder that holds one of the forms, the form's own folder, or an archive; of
            CIFAR-100 with '#coarse' at the end for its 20 superclasses.
        split: 'train' or 'test'.

    Raises:
        UsageError: the data set is not there, or a file is missing, damaged or incomplete.
    """
    cifar = SETS[scheme]
    path, _, kind = where.partition("#")
    kind = kind or cifar.kinds[-1]
    if kind not in cifar.kinds:
        raise UsageError(
            f"{scheme}:{where} asks for the labels {kind!r}, but {cifar.title} has "
            f"{' and '.join(map(repr, filter(None, cifar.kinds))) or 'one kind only'}. Correct "
            "what follows '#', or leave it out."
        )
    found = _find(cifar, local(f"{scheme}:{where}", path))
    if found is None:
        raise UsageError(
            f"There is no {cifar.title} in {printable(path)}. Put "
            f"{' or '.join(f'{form.archive}.tar.gz' for form in cifar.forms)} there, packed or "
            f"unpacked ({WHERE}), or give the folder that holds it, such as by "
            f"--config.data.source={scheme}:PATH."
        )
    container, form = found
    files, meta = form.splits[split], form.meta[kind]
    content = container.read((meta, *files))
    number = cifar.kinds.index(kind)
    try:
        names = _names(content[meta], form, cifar.names[number])
    except Refused as error:
        raise damaged(container.place(meta), error) from error
    pixels, labels = [], []
    for file in files:
        try:
            batch = _batch(
                content.pop(file), cifar, form, number, len(names), cifar.per_file[split]
            )
        except Refused as error:
            raise damaged(container.place(file), error) from error
        pixels.append(batch[0])
        labels.append(batch[1])
    return Table(
        np.concatenate(pixels),
        _SHAPE,
        (1, 2, 0),
        np.concatenate(labels),
        names,
        f"{container.path} [{split}]",
        container.files((meta, *files)),
    )


def images(scheme: str, split: str) -> int:
    """Returns the published number of images of a split."""
    cifar = SETS[scheme]
    return len(cifar.forms[0].splits[split]) * cifar.per_file[split]


def found_in(folder: str) -> Iterator[str]:
    """Yields the scheme of each CIFAR that a local folder holds."""
    return (scheme for scheme, cifar in SETS.items() if _find(cifar, folder) is not None)


def _find(cifar: Cifar, path: str) -> tuple[Container, Form] | None:
    for form in cifar.forms:
        if os.path.isfile(path) and os.path.basename(path).startswith(form.archive):
            return Container(path, True), form
        # Names such as 'test' are found anywhere, so it takes two of them.
        both = (form.splits["test"][0], form.meta[cifar.kinds[-1]])
        if all(os.path.isfile(os.path.join(path, name)) for name in both):
            return Container(path, False), form
    for form in cifar.forms:
        folder = os.path.join(path, form.folder)
        if os.path.isdir(folder):
            return Container(folder, False), form
    for form in cifar.forms:
        for ending in ARCHIVES:
            archive = os.path.join(path, form.archive + ending)
            if os.path.isfile(archive):
                return Container(archive, True), form
    for form in cifar.forms:
        if os.path.basename(path) == form.folder and os.path.isdir(path):
            return Container(path, False), form  # incomplete
    return None


def _names(content: bytes, form: Form, key: str) -> tuple[str, ...]:
    if form.is_binary:
        lines = content.decode("utf-8", "replace").split("\n")
        names = tuple(line.strip() for line in lines if line.strip())
    else:
        listed = _value(_dict(content), key)
        if not isinstance(listed, list):
            raise Refused(f"its {key} are no list")
        names = tuple(_text(each) for each in listed)
    if not names or len(set(names)) < len(names):
        raise Refused("it has no list of different names of classes")
    return names


def _batch(
    content: bytes, cifar: Cifar, form: Form, number: int, classes: int, expected: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns uint8 [n, 3072] and int64 [n] of a file."""
    if form.is_binary:
        size = len(cifar.kinds) + _BYTES
        if len(content) != expected * size:
            raise Refused(f"it has {len(content):,} bytes, but must have {expected * size:,}")
        records = np.frombuffer(content, np.uint8).reshape(expected, size)
        pixels, labels = records[:, len(cifar.kinds) :], records[:, number].astype(np.int64)
    else:
        values = _dict(content)
        pixels, listed = _value(values, "data"), _value(values, cifar.keys[number])
        if not isinstance(pixels, np.ndarray) or pixels.shape != (expected, _BYTES):
            shape = list(pixels.shape) if isinstance(pixels, np.ndarray) else "no array"
            raise Refused(f"its data are {shape}, but must be [{expected}, {_BYTES}]")
        if not isinstance(listed, list) or not all(type(each) is int for each in listed):
            raise Refused(f"its {cifar.keys[number]} are no list of numbers")
        if len(listed) != expected:
            raise Refused(f"it has {len(listed):,} labels of {expected:,} images")
        labels = np.array([max(-1, min(each, classes)) for each in listed], np.int64)
    if labels.min() < 0 or labels.max() >= classes:
        raise Refused(f"it has labels other than 0 to {classes - 1}")
    return pixels, labels


def _dict(content: bytes) -> dict[str, Any]:
    values = read_pickle(content)
    if not isinstance(values, dict):
        raise Refused("it holds no dict")
    return {_text(key): value for key, value in values.items()}


def _value(values: dict[str, Any], key: str) -> Any:
    if key not in values:
        some: Sequence[str] = sorted(values)[:8]
        raise Refused(f"it has no {key!r}, only {', '.join(map(printable, some)) or 'nothing'}")
    return values[key]


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
