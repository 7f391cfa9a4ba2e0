"""Where the images of a split are in a data folder, however it is laid out."""

import os
from typing import NamedTuple

from nsneg_jax.errors import UsageError
from nsneg_jax.files import earlier_data
from nsneg_jax.input.sources import storage
from nsneg_jax.input.sources.classes import some
from nsneg_jax.input.sources.folders.names import Names

# The split that a data folder without splits is.
WHOLE = "train"
HOLD_OUT = (
    "To hold out a fifth of each class, set --config.data.split='train[:80%]' and "
    "--config.data.eval_split='train[80%:]'."
)
# Folders of these names are splits, so a folder that holds one has no images of its own.
SPLITS = frozenset(
    ("train", "training", "val", "valid", "validation", "test", "testing", "dev", "eval")
)
# Kaggle's archive of ImageNet has the splits so far down.
_KAGGLE = "ILSVRC/Data/CLS-LOC"
_MOST_LOOKED_INTO = 50


class Place(NamedTuple):
    """The folder of a split; `is_root` if that is the data folder itself."""

    folder: str
    is_root: bool


def place_of(root: str, split: str) -> Place:
    """Finds the folder of a split.

    It is ROOT/SPLIT if that is a folder. It is ROOT itself for the split '.', if ROOT has the
    split's name, and, for the split 'train', if no folder in ROOT has the name of a split.

    Args:
        root: the data folder, local or in a store.
        split: name of the split.

    Raises:
        UsageError: there is no such folder; the message names what is there.
    """
    if not storage.is_folder(root):
        raise UsageError(
            f"The data folder {root} {'is not a folder' if storage.exists(root) else 'is missing'}."
            " Give a folder of images, or the one that holds the splits, with images in "
            f"{storage.join(root, split)}/CLASS/: set --config.data.source=folder:PATH, or the "
            f"source of the test set.{earlier_data(root)}"
        )
    if split in (".", ""):
        return Place(root, True)
    folder = storage.join(root, split)
    if storage.is_folder(folder):
        return Place(folder, False)
    parent, name = _parent(root)
    if name == split:
        return Place(root, True)
    there = storage.folders(root)
    beside = name in SPLITS and storage.is_folder(storage.join(parent, split))
    below = None if beside else _below(root, there, split)
    splits_there = [each for each in there if each.lower() in SPLITS]
    if split == WHOLE and not (splits_there or beside or below):
        return Place(root, True)
    if beside or below:
        raise UsageError(
            f"The data folder {root} has no split {split!r}, but {parent if beside else below} "
            f"has: set --config.data.source=folder:{parent if beside else below}, or the source of "
            f"the test set. To use all images in {root} set the split (data.split or "
            "data.eval_split) to '.'."
        )
    here = f"The data folder {root} has no split {split!r}"
    folders = f"Folders there: {some(there) or 'none'}."
    put = f"put the images in {folder}/CLASS/"
    if splits_there:
        raise UsageError(
            f"{here}. {folders} Set the field that names it (data.split or data.eval_split) to one "
            f"of them, or to '.' for all of {root}, or {put}. {HOLD_OUT}"
        )
    raise UsageError(
        f"{here}. {folders} None is a split, so all of it is the split {WHOLE!r}. {HOLD_OUT} Or "
        f"{put}, or set the field that names it to one of these folders."
    )


def loose_image(folder: str, endings: tuple[str, ...]) -> str | None:
    """Returns the name of an image that lies directly in a folder; None if there is none.

    Args:
        folder: folder, local or in a store.
        endings: endings of images, in lower case.
    """

    def is_image(name: str) -> bool:
        return name.lower().endswith(endings) and not name.startswith(".")

    if storage.is_remote(folder):
        with storage.remote(folder) as found:
            return next((each.name for each in found.iterdir() if is_image(each.name)), None)
    with os.scandir(folder) as entries:
        images = (entry.name for entry in entries if is_image(entry.name))
        return next((name for name in images if not os.path.isdir(f"{folder}/{name}")), None)


def everything(folder: str, endings: tuple[str, ...], passed: list[str] | None = None) -> Names:
    """Returns the paths of all images below a folder, at any depth, sorted.

    Args:
        folder, endings: see `loose_image`.
        passed: gets the links that are not followed, see `files_below`.

    Raises:
        UsageError: a folder cannot be listed.
    """
    parent, name = _parent(folder) if storage.is_remote(folder) else (folder, ".")
    try:
        found = storage.files_below(parent, name, endings, passed)
        return Names.of(sorted(path[len(name) + 1 :] for path in found))
    except OSError as error:
        raise UsageError(
            f"The folder {folder} cannot be listed: {error}. Make it readable."
        ) from error


def parents(folder: str, most: int) -> list[str]:
    """Returns a folder and the nearest folders above it, `most` in all."""
    found = [folder]
    while len(found) < most:
        above = _parent(found[-1])[0]
        if above == found[-1] or above.endswith(":/"):
            break
        found.append(above)
    return found


def _parent(folder: str) -> tuple[str, str]:
    """Splits off the last name of a path; the parts make the path again by `storage.join`."""
    if storage.is_remote(folder):
        parent, _, name = folder.rstrip("/").rpartition("/")
        return parent, name
    return os.path.split(os.path.abspath(folder))


def _below(root: str, there: list[str], split: str) -> str | None:
    """Returns a folder below the data folder that has the split."""
    for name in (_KAGGLE, _KAGGLE.partition("/")[2], *there[:_MOST_LOOKED_INTO]):
        folder = storage.join(root, name)
        if storage.is_folder(storage.join(folder, split)):
            return folder
    return None
