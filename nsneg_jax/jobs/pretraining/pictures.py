"""Pictures of what a pre-training sees: views and negatives of its first images."""

from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp

from nsneg_jax.methods.batches import ViewMaker
from nsneg_jax.methods.shuffling import Batch
from nsneg_jax.report.pictures import save_views
from nsneg_jax.training.step import Placement
from nsneg_jax.training.workdir import VIEWS

_SAMPLES = 8


def with_pictures(
    batches: Iterator[Batch],
    make_views: ViewMaker,
    placement: Placement,
    read: Callable[[Placement, int, int], Iterator[Batch]],
    workdir: Path,
    drawn: Callable[[Path], None],
) -> Iterator[Batch]:
    """Yields batches; before the first one, writes a grid of its views.

    Args:
        batches: the batches of the training.
        make_views: makes views of a batch.
        placement: how crops are placed.
        read: reads batches of another placement.
        workdir: folder of the run.
        drawn: called with the picture's path in process 0.
    """
    for step, batch in enumerate(batches):
        if step == 0:
            pictured = batch
            if placement.arranged:  # one place then holds crops of different samples
                pictured = next(read(Placement(), 0, 1))
            crops = {name: crop for name, crop in pictured.items() if name != "replaced"}
            if jax.process_index() == 0:
                _save_first_views(make_views, crops, workdir / VIEWS)
                drawn(workdir / VIEWS)
        yield batch


def _save_first_views(make_views: ViewMaker, batch: Batch, path: Path) -> None:
    # Process 0 holds the first places of the global batch, so a short batch gets the same draws.
    first = {
        name: jnp.asarray(crops.addressable_shards[0].data[:_SAMPLES])
        for name, crops in batch.items()
    }
    views = jax.jit(make_views)(0, first)
    save_views(jax.device_get(views), path, make_views.names)
