"""One pass of classifiers over labelled images, each image counted once."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from nsneg_jax.errors import UsageError
from nsneg_jax.input import labelled
from nsneg_jax.input.pipeline import prefetch_to_devices
from nsneg_jax.input.sources.source import Source, open_source
from nsneg_jax.methods import probe
from nsneg_jax.models.encoder import Tree
from nsneg_jax.parallel import hosts, mesh
from nsneg_jax.training.metrics import Progress


def open_split(data: ConfigDict, split: str) -> Source:
    """A split of the data set of a config's `data` section, the same on all processes.

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
    hosts.agree_on_files(source)
    return source


def check_same_classes(training: Source, validation: Source) -> None:
    """Raises UsageError where two splits would number their labels differently."""
    if training.classes != validation.classes:
        only = sorted(set(training.classes) ^ set(validation.classes))
        raise UsageError(
            f"{training.name} and {validation.name} have not the same classes: "
            f"{', '.join(only[:8])} {'...' if len(only) > 8 else ''} in one of them only. Complete "
            "the folders, or choose classes that both have with --config.data.classes."
        )


def central_batches(
    data: ConfigDict,
    batch_size: int,
    source: Source,
    devices: Mesh,
    *,
    resize: int | None = None,
    fields: Sequence[str] = labelled.FIELDS,
    skip_unreadable: bool = False,
) -> Iterator[dict[str, jax.Array]]:
    """The batches of one pass over `source` on the devices, see `labelled.evaluation_batches`.

    Args:
        data: a config's `data` section.
        batch_size: over all devices.
        source: of the images.
        devices: the batch is split over them.
        resize: for views of 224 px, scaled to others; None takes that of `data`.
        fields: entries of a batch that are wanted.
        skip_unreadable: leave out images that cannot be read.
    """
    short = data.resize if resize is None else resize
    batches = labelled.evaluation_batches(
        source,
        batch_size=batch_size,
        image_size=data.image_size,
        resize=labelled.scaled_resize(short, data.image_size),
        threads=data.threads,
        workers=data.workers,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        skip_unreadable=skip_unreadable,
    )
    return prefetch_to_devices(batches, mesh.split_batch(devices), fields)


def one_late(running: Iterable[Tree]) -> Iterator[Tree]:
    """What the devices compute, on the host: each result when they have the next one to do."""
    pending = None
    for result in running:
        if pending is not None:
            yield jax.device_get(pending)
        pending = result
    if pending is not None:
        yield jax.device_get(pending)


class Evaluation:
    """Classifiers on a source, in a program compiled once.

    Args:
        method: the probe's networks.
        data: a config's `data` section.
        batch_size: over all devices.
        source: of the images.
        devices: the batch is split over them.
    """

    def __init__(
        self,
        method: probe.Probe,
        data: ConfigDict,
        batch_size: int,
        source: Source,
        devices: Mesh,
    ) -> None:
        self._whole = mesh.replicated(devices)
        self._step = compile_evaluation_step(method, devices)
        self._batches = partial(central_batches, data, batch_size, source, devices)
        self._total = labelled.steps_per_pass(len(source), batch_size)
        self._is_compiled = False

    def __call__(self, backbone: Tree, classifier: Tree) -> probe.Sums:
        """The sums over all images, as NumPy arrays; arguments as in `probe.ProbeState`."""
        rates = len(classifier["bias"])
        sums = mesh.put(probe.zero_sums(rates, classifier["bias"].dtype), self._whole)
        with Progress(self._total, 0, unit="batch") as display:
            if not self._is_compiled:
                display.compiling("the evaluation")
            for done, batch in enumerate(self._batches(), 1):
                sums = self._step(backbone, classifier, sums, batch)
                if not self._is_compiled:
                    jax.block_until_ready(sums)
                    display.first("batch")
                    self._is_compiled = True
                display.advance(done)
                if display.is_due():
                    display.show(done, "of the evaluation")
        return jax.device_get(sums)


def compile_evaluation_step(method: probe.Probe, devices: Mesh) -> Callable:
    """`probe.evaluation_step` over the devices."""
    whole, split = mesh.replicated(devices), mesh.split_batch(devices)
    return jax.jit(
        partial(probe.evaluation_step, method),
        in_shardings=(whole, whole, whole, split),
        out_shardings=whole,
    )


def means(sums: probe.Sums) -> dict[str, list[float]]:
    """Loss and accuracies in percent of each classifier."""
    sums = jax.device_get(sums)
    images = max(int(sums["images"]), 1)
    return {
        "loss": (np.asarray(sums["loss"], float) / images).tolist(),
        "accuracy_top1": (100 * np.asarray(sums["top1"], float) / images).tolist(),
        "accuracy_top5": (100 * np.asarray(sums["top5"], float) / images).tolist(),
    }
