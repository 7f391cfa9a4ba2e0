"""What is measured of the encoder during a pre-training, on which images and when."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from jax.sharding import Mesh
from ml_collections import ConfigDict

from nsneg_jax.errors import UsageError
from nsneg_jax.evaluation.monitoring.monitor import Monitor, some_of
from nsneg_jax.evaluation.monitoring.spread import RANKME_IMAGES
from nsneg_jax.input.samples import Unreadable
from nsneg_jax.input.sources.derived import Derived
from nsneg_jax.input.sources.protocol import FileSource, Source
from nsneg_jax.input.splits import check_pair, open_split, tells_apart, without_classes
from nsneg_jax.jobs.frozen import reading_of
from nsneg_jax.models.encoder import Encoder

UNASKED = -1  # of `knn_every_epochs`
_EVERY = 10  # epochs, unasked
# Training images that vote and are fitted, unasked: all of ImageNet-100, whose features of a
# ResNet-50 take 1 GB of each process.
_MOST_VOTING = 2**17


@dataclass(frozen=True)
class Measured:
    """The images that are measured, and when.

    Attributes:
        bank: images with labels that vote and are fitted; None without labels.
        queries: images that are classified, or whose features alone are measured.
        note: why there is no accuracy, as a sentence; '' if there is.
        every: steps between measurements.
        last: step of a measurement besides, the end of the schedule.
    """

    bank: Source | None
    queries: Source
    note: str
    every: int
    last: int

    def is_due(self, done: int) -> bool:
        """Returns whether to measure after step `done`.

        It does not depend on where a start stops, so that a run that resumes leaves the same lines.
        """
        return done % self.every == 0 or done == self.last

    @property
    def names(self) -> str:
        """What is measured, for the user."""
        return "kNN, linear probe and rank" if self.bank is not None else "rank of the features"


def open_measured(config: ConfigDict, images: Source, steps_per_epoch: int) -> Measured | None:
    """Opens the images that are measured.

    Args:
        config: config of a pre-training job.
        images: the training images.
        steps_per_epoch: steps per epoch.

    Returns:
        What is measured; None with `knn_every_epochs` 0. Without labels only the rank is, of
        training images.

    Raises:
        UsageError: `data.eval_split` is missing, or does not fit the training images. With
            `knn_every_epochs` -1 the note says so instead.
    """
    asked = config.knn_every_epochs
    if not asked:
        return None
    every = (_EVERY if asked == UNASKED else asked) * steps_per_epoch
    last = config.epochs * steps_per_epoch
    if not tells_apart(images):
        note = f"kNN and probe are left out, because {without_classes(images)}."
        return Measured(None, _part(images, RANKME_IMAGES), note, every, last)
    try:
        queries = open_split(config.data, config.data.eval_split)
        if tells_apart(queries):
            check_pair(images, queries)
    except UsageError as error:
        if asked != UNASKED:
            raise
        note = f"kNN and probe are left out: {error} --config.knn_every_epochs=0 measures nothing."
        return Measured(None, _part(images, RANKME_IMAGES), note, every, last)
    if not tells_apart(queries):
        note = f"kNN and probe are left out, because {without_classes(queries)}."
        return Measured(None, _part(queries, RANKME_IMAGES), note, every, last)
    bank = images if asked != UNASKED else _part(images, _MOST_VOTING)
    return Measured(bank, queries, "", every, last)


def monitor(
    config: ConfigDict,
    measured: Measured,
    encoder: Encoder,
    devices: Mesh,
    on_unreadable: Callable[[Unreadable], None],
) -> Monitor:
    """Makes the monitor of a pre-training.

    Args:
        config: config of the job.
        measured: the images.
        encoder: the network.
        devices: devices to split the work over.
        on_unreadable: called for each image that cannot be read; it is left out.
    """
    return Monitor(
        encoder,
        measured.bank,
        measured.queries,
        reading_of(config),
        config.model.dtype,
        devices,
        on_unreadable,
    )


def _part(images: Source, most: int) -> Source:
    """Returns at most `most` of some images, see `some_of`."""
    if len(images) <= most:
        return images
    # Only what a `Source` has is used of it.
    return Derived(cast(FileSource, images), some_of(len(images), most))
