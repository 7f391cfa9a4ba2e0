"""Makes networks by name, and registers new ones."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nsneg_jax.errors import UsageError
from nsneg_jax.models import heads, resnet
from nsneg_jax.models.encoder import Encoder, Tree
from nsneg_jax.models.transformers import vit
from nsneg_jax.registry import Registry

Factory = Callable[..., nnx.Module]

NETWORKS: Registry[Factory] = Registry(
    "network",
    {
        **{arch: partial(resnet.ResNet, arch) for arch in resnet.ARCHS},
        **{arch: partial(vit.ViT, arch) for arch in vit.ARCHS},
    },
)

# Fields of every config's model section; a network ignores those it has no use for.
_COMMON = (
    *("dim", "mlp", "head", "head_hidden", "width", "stem", "bn_groups", "bn_running"),
    *("token_size", "blocks", "attention_heads", "positions", "position_grid"),
    *("token_pooling", "freeze_tokens", "remat"),
)

# Settings that leave the backbone's weights, and the features that they give, as they are.
_OF_HEAD = ("dim", "mlp", "head", "head_hidden")
_OF_TRAINING = ("bn_groups", "bn_running", "freeze_tokens", "remat")


def register(name: str, factory: Factory) -> None:
    """Registers a network under a name, which configs give as `model.arch`.

    Args:
        name: none of the package's own.
        factory: called with `dtype`, `param_dtype`, `seed` (int, seed of the initial values; None
            if only shapes are needed) and the settings that its signature names, at least `dim`.
            It returns a module with `num_features`, `features(images)` -> [N, num_features] and
            `__call__(images)` -> [N, dim]. Its head is the submodule `fc`, left out for `dim=0`.
            A network with batch norm also takes `groups` and `passes`, see `ResNet.__call__`.

    Raises:
        ValueError: the package has a network of this name.
    """
    NETWORKS.add(name, factory)


def build(arch: str, *, seed: int = 0, **settings: Any) -> tuple[Encoder, Tree, Tree]:
    """Builds a network.

    Args:
        arch: a name in `NETWORKS`.
        seed: seed of the initial values.
        settings: `dtype` of the computation, by default 'float32'; `precision` of products, see
            `PRECISIONS`; settings of the network, see `ResNet` and `ViT`.

    Returns:
        The encoder, its initial parameters and its initial running statistics, both nested dicts.
        Their dtype is float32, or float64 if `dtype` is 'float64'.

    Raises:
        UsageError: the network or one of its settings is unknown.
    """
    return _split(_network(arch, seed, settings), settings)


def structure(arch: str, **settings: Any) -> tuple[Encoder, Tree, Tree]:
    """Like `build`, with shapes and dtypes in place of initial values; takes no time."""
    # float64 settings must give float64 shapes even where JAX runs without it.
    with jax.enable_x64(True):
        network = nnx.eval_shape(lambda: _network(arch, None, settings))
    return _split(network, settings)


@dataclass(frozen=True)
class Predictor:
    """The prediction head of a method, a network that is no part of the encoder; hashable.

    Attributes:
        kind: a key of `heads.PREDICTIONS`.
        dim: length of its input and its output.
        hidden: hidden units; 0 for the published number.
        running: `running` of `GroupedBatchNorm`.
        dtype, precision: as in `build`.
        seed: seed of the initial values.
    """

    kind: str
    dim: int
    hidden: int = 0
    running: str = "first"
    dtype: str = "float32"
    precision: str = "float32"
    seed: int = 0

    @cached_property
    def network(self) -> Encoder:
        """Its structure, called like an encoder with embeddings [N * passes, dim]."""
        with jax.enable_x64(True):
            return self._parts(nnx.eval_shape(lambda: self._made(None)))[0]

    def initial(self) -> tuple[Tree, Tree]:
        """Returns initial parameters and running statistics."""
        _, params, stats = self._parts(self._made(np.random.default_rng((self.seed, 2))))
        return params, stats

    def _made(self, rng: np.random.Generator | None) -> heads.Head:
        dtype = jnp.dtype(self.dtype)
        return heads.Head(
            heads.form_of(self.kind, heads.PREDICTIONS),
            self.dim,
            self.dim,
            hidden=self.hidden,
            running=self.running,
            rng=rng,
            dtype=dtype,
            param_dtype=jnp.promote_types(dtype, jnp.float32),
        )

    def _parts(self, network: nnx.Module) -> tuple[Encoder, Tree, Tree]:
        return _split(network, {"precision": self.precision})


def has_batch_norm(arch: str, **settings: Any) -> bool:
    """Returns whether a network with these settings has statistics of batches."""
    encoder, *trees = structure(arch, **settings)
    return bool(jax.tree.leaves(encoder.statistics(*trees)))


def backbone_settings(arch: str, **settings: Any) -> dict[str, Any]:
    """Returns the settings that networks must share for one to take the other's backbone.

    Args:
        arch: a name in `NETWORKS`.
        settings: settings of the network; others are ignored.

    Returns:
        Those of `settings` that decide the backbone's weights and the features that they give, with
        the numbers that stand for a ViT's zeros.
    """
    free = (*_OF_HEAD, *_OF_TRAINING)
    own = {
        name: settings[name]
        for name in _settings_of(NETWORKS[arch])
        if name in settings and name not in free
    }
    if arch not in vit.ARCHS:
        return own
    _, of_arch, blocks = vit.ARCHS[arch]
    for name, published in (("attention_heads", of_arch), ("blocks", blocks)):
        if name in own:
            own[name] = own[name] or published
    if own.get("positions") == "sincos":  # the grid means nothing then
        own.pop("position_grid", None)
    return own


def _split(network: nnx.Module, settings: dict[str, Any]) -> tuple[Encoder, Tree, Tree]:
    graphdef, params, *others = nnx.split(network, nnx.Param, nnx.BatchStat)
    encoder = Encoder(graphdef, settings.get("precision", "float32"))
    return encoder, nnx.to_pure_dict(params), nnx.to_pure_dict(others[0])


def _network(arch: str, seed: int | None, settings: dict[str, Any]) -> nnx.Module:
    if arch not in NETWORKS:
        raise UsageError(f"There is no network {arch!r}. Choose one of {', '.join(NETWORKS)}.")
    factory = NETWORKS[arch]
    dtype = jnp.dtype(settings.get("dtype", "float32"))
    known = _settings_of(factory)
    own = {k: v for k, v in settings.items() if k not in ("dtype", "precision")}
    unknown = [name for name in own if name not in known and name not in _COMMON]
    if unknown:
        raise UsageError(
            f"The network {arch!r} has no setting {unknown[0]!r}. Its settings are "
            f"{', '.join(known)}."
        )
    return factory(
        **{name: value for name, value in own.items() if name in known},
        dtype=dtype,
        param_dtype=jnp.promote_types(dtype, jnp.float32),
        seed=seed,
    )


def _settings_of(factory: Factory) -> list[str]:
    """Returns the names of the settings that a factory takes."""
    function = factory.func if isinstance(factory, partial) else factory
    if inspect.isclass(function):
        function = function.__init__  # modules hide their signature
    named = inspect.signature(function).parameters.values()
    reserved = ("self", "seed", "dtype", "param_dtype", "arch")
    return [p.name for p in named if p.name not in reserved]
