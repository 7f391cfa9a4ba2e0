"""Splits of a data set as a job opens them: the same on every process, with the same classes."""

from typing import Protocol

from nsneg_jax.errors import UsageError
from nsneg_jax.input.sources.source import Source, fingerprint, open_source
from nsneg_jax.parallel import hosts


class DataSet(Protocol):
    """Where the images of a job are; see `open_source` for the values.

    Attributes:
        source: name of the data set.
        classes: restricts it to these classes.
        image_size: side in pixels of images that are drawn, not read.
        tfds_dir: where data sets of TFDS are.
    """

    @property
    def source(self) -> str: ...

    @property
    def classes(self) -> str: ...

    @property
    def image_size(self) -> int: ...

    @property
    def tfds_dir(self) -> str: ...


def open_split(data: DataSet, split: str) -> Source:
    """Opens a split of a data set, the same on all processes.

    Raises:
        UsageError: it cannot be used, or is not the same everywhere.
    """
    source = open_source(
        data.source,
        split,
        image_size=data.image_size,
        classes=data.classes,
        tfds_dir=data.tfds_dir,
    )
    agree_on_files(source)
    return source


def agree_on_files(source: Source) -> None:
    """Checks that all processes see the same files in a source, as `hosts.agree`."""
    if hosts.are_several():
        hosts.agree(f"files in {source.name}", fingerprint(source), hosts.SAME_DATA)


def check_same_classes(training: Source, validation: Source) -> None:
    """Raises UsageError where two splits would number their labels differently."""
    if training.classes != validation.classes:
        only = sorted(set(training.classes) ^ set(validation.classes))
        raise UsageError(
            f"{training.name} and {validation.name} have not the same classes: "
            f"{', '.join(only[:8])} {'...' if len(only) > 8 else ''} in one of them only. Complete "
            "the folders, or choose classes that both have with --config.data.classes."
        )
