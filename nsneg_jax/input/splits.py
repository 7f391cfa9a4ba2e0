"""Opens the splits of a data set, and checks that processes and splits agree."""

from collections.abc import Sequence
from typing import Protocol

from nsneg_jax.errors import UsageError, printable
from nsneg_jax.input.sources.classes import MEND_CLASSES
from nsneg_jax.input.sources.folders.layout import HOLD_OUT
from nsneg_jax.input.sources.identity import fingerprint
from nsneg_jax.input.sources.protocol import Source, has_classes, has_files
from nsneg_jax.input.sources.source import open_files, open_source
from nsneg_jax.parallel import hosts


class DataSet(Protocol):
    """The images of a job; see `open_source` for the values.

    Attributes:
        source: name of the data set.
        classes: classes to use; '' uses all.
        image_size: side in pixels of generated images.
        tfds_dir: folder of TFDS data sets.
        labels: file with the classes of images in folders; '' for none.
    """

    @property
    def source(self) -> str: ...

    @property
    def classes(self) -> str: ...

    @property
    def image_size(self) -> int: ...

    @property
    def tfds_dir(self) -> str: ...

    @property
    def labels(self) -> str: ...


def open_split(data: DataSet, split: str) -> Source:
    """Opens a split of a data set, the same on all processes.

    Raises:
        UsageError: the split cannot be used, or differs between processes.
    """
    source = open_source(
        data.source,
        split,
        image_size=data.image_size,
        classes=data.classes,
        tfds_dir=data.tfds_dir,
        labels=data.labels,
    )
    agree_on_files(source)
    return source


def open_labelled(data: DataSet, split: str, purpose: str) -> Source:
    """Does `open_split` for a job that needs labels.

    Args:
        data, split: see `open_split`.
        purpose: what the labels are for, as the subject of "needs": "A linear probe".

    Raises:
        UsageError: the split cannot be used, or its images have no classes.
    """
    source = open_split(data, split)
    if not tells_apart(source):
        raise UsageError(f"{purpose} needs labels, but {without_classes(source)}. {MEND_CLASSES}")
    return source


def open_partial(data: DataSet, split: str, classes: Sequence[str]) -> Source:
    """Opens a split of image files with the labels of a classifier that has more classes.

    Args:
        data, split: see `open_split`.
        classes: the classifier's classes, in the order of its outputs.

    Raises:
        UsageError: the split cannot be used, or differs between processes.
    """
    source = open_files(
        data.source, split, classes, partial=True, tfds_dir=data.tfds_dir, labels=data.labels
    )
    agree_on_files(source)
    return source


def tells_apart(source: Source) -> bool:
    """Returns whether the images of a source have labels, of more than one class."""
    return len(source.classes) > 1


def without_classes(source: Source) -> str:
    """Says that a source has no classes, or only one, as a clause."""
    if not has_classes(source):
        return f"{source.name} has no classes"
    return f"{source.name} has only the class {source.classes[0]!r}"


def agree_on_files(source: Source) -> None:
    """Checks by `hosts.agree` that all processes see the same files in a source."""
    if hosts.are_several():
        hosts.agree(f"files in {source.name}", fingerprint(source), hosts.SAME_DATA)


def check_pair(training: Source, validation: Source) -> None:
    """Checks a training and a validation split.

    Raises:
        UsageError: they would number their labels differently, or have images in common.
    """
    check_classes(training, validation)
    _check_disjoint(training, validation)


def check_classes(one: Source, other: Source) -> None:
    """Raises UsageError if two splits would number their labels differently."""
    if one.classes != other.classes:
        only = sorted(set(one.classes) ^ set(other.classes))
        raise UsageError(
            f"{one.name} and {other.name} have different classes: "
            f"{', '.join(only[:8])} {'...' if len(only) > 8 else ''} in one of them only. Complete "
            "the folders, or choose classes that both have with --config.data.classes."
        )


def _check_disjoint(training: Source, validation: Source) -> None:
    if not has_files(training) or not has_files(validation):
        return
    # The training split may have a million paths; only the others are kept.
    places = {validation.location(index) for index in range(len(validation))}
    others = (training.location(index) for index in range(len(training)))
    shared = [place for place in others if place in places]
    if shared:
        raise UsageError(
            f"{len(shared):,} of the {len(validation):,} images of {validation.name} are also in "
            f"{training.name}, such as {printable(shared[0])}, so the accuracy would be that on "
            f"training images. {HOLD_OUT}"
        )
