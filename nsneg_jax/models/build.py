"""Networks by name."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from nsneg_jax.errors import UsageError
from nsneg_jax.models.encoder import Encoder, Tree
from nsneg_jax.models.resnet import ARCHS, ResNet
from nsneg_jax.registry import Registry

Factory = Callable[..., nnx.Module]

NETWORKS: Registry[Factory] = Registry("network", {arch: partial(ResNet, arch) for arch in ARCHS})

# fields of every config's model section, which not every network has a use for
_COMMON = ("dim", "mlp", "width", "stem", "bn_groups", "bn_running")


def register(name: str, factory: Factory) -> None:
    """Makes a network known under a name, that configs give as `model.arch`.

    Args:
        name: none of the package's own.
        factory: called with `dtype` and `param_dtype`, `seed` (int, of the initial values; None
            where only shapes are asked for) and those settings that its signature names, `dim` at
            least. It returns a module with `num_features`, `features(images)`, [N, num_features],
            and `__call__(images)`, [N, dim]. `dim=0` leaves the head away, a submodule `fc`. A
            network with batch norm takes `groups` and `passes` besides, see `ResNet.__call__`.

    Raises:
        ValueError: the package has a network of this name.
    """
    NETWORKS.add(name, factory)


def build(arch: str, *, seed: int = 0, **settings: Any) -> tuple[Encoder, Tree, Tree]:
    """Builds a network.

    Args:
        arch: a name in `NETWORKS`.
        seed: of the initial values.
        settings: `dtype` of the computation, by default 'float32'; `precision` of products, see
            `PRECISIONS`; the others are the network's, see `ResNet`.

    Returns:
        The encoder, its initial parameters and its initial running statistics, nested dicts. They
        are float32 whatever the dtype of the computation, but for 'float64'.

    Raises:
        UsageError: the network, or a setting of it, is not known.
    """
    return _split(_network(arch, seed, settings), settings)


def structure(arch: str, **settings: Any) -> tuple[Encoder, Tree, Tree]:
    """As `build`, with shapes and dtypes in place of initial values: takes no time."""
    # the dtypes are what the settings say whatever JAX is set to
    with jax.enable_x64(True):
        network = nnx.eval_shape(lambda: _network(arch, None, settings))
    return _split(network, settings)


def _split(network: nnx.Module, settings: dict[str, Any]) -> tuple[Encoder, Tree, Tree]:
    graphdef, params, *others = nnx.split(network, nnx.Param, nnx.BatchStat)
    encoder = Encoder(graphdef, settings.get("precision", "float32"))
    return encoder, nnx.to_pure_dict(params), nnx.to_pure_dict(others[0])


def _network(arch: str, seed: int | None, settings: dict[str, Any]) -> nnx.Module:
    if arch not in NETWORKS:
        raise UsageError(f"There is no network {arch!r}, only {', '.join(NETWORKS)}.")
    factory = NETWORKS[arch]
    dtype = jnp.dtype(settings.get("dtype", "float32"))
    known = _settings_of(factory)
    own = {k: v for k, v in settings.items() if k not in ("dtype", "precision")}
    unknown = [name for name in own if name not in known and name not in _COMMON]
    if unknown:
        raise UsageError(
            f"The network {arch!r} has no setting {unknown[0]!r}, only {', '.join(known)}."
        )
    return factory(
        **{name: value for name, value in own.items() if name in known},
        dtype=dtype,
        param_dtype=jnp.promote_types(dtype, jnp.float32),
        seed=seed,
    )


def _settings_of(factory: Factory) -> list[str]:
    """What a factory may be called with, by name."""
    function = factory.func if isinstance(factory, partial) else factory
    if inspect.isclass(function):
        function = function.__init__  # modules hide their signature
    named = inspect.signature(function).parameters.values()
    reserved = ("self", "seed", "dtype", "param_dtype", "arch")
    return [p.name for p in named if p.name not in reserved]
