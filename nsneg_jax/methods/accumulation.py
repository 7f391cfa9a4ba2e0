"""The gradient of a batch as the sum of its parts' gradients, in the memory of one part.

Where keys, targets and negatives have no gradient, the loss of a batch is the mean of the losses of
its parts, and its gradient the mean of theirs, if only batch norm joins images of a batch and each
part has whole groups of it. So this is the step of the whole batch up to the order of sums; one
part's activations are in memory at a time.

On several devices a part has equally many rows of each device, and no image moves. Each device sums
the gradients of its own rows, with a copy of the parameters; these sums meet once, after the last
part, as the gradients of an undivided batch do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from nsneg_jax.methods import shuffling
from nsneg_jax.models.encoder import Encoder, Tree

# From (trained parameters, running statistics, rows) to the mean loss of the rows, and beside it
# the statistics after them and results with as many rows, or more: see `gradient`. Rows are a tree
# of arrays that share their first axis.
LossFunction = Callable[[Any, Any, Any], tuple[jax.Array, tuple[Any, Any]]]


@dataclass(frozen=True)
class Parts:
    """How a batch is divided; hashable, so it can be static under jit.

    Attributes:
        number: parts that take turns; 1 for the whole batch at once. With batch norm, each device
            must have whole groups in each part, so that `number` times the devices divides the
            groups; a loss raises ValueError else.
        running: source of the running statistics, see `GroupedBatchNorm`.
    """

    number: int = 1
    running: Literal["first", "mean"] = "first"

    def encoder(self, encoder: Encoder) -> Encoder:
        """Returns the encoder as a loss of `gradient` must call it, with the batch's groups."""
        if self.number == 1:
            return encoder
        return _EncoderOfPart(encoder.graphdef, encoder.precision, self.number)


UNDIVIDED = Parts()


def gradient(
    loss_fn: LossFunction, trained: Any, stats: Any, rows: Any, parts: Parts, queries: int = 1
) -> tuple[Any, tuple[Any, Any]]:
    """Differentiates the mean loss of a batch with respect to the trained parameters.

    Args:
        loss_fn: the loss, see `LossFunction`; it calls networks through `Parts.encoder` alone, and
            the loss of a row depends on no other row but by batch norm.
        trained: tree of parameters; their gradients are summed in their dtype.
        stats: tree of running statistics before the step.
        rows: tree of arrays [N, ...], what each image has of its own.
        parts: how the batch is divided.
        queries: rows of the results per image; the first ones of all images come first.

    Returns:
        The gradient; statistics after the step, and the results of the whole batch in its order.
    """
    differentiate = jax.grad(loss_fn, has_aux=True)
    if parts.number == 1:
        return differentiate(trained, stats, rows)
    own, own_stats = shuffling.copies((trained, stats))

    def add_part(total: Any, part: Any) -> tuple[Any, tuple[Any, Any]]:
        gradients, after = differentiate(own, own_stats, part)
        return jax.tree.map(jnp.add, total, gradients), after

    none = jax.tree.map(jnp.zeros_like, own)
    total, (after, results) = jax.lax.scan(add_part, none, shuffling.parts(rows, parts.number))
    gradients = jax.tree.map(lambda x: x.sum(axis=0) / parts.number, total)

    def of_batch(before: jax.Array, after: jax.Array) -> jax.Array:
        """Returns statistics of the batch from those of each part on each device."""
        if parts.running == "first":
            return after[0, 0]
        # Differences, so that what is no statistic and stays equal keeps its bits.
        return before + (after - before).mean(axis=(0, 1))

    stats = jax.tree.map(of_batch, stats, after)
    return gradients, (stats, shuffling.joined(results, queries))


@dataclass(frozen=True)
class _EncoderOfPart(Encoder):
    """An encoder of the rows of a part, on each device with its copies and its whole groups."""

    parts: int = 1

    def __call__(
        self, params: Tree, stats: Tree, images: jax.Array, groups: int | None, passes: int = 1
    ) -> tuple[jax.Array, Tree]:
        shares = self.parts * shuffling.devices()
        has_batch_norm = bool(jax.tree.leaves(self.statistics(params, stats)))
        if groups and groups % shares and has_batch_norm:
            raise ValueError(f"{groups} batch-norm groups are not shared evenly by {shares} parts")
        own = groups and max(1, groups // shares)
        encode = super().__call__

        def on_device(copies: tuple[Tree, Tree], images: jax.Array) -> tuple[jax.Array, Tree]:
            return encode(*copies, images, own, passes)

        return shuffling.on_each_device(on_device)((params, stats), images)
