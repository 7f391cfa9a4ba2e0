"""A network as pure functions of plain pytrees."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
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
        network = self._network(params, stats)
        batch = {"groups": groups, "passes": passes} if stats else {}
        with jax.default_matmul_precision(self.precision):
            embeddings = network(images, **batch)
        return embeddings, nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))

    def trained_features(
        self, params: Tree, stats: Tree, images: jax.Array, groups: int | None
    ) -> tuple[jax.Array, Tree]:
        """Returns pooled features [N, num_features] in training mode and the updated statistics.

        Takes the arguments of `__call__`; with `groups=None` statistics are used and stay.
        """
        network = self._network(params, stats)
        batch = {"groups": groups} if stats else {}
        with jax.default_matmul_precision(self.precision):
            features = network.features(images, **batch)
        return features, nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))

    def embed_passes(
        self, params: Tree, stats: Tree, images: jax.Array, groups: int | None, merge: bool
    ) -> tuple[jax.Array, Tree]:
        """Embeds several images per sample, each in a forward pass of its own.

        Args:
            params, stats, groups: as in `__call__`.
            images: [N, P, H, W, 3], normalised.
            merge: whether the P passes are one call of N * P images: same mathematics, more memory.

        Returns:
            Embeddings [N, P, dim] and the running statistics after all passes.
        """
        n, passes = images.shape[:2]
        if merge:
            # Sample by sample, not pass by pass, so that a sharded batch axis stays in place.
            flat = images.reshape(n * passes, *images.shape[2:])
            embeddings, stats = self(params, stats, flat, groups, passes)
            return embeddings.reshape(n, passes, -1), stats
        by_pass = []
        for p in range(passes):
            embedding, stats = self(params, stats, images[:, p], groups)
            by_pass.append(embedding)
        return jnp.stack(by_pass, axis=1), stats

    def features(self, params: Tree, stats: Tree, images: jax.Array) -> jax.Array:
        """Returns pooled features [N, num_features] in inference mode, of images [N, H, W, 3]."""
        with jax.default_matmul_precision(self.precision):
            return self._network(params, stats).features(images)

    def statistics(self, params: Tree, stats: Tree) -> Tree:
        """Returns what batch norm updates: `stats`, arrays or shapes, without `Frozen` values."""
        network = nnx.merge(self.graphdef, params, stats)
        _, *parts = nnx.split(network, nnx.Param, Frozen, nnx.BatchStat)
        return nnx.to_pure_dict(parts[-1])

    def _network(self, params: Tree, stats: Tree) -> Any:
        # Copied, because variables merged under grad must belong to this trace.
        return nnx.merge(self.graphdef, params, stats, copy=True)
