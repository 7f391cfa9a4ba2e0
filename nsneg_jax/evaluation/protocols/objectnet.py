"""ObjectNet: objects at odd places, seen from odd sides (Barbu et al., NeurIPS 2019).

Its folder `mappings` says which classes of ImageNet are right for 113 of its 313 categories; the
others are left out. A red border of two pixels is cut from every picture, as its authors ask.
"""

import json
from collections.abc import Mapping, Sequence

from nsneg_jax.errors import UsageError
from nsneg_jax.evaluation.protocols.accepted import Accepted, accepted_of
from nsneg_jax.evaluation.protocols.imagenet import wnids
from nsneg_jax.input.sources import storage
from nsneg_jax.input.sources.classes import some
from nsneg_jax.input.sources.derived import Derived
from nsneg_jax.input.sources.source import open_files

BORDER = 2  # pixels on each side
_MAPPINGS = "mappings"
_FOLDERS = "folder_to_objectnet_label.json"  # label by folder
_TO_IMAGENET = "objectnet_to_imagenet_1k.json"  # ImageNet's labels by label, joined by '; '
_LABELS = "imagenet_to_label_2012_v2"  # a label of ImageNet per line
_LINES = "pytorch_to_imagenet_2012_id.json"  # line by usual index


def read_mapping(folder: str) -> dict[str, tuple[str, ...]]:
    """Reads the wnids that are right for the images of a folder, by the folder's name.

    Args:
        folder: ObjectNet's folder `mappings`.

    Raises:
        UsageError: a file is missing or has another form.
    """
    try:
        folders, to_imagenet, lines = (
            json.loads(_text(folder, name)) for name in (_FOLDERS, _TO_IMAGENET, _LINES)
        )
        texts = [line.strip() for line in _text(folder, _LABELS).splitlines() if line.strip()]
        # Lines count from 0 in some copies and from 1 in others.
        first = min(map(int, lines.values()))
        wnid_of = {texts[int(line) - first]: wnids()[int(i)] for i, line in lines.items()}
        found = {}
        for name, label in folders.items():
            if label in to_imagenet:
                found[name] = tuple(wnid_of[each] for each in to_imagenet[label].split("; "))
    except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise UsageError(
            f"ObjectNet's mapping to ImageNet's classes cannot be read from {folder}: "
            f"{type(error).__name__}: {error}. Unpack objectnet-1.0.zip with its folder "
            f"{_MAPPINGS}, which has {_FOLDERS}, {_TO_IMAGENET}, {_LABELS} and {_LINES}."
        ) from error
    return found


def open_objectnet(
    root: str, split: str, classes: Sequence[str], border: int
) -> tuple[Derived, Accepted]:
    """Opens the images of categories that share a class with the classifier.

    Args:
        root: ObjectNet's folder, local or in a store, with `mappings` in it.
        split: folder in it that has a folder per category.
        classes: wnids of the classifier's classes.
        border: pixels to cut from each side.

    Returns:
        The images, whose classes are the names of the folders, and the classes right for each.

    Raises:
        UsageError: the images or the mapping cannot be used, or no category is shared.
    """
    ours = {wnid: index for index, wnid in enumerate(classes)}
    right = _shared(read_mapping(storage.join(root, _MAPPINGS)), ours)
    if not right:
        raise UsageError(
            f"The classifier's {len(classes)} classes ({some(classes, 3)}) share none with "
            "ObjectNet. Evaluate a classifier of ImageNet's wnids, or leave this set out."
        )
    source = open_files(f"folder:{root}", split, tuple(sorted(right)), partial=True)
    images = range(len(source))
    accepted = [right[source.classes[source.labels[image]]] for image in images]
    return Derived(source, images, border=border), accepted_of(accepted, len(classes))


def _shared(
    mapping: Mapping[str, Sequence[str]], ours: Mapping[str, int]
) -> dict[str, frozenset[int]]:
    """Returns indices of our classes by folder, without the folders that have none."""
    found = {
        name: frozenset(ours[wnid] for wnid in theirs if wnid in ours)
        for name, theirs in mapping.items()
    }
    return {name: indices for name, indices in found.items() if indices}


def _text(folder: str, name: str) -> str:
    return storage.read_bytes(storage.join(folder, name)).decode("utf-8-sig")
