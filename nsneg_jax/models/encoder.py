"""A network as pure functions of plain pytrees."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from nsneg_jax.models.resnet import ResNet

Tree = dict  # a nested dict with arrays as leaves

# How exact products of float32 numbers are at least, best first. By default GPUs round what they
# multiply to TensorFloat-32 (11 bits) and TPUs to bfloat16 (8 bits); 'default' leaves them to it.
PRECISIONS = ("float32", "tensorfloat32", "default")


@dataclass(frozen=True)
class Encoder:
    """The structure of a network; parameters and statistics are passed to every call.

    `precision` is that of the products of float32 numbers, see `PRECISIONS`.
    """

    graphdef: nnx.GraphDef
    precision: str = "float32"

    def __call__(
        self, params: Tree, stats: Tree, images: jax.Array, groups: int, passes: int = 1
    ) -> tuple[jax.Array, Tree]:
        """Training-mode embeddings and the updated running statistics.

        Arguments as in `ResNet.__call__`.
        """
        # copy: the variables of a merge under grad must belong to this trace
        network = nnx.merge(self.graphdef, params, stats, copy=True)
        with jax.default_matmul_precision(self.precision):
            embeddings = network(images, groups=groups, passes=passes)
        return embeddings, nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))

    def features(self, params: Tree, stats: Tree, images: jax.Array) -> jax.Array:
        """Pooled features in inference mode, [N, num_features]."""
        with jax.default_matmul_precision(self.precision):
            return nnx.merge(self.graphdef, params, stats, copy=True).features(images)


def build_encoder(config: ConfigDict, seed: int) -> tuple[Encoder, Tree, Tree]:
    """Builds the network of `config.model`.

    Args:
        config: the `model` section: arch, dim, mlp, width, stem, bn_running, dtype; precision,
            where it is not to be 'float32'.
        seed: of the initialisation.

    Returns:
        The encoder, its initial parameters and its initial running statistics. They are float32
        whatever the dtype of the computation, but for 'float64'.
    """
    graphdef, params, stats = nnx.split(_network(config, seed), nnx.Param, nnx.BatchStat)
    return _encoder(graphdef, config), nnx.to_pure_dict(params), nnx.to_pure_dict(stats)


def encoder_structure(config: ConfigDict) -> tuple[Encoder, Tree, Tree]:
    """As `build_encoder`, with shapes and dtypes in place of initial values: takes no time."""
    # the dtypes are what the config says whatever JAX is set to
    with jax.enable_x64(True):
        network = nnx.eval_shape(lambda: _network(config, seed=None))
    graphdef, params, stats = nnx.split(network, nnx.Param, nnx.BatchStat)
    return _encoder(graphdef, config), nnx.to_pure_dict(params), nnx.to_pure_dict(stats)


def _encoder(graphdef: nnx.GraphDef, config: ConfigDict) -> Encoder:
    return Encoder(graphdef, config.get("precision", "float32"))


def _network(config: ConfigDict, seed: int | None) -> ResNet:
    dtype = jnp.dtype(config.dtype)
    return ResNet(
        config.arch,
        dim=config.dim,
        mlp=config.mlp,
        width=config.width,
        stem=config.stem,
        running=config.bn_running,
        dtype=dtype,
        param_dtype=jnp.promote_types(dtype, jnp.float32),
        seed=seed,
    )
