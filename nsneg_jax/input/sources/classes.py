"""Selects the classes of a data set, and numbers its images by them."""

from collections.abc import Sequence

import numpy as np

from nsneg_jax.errors import UsageError
from nsneg_jax.input.sources.lists.class_list import advice, resolved

# The classes of a source without labels: all its images have label 0.
UNLABELLED = ("",)
MEND_CLASSES = (
    "Put the images of each class into a folder, SPLIT/CLASS/NAME.jpg, or give a file with the "
    "columns image and class by --config.data.labels=FILE (docs/data.md)."
)


def wanted(
    where: str, found: Sequence[str], classes: Sequence[str] | None, partial: bool
) -> tuple[str, ...]:
    """Returns the classes that the labels of a source index.

    Args:
        where: place of the classes, for the message.
        found: names of the classes there, sorted.
        classes, partial: see `Folder`.

    Raises:
        UsageError: some of `classes` are missing, unless `partial`, or `classes` is empty.
    """
    if partial:
        return _of_classifier(classes)
    return tuple(found) if classes is None else _chosen(where, found, classes)


def _chosen(where: str, found: Sequence[str], classes: Sequence[str]) -> tuple[str, ...]:
    """Returns `classes` sorted and without duplicates.

    Args:
        where: place of the classes, for the message.
        found: names of the classes there.
        classes: names of the requested classes.

    Raises:
        UsageError: some requested classes are missing, or none is requested.
    """
    names = resolved(classes, found)
    missing = sorted(set(names) - set(found))
    if missing or not classes:
        lines = [each for each, name in zip(classes, names, strict=True) if name in missing]
        raise UsageError(
            f"{len(missing)} of the {len(classes)} classes asked for are not in {where}: "
            f"{some(missing) or 'the choice is empty'}. Classes there: {some(found)}."
            f"{advice(lines)} Correct data.classes, or add the classes."
        )
    return tuple(sorted(set(names)))


def _of_classifier(classes: Sequence[str] | None) -> tuple[str, ...]:
    """Returns the classes that the labels of a `partial` source index."""
    if not classes or len(set(classes)) < len(classes):
        raise ValueError(f"a partial source needs different classes to index, not {classes}")
    return tuple(classes)


def some(names: Sequence[str], most: int = 8) -> str:
    """Lists the first names, and counts the rest."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


class Choice:
    """The records of a set of labelled images that belong to the requested classes.

    They are in the order of a folder's images: by class, then by path.

    Args:
        where: the set, for messages.
        names: class names by label.
        labels: int [n], labels of the records; a negative label stands for none.
        paths: paths of the records, 'CLASS/NAME'.
        classes, partial: see `Folder`. Without `classes` all names are classes, even those without
            an image.

    Attributes:
        classes: names of the classes.
        records: int64, indices of the selected records, in order.
        labels: int32, labels of the selected records, indices into `classes`.
        present: int32, indices of the classes with images, ascending.

    Raises:
        UsageError: a requested class is missing or has no image, or there is no image at all.
    """

    def __init__(
        self,
        where: str,
        names: Sequence[str],
        labels: np.ndarray,
        paths: Sequence[str],
        classes: Sequence[str] | None = None,
        partial: bool = False,
    ) -> None:
        self.classes = wanted(where, sorted(names), classes, partial)
        ours = {name: label for label, name in enumerate(self.classes)}
        # The last entry is for records without a label, whose index is -1.
        renumbered = np.array([*(ours.get(name, -1) for name in names), -1], np.int32)[labels]
        kept = sorted(np.flatnonzero(renumbered >= 0).tolist(), key=lambda i: paths[i])
        order = np.argsort(renumbered[kept], kind="stable")
        self.records = np.array(kept, np.int64)[order]
        self.labels = renumbered[self.records]
        self.present = np.unique(self.labels)
        if not len(self.records):
            raise UsageError(
                f"None of the {len(self.classes)} classes wanted has an image in {where}: "
                f"{some(self.classes)}. Classes there: {some(sorted(names))}."
            )
        if classes is not None and not partial and len(self.present) < len(self.classes):
            empty = sorted(set(self.classes) - {self.classes[label] for label in self.present})
            raise UsageError(
                f"{len(empty)} of the {len(self.classes)} classes asked for have no image in "
                f"{where}: {some(empty)}. Leave them out of data.classes."
            )
