"""The pictures of a comparison: a user's data set, split, made small, in all versions, as files."""

import hashlib
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from nsneg_jax.comparison.columns import versions
from nsneg_jax.errors import UsageError, printable
from nsneg_jax.files import inside, json_object, write_json
from nsneg_jax.input.crops import central_view
from nsneg_jax.input.decode import UnreadableImage
from nsneg_jax.input.sources import storage
from nsneg_jax.input.sources.folders.layout import SPLITS
from nsneg_jax.input.sources.protocol import Source, has_files
from nsneg_jax.input.sources.source import is_files, of_files, open_source
from nsneg_jax.input.splits import tells_apart, without_classes

TRAIN, CHOOSE = "train", "choose"  # folders of pictures
ABOUT = "pictures.json"

_TEST_SHARE, _CHOOSE_SHARE = 0.2, 0.1  # of the pictures of a class
_MOST_TEST = 1000
_FEWEST, _FEWEST_TRAINED = 5, 16  # pictures of a class, and to train on
_VALIDATION = ("val", "valid", "validation", "test", "testing", "dev", "eval")
_THREADS = 4
_NEEDS_LABELS = (
    "Whether the negatives help can only be seen by the accuracy on classes: put the pictures of "
    "each class into a folder, FOLDER/CLASS/NAME.jpg; a hundred pictures or more per class make "
    "the answer clear sooner. Without labels `nsneg pretrain` still trains on them, and its report "
    "shows how similar the encoder finds pictures and their negatives; neither says which encoder "
    "is better."
)


class Parts(NamedTuple):
    """Which pictures are for what: indices into a source of pictures for training and one for test.

    Attributes:
        train: pictures that encoders and probes are trained on.
        choose: pictures that the probes' learning rate is chosen on.
        test: pictures of the table, in `held_out`.
        source: holds the first two.
        held_out: holds `test`; the same as `source` unless the data set has such a split.
    """

    train: np.ndarray
    choose: np.ndarray
    test: np.ndarray
    source: Source
    held_out: Source


def data_of(given: str) -> str:
    """Completes the data set that a command names; a folder may omit 'folder:'."""
    return given if given.startswith("shapes") else of_files(given)


