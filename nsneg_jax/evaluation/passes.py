"""One pass of classifiers over labelled images, each image counted once."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from nsneg_jax.input import labelled
from nsneg_jax.input.crops import part_seen
from nsneg_jax.input.decode import UnreadableImage
from nsneg_jax.input.loading import Loaders, prefetch_to_devices, report
from nsneg_jax.input.samples import Unreadable
from nsneg_jax.input.sources.protocol import Source
from nsneg_jax.methods import probe
from nsneg_jax.models.encoder import Tree
from nsneg_jax.parallel import mesh
from nsneg_jax.training.progress import Progress

_LITTLE = 20  # percent of a picture that a view shows
_MOST_LOOKED_AT = 8  # unreadable images, until the size of a source's files counts as unknown


@dataclass(frozen=True)
class Reading:
    """How to read the images of a pass.

    Attributes:
        batch_size: images per batch, over all devices.
        image_size: side of a view in pixels.
        resize: shorter side before the central crop, in pixels for views of 224, scaled for others;
            224 shows square files whole, 0 crops without resizing.
        threads, workers: threads and processes for decoding, see `Loaders`.
    """

    batch_size: int
    image_size: int
    resize: int
    threads: int
    workers: int

    def loaders(self) -> Loaders:
        """Returns the threads and processes that load this process's part of a pass."""
        return Loaders(self.threads, self.workers, jax.process_index(), jax.process_count())


def view_of(source: Source, resize: int, image_size: int) -> dict[str, Any]:
    """Describes the views of a pass over a source, as plain values.

    Args:
        source: the images; the first one that can be read stands for all.
        resize, image_size: see `Reading`.

    Returns:
        'view', what is done to a picture; 'files', [width, height] of that image, and
        'seen_percent', the part of its area that its view shows, both None if none can be read.
    """
    found: dict[str, Any] = {"view": labelled.view_text(resize, image_size)}
    for index in range(min(len(source), _MOST_LOOKED_AT)):
        try:
            height, width = source.image(index).shape[:2]
        except UnreadableImage:
            continue
        short = labelled.scaled_resize(resize, image_size)
        seen = round(100 * part_seen(height, width, image_size, short), 1)
        return found | {"files": [width, height], "seen_percent": seen}
    return found | {"files": None, "seen_percent": None}


def described(view: dict[str, Any]) -> str:
    """Returns the description of `view_of` as a line."""
    if view["files"] is None:
        return view["view"]
    files = " x ".join(map(str, view["files"]))
    return f"{view['view']}: {view['seen_percent']:g} % of a picture of {files}"


def shows_little(view: dict[str, Any], resize: int) -> bool:
    """Returns whether the views of `view_of` show little of a picture for want of a resize."""
    seen = view["seen_percent"]
    return resize == 0 and seen is not None and seen < _LITTLE


def central_batches(
    reading: Reading,
    source: Source,
    devices: Mesh,
    *,
    fields: Sequence[str] = labelled.FIELDS,
    on_unreadable: Callable[[Unreadable], None] = report,
) -> Iterator[dict[str, jax.Array]]:
    """Yields the batches of one pass over `source`, on the devices; see `evaluation_batches`.

    Args:
        reading: how to read the images.
        source: the images.
        devices: devices to split the batch over.
        fields: entries of a batch to put on the devices.
        on_unreadable: called for each image that cannot be read; it is left out.
    """
    batches = labelled.evaluation_batches(
        source,
        reading.batch_size,
        reading.loaders(),
        image_size=reading.image_size,
        resize=labelled.scaled_resize(reading.resize, reading.image_size),
        on_unreadable=on_unreadable,
    )
    return prefetch_to_devices(batches, mesh.split_batch(devices), fields)


def one_late(running: Iterable[Any]) -> Iterator[Any]:
    """Fetches each result to the host once the devices have the next one to compute."""
    pending = None
    for result in running:
        if pending is not None:
            yield jax.device_get(pending)
        pending = result
    if pending is not None:
        yield jax.device_get(pending)


class Evaluation:
    """Evaluates classifiers on a source, in a program compiled once.

    Args:
        method: the probe.
        reading: how to read the images.
        source: the images.
        devices: devices to split the batch over.
        on_unreadable: called for each image that cannot be read; it is left out.
    """

    def __init__(
        self,
        method: probe.Probe,
        reading: Reading,
        source: Source,
        devices: Mesh,
        on_unreadable: Callable[[Unreadable], None] = report,
    ) -> None:
        self._whole = mesh.replicated(devices)
        self._step = compile_evaluation_step(method, devices)
        self._batches = partial(
            central_batches, reading, source, devices, on_unreadable=on_unreadable
        )
        self._total = labelled.steps_per_pass(len(source), reading.batch_size)
        self._is_compiled = False

    def __call__(self, backbone: Tree, classifier: Tree) -> probe.Sums:
        """Returns the sums over all images, NumPy arrays; arguments as in `probe.ProbeState`."""
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
                    display.refresh(done, "of the evaluation")
        return jax.device_get(sums)


def compile_evaluation_step(method: probe.Probe, devices: Mesh) -> jax.stages.Wrapped:
    """Compiles `probe.evaluation_step` for the devices."""
    whole, split = mesh.replicated(devices), mesh.split_batch(devices)
    return jax.jit(
        partial(probe.evaluation_step, method),
        in_shardings=(whole, whole, whole, split),
        out_shardings=whole,
    )


def means(sums: probe.Sums) -> dict[str, list[float]]:
    """Returns loss, and accuracies in percent, per classifier."""
    sums = jax.device_get(sums)
    images = max(int(sums["images"]), 1)
    return {
        "loss": (np.asarray(sums["loss"], float) / images).tolist(),
        "accuracy_top1": (100 * np.asarray(sums["top1"], float) / images).tolist(),
        "accuracy_top5": (100 * np.asarray(sums["top5"], float) / images).tolist(),
    }
