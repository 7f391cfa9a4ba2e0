"""Which classes of a data set are taken, and how its images are numbered by them."""

from collections.abc import Sequence

import numpy as np

from nsneg_jax.errors import UsageError


def wanted(
    where: str, found: Sequence[str], classes: Sequence[str] | None, partial: bool
) -> tuple[str, ...]:
    """The classes that a source's labels are indices into.

    Args:
        where: the place that has the classes, for the message.
        found: names of the classes there, sorted.
        classes, partial: as of `Folder`.

    Raises:
        UsageError: some of `classes` are not there, unless `partial`, or none is asked for.
    """
    if partial:
        return _of_classifier(classes)
    return tuple(found) if classes is None else _chosen(where, found, classes)


def _chosen(where: str, found: Sequence[str], classes: Sequence[str]) -> tuple[str, ...]:
    """`classes` sorted, once each.

    Args:
        where: the place that has the classes, for the message.
        found: names of the classes there.
        classes: those asked for.

    Raises:
        UsageError: some are not there, or none is asked for.
    """
    missing = sorted(set(classes) - set(found))
    if missing or not classes:
        raise UsageError(
            f"{len(missing)} of the {len(classes)} classes asked for are not in {where}: "
            f"{some(missing) or 'the choice is empty'}. Classes there: {some(found)}. "
            "Correct data.classes, or add the classes."
        )
    return tuple(sorted(set(classes)))


def _of_classifier(classes: Sequence[str] | None) -> tuple[str, ...]:
    """The classes that the labels of a `partial` source are indices into."""
    if not classes or len(set(classes)) < len(classes):
        raise ValueError(f"a partial source needs different classes to index, not {classes}")
    return tuple(classes)


def some(names: Sequence[str], most: int = 8) -> str:
    """The first names, and how many more there are."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


class Choice:
    """The records of a set of labelled images that belong to the classes wanted.

    They are ordered as a folder's images are: by class, then by path.

    Args:
        where: the set, for messages.
        names: of its classes, by label.
        labels: int [n] of its records; a negative label is none.
        paths: of its records, 'CLASS/NAME'.
        classes, partial: as of `Folder`. Without `classes` all names are classes, those without an
            image too.

    Attributes:
        classes: names of the classes.
        records: int64, which records are taken, in order.
        labels: int32 of those, indices into `classes`.
        present: int32, indices of the classes with images, ascending.

    Raises:
        UsageError: a class asked for is not there or has no image, or there is no image at all.
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
        # the last entry is for records without a label
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
