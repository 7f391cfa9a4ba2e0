"""A network as pure functions of plain pytrees."""

from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx

Tree = dict[str, Any]  # a nested dict with arrays as leaves
HEAD = "fc"  # the subtree of the parameters that embeds features; evaluation drops it

# Least precision of products of float32 numbers, best first. By default GPUs round factors to
# TensorFloat-32 (11 bits) and TPUs to bfloat16 (8 bits); 'default' lets them.
PRECISIONS = ("float32", "tensorfloat32", "default")


class Frozen(nnx.BatchStat[jax.Array]):
    """A value that nothing trains; it goes wherever running statistics go.

    As no parameter it has no gradient, no weight decay and no place in an optimiser's state,
    whatever the optimiser.
    """


@dataclass(frozen=True)
class Encoder:
    """The structure of a network; every call takes its parameters and statistics.

    `precision` is the least precision of products of float32 numbers, see `PRECISIONS`.
    """

    graphdef: nnx.GraphDef[Any]
    precision: str = "float32"

    def __call__(
        self, params: Tree, stats: Tree, images: jax.Array, groups: int | None, passes: int = 1
    ) -> tuple[jax.Array, Tree]:
        """Returns embeddings [N * passes, dim] in training mode and the updated statistics.

        Args:
            params, stats: parameters and running statistics, with `Frozen` values among the latter;
                a network with neither batch norm nor these has empty `stats`.
            images: [N * passes, H, W, 3], normalised.
            groups, passes: as in `GroupedBatchNorm`; a network without batch norm ignores them.
        """
        # Copied, because variables merged under grad must belong to this trace.
        network = nnx.merge(self.graphdef, params, stats, copy=True)
        batch = {"groups": groups, "passes": passes} if stats else {}
        with jax.default_matmul_precision(self.precision):
            embeddings = network(images, **batch)
        return embeddings, nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))

    def features(self, params: Tree, stats: Tree, images: jax.Array) -> jax.Array:
        """Returns pooled features [N, num_features] in inference mode, of images [N, H, W, 3]."""
        with jax.default_matmul_precision(self.precision):
            return nnx.merge(self.graphdef, params, stats, copy=True).features(images)

    def statistics(self, params: Tree, stats: Tree) -> Tree:
        """Returns what batch norm updates: `stats`, arrays or shapes, without `Frozen` values."""
        network = nnx.merge(self.graphdef, params, stats)
        _, *parts = nnx.split(network, nnx.Param, Frozen, nnx.BatchStat)
        return nnx.to_pure_dict(parts[-1])