def split(spec: str, side: int, most: int) -> Parts:
    """Opens a data set and splits it, each time in the same way.

    Folders train/ and val/ (or test/ and the like) stay what they are. Without such, a fifth of
    each class is held out. A tenth of the rest of each class is for choosing. A digest of a
    picture's path decides, so other pictures do not change the part of one.

    Args:
        spec: data set, see `open_source`.
        side: side in pixels of pictures that are drawn.
        most: most pictures to train on, the same share of each class.

    Raises:
        UsageError: the data set cannot be used, has no labels, or too few pictures of a class.
    """
    training, testing = _splits(spec)
    source = open_source(spec, training, image_size=side)
    if not tells_apart(source):
        raise UsageError(f"{without_classes(source)}. {_NEEDS_LABELS}")
    held_out = source
    if testing:
        held_out = open_source(spec, testing, image_size=side)
        if held_out.classes != source.classes:
            only = sorted(set(held_out.classes) ^ set(source.classes))
            raise UsageError(
                f"{source.name} and {held_out.name} have different classes: {only[0]!r} is in one "
                "of them only. Complete the folders, or give the folder of one split, of which a "
                "fifth is then held out."
            )
    by_class = _by_class(source)
    few = next((name for name, found in by_class.items() if len(found) < _FEWEST), None)
    if few is not None:
        raise UsageError(
            f"The class {printable(few)} of {source.name} has {len(by_class[few])} pictures, but "
            f"{_FEWEST} are needed for training, choosing and testing. Add some, or move the "
            "folder elsewhere."
        )
    train, choose, test = [], [], []
    for found in by_class.values():
        tested = 0 if testing else max(1, round(_TEST_SHARE * len(found)))
        chosen = max(1, round(_CHOOSE_SHARE * len(found)))
        test.append(found[:tested])
        choose.append(found[tested : tested + chosen])
        train.append(found[tested + chosen :])
    if sum(map(len, train)) < _FEWEST_TRAINED:
        raise UsageError(
            f"{source.name} leaves {sum(map(len, train))} pictures to train on, but at least "
            f"{_FEWEST_TRAINED} are needed, and some hundreds for an answer. Add pictures."
        )
    if testing:
        test = list(_by_class(held_out).values())
    return Parts(
        train=_shared(train, most),
        choose=_shared(choose, _MOST_TEST // 2),
        test=_shared(test, _MOST_TEST),
        source=source,
        held_out=held_out,
    )


def prepare(spec: str, side: int, most: int, folder: Path) -> dict[str, Any]:
    """Writes the pictures of a comparison to a folder, once.

    A picture is the central square of its file, of `side` pixels. FOLDER/train and FOLDER/choose
    have a folder per class, and so has each folder of `columns.versions`.

    Args:
        spec, side, most: see `split`.
        folder: where to write them.

    Returns:
        What they are, also in pictures.json: 'data', 'side', 'classes', and the numbers of pictures
        'train', 'choose', 'test' and 'unreadable'.

    Raises:
        UsageError: see `split`; or too many files cannot be read.
    """
    about = json_object(folder / ABOUT)
    if about:
        return about
    if folder.exists():
        shutil.rmtree(folder)  # of a start that was stopped
    parts = split(spec, side, most)
    classes = parts.source.classes
    unreadable = 0
    numbers = {}
    for name, indices in ((TRAIN, parts.train), (CHOOSE, parts.choose)):
        images, kept = _read(parts.source, indices, side)
        unreadable += len(indices) - len(kept)
        numbers[name] = len(kept)
        _write(folder / name, images, np.asarray(parts.source.labels)[kept], kept, classes)
    images, kept = _read(parts.held_out, parts.test, side)
    unreadable += len(parts.test) - len(kept)
    labels = np.asarray(parts.held_out.labels)[kept]
    if unreadable > sum(map(len, (parts.train, parts.choose, parts.test))) // 10:
        raise UsageError(
            f"{unreadable} of the pictures of {parts.source.name} cannot be read. `nsneg prepare "
            "check FOLDER` lists them; replace them, or remove their files."
        )
    if len(np.unique(labels)) < 2:
        raise UsageError(
            f"The test pictures of {parts.held_out.name} that can be read have one class only. Add "
            "some of other classes."
        )
    for name, version in versions(images, labels).items():
        _write(folder / name, version, labels, kept, classes)
    about = {
        "data": spec,
        "side": side,
        "classes": list(classes),
        **numbers,
        "test": len(kept),
        "unreadable": unreadable,
        "held_out": "a fifth" if parts.held_out is parts.source else "a split of its own",
    }
    write_json(folder / ABOUT, about)
    return about


def _splits(spec: str) -> tuple[str, str]:
    """Returns the splits to train and to test on; '' for none to test on."""
    scheme, _, root = spec.partition(":")
    if not is_files(spec):
        return TRAIN, "test"
    if scheme not in ("folder", "arrayrecord"):
        return TRAIN, ""
    names = storage.folders(root) if storage.is_folder(root) else ()
    there = {name.lower(): name for name in names}
    training = next((there[name] for name in ("train", "training") if name in there), None)
    if training is None or not set(there) <= SPLITS:
        return TRAIN, ""
    return training, next((there[name] for name in _VALIDATION if name in there), "")


def _by_class(source: Source) -> dict[str, np.ndarray]:
    """Returns indices by class, in an order that the pictures' names decide."""
    labels = np.asarray(source.labels)
    names = source.path if has_files(source) else str
    found = {}
    for label, name in enumerate(source.classes):
        own = np.flatnonzero(labels == label)
        keys = [hashlib.sha256(os.fsencode(names(int(index)))).digest() for index in own]
        order = sorted(range(len(own)), key=keys.__getitem__)
        found[name] = own[order]
    return found


def _shared(by_class: Sequence[np.ndarray], most: int) -> np.ndarray:
    """Returns the first pictures of each class, the same share of each, about `most` in all."""
    total = sum(map(len, by_class))
    share = min(1.0, most / max(total, 1))
    return np.concatenate([found[: max(1, round(share * len(found)))] for found in by_class])


def _read(source: Source, indices: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads pictures as squares; returns them, and the indices of those that can be read."""

    def one(index: int) -> np.ndarray | None:
        try:
            return central_view(source.image(index), side, side)
        except UnreadableImage:
            return None

    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(one, map(int, indices)))
    kept = [index for index, image in zip(indices, found, strict=True) if image is not None]
    images = [image for image in found if image is not None]
    if not images:
        raise UsageError(f"None of {len(found)} pictures of {source.name} can be read.")
    return np.stack(images), np.array(kept, np.int64)


def _write(
    folder: Path,
    images: np.ndarray,
    labels: np.ndarray,
    indices: np.ndarray,
    classes: Sequence[str],
) -> None:
    for label in np.unique(labels):
        inside(folder, classes[label]).mkdir(parents=True, exist_ok=True)
    for image, label, index in zip(images, labels, indices, strict=True):
        path = inside(folder, classes[label]) / f"{index:07d}.png"
        Image.fromarray(image).save(path, compress_level=1)
