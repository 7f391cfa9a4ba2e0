"""A network as pure functions of plain pytrees."""

from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx

Tree = dict[str, Any]  # a nested dict with arrays as leaves
HEAD = "fc"  # the subtree of the parameters that embeds features; evaluation leaves it away

# How exact products of float32 numbers are at least, best first. By default GPUs round what they
# multiply to TensorFloat-32 (11 bits) and TPUs to bfloat16 (8 bits); 'default' leaves them to it.
PRECISIONS = ("float32", "tensorfloat32", "default")


@dataclass(frozen=True)
class Encoder:
    """The structure of a network; parameters and statistics are passed to every call.

    `precision` is that of the products of float32 numbers, see `PRECISIONS`.
    """

    graphdef: nnx.GraphDef[Any]
    precision: str = "float32"

    def __call__(
        self, params: Tree, stats: Tree, images: jax.Array, groups: int | None, passes: int = 1
    ) -> tuple[jax.Array, Tree]:
        """Training-mode embeddings and the updated running statistics.

        Args:
            params, stats: of the network; `stats` of one without batch norm is empty.
            images: [N * passes, H, W, 3], normalised.
            groups, passes: as in `GroupedBatchNorm`; a network without batch norm has no use for
                them.
        """
        # copy: the variables of a merge under grad must belong to this trace
        network = nnx.merge(self.graphdef, params, stats, copy=True)
        batch = {"groups": groups, "passes": passes} if stats else {}
        with jax.default_matmul_precision(self.precision):
            embeddings = network(images, **batch)
        return embeddings, nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))

    def features(self, params: Tree, stats: Tree, images: jax.Array) -> jax.Array:
        """Pooled features in inference mode, [N, num_features]."""
        with jax.default_matmul_precision(self.precision):
            return nnx.merge(self.graphdef, params, stats, copy=True).features(images)
