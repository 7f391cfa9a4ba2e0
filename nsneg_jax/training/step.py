"""Compiles a method's step into one program over the devices, and describes its inputs."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from nsneg_jax.input.shuffle import ShuffleOrders
from nsneg_jax.methods.batches import SHUFFLE, ViewMaker
from nsneg_jax.methods.method import Method, Metrics
from nsneg_jax.methods.shuffling import Batch
from nsneg_jax.parallel import mesh


@dataclass(frozen=True)
class Placement:
    """How a run places its arrays. It changes no result, so a resumed run may change it.

    Attributes:
        share_queue: whether the rows of the queue are split over the devices, not replicated.
        share_optimizer: whether the arrays of the optimiser's state are split over the devices
            (stage 1 of ZeRO, Rajbhandari et al. 2020).
        arranged: whether each process loads key crops and the sources of negatives in the orders of
            shuffling BN, so that the devices need not exchange them.
    """

    share_queue: bool = False
    share_optimizer: bool = False
    arranged: bool = False


def compile_step(
    method: Method, devices: Mesh, placement: Placement = Placement(), like: Any = None
) -> jax.stages.Wrapped:
    """Compiles `method.step` into one program over the devices.

    Args:
        method: the method.
        devices: the devices.
        placement: how the arrays are placed.
        like: state of the method, or its shapes; needed if the optimiser's state is split.

    Returns:
        A function of state and batch that returns the next state and scalar metrics. It donates
        the state, so the caller must not use that state again.
    """
    state = state_sharding(method, devices, placement, like)

    def train_step(state: Any, batch: Batch) -> tuple[Any, Metrics]:
        with jax.sharding.use_abstract_mesh(devices.abstract_mesh):
            return method.step(state, batch, placement.arranged)

    return jax.jit(
        train_step,
        in_shardings=(state, mesh.split_batch(devices)),
        out_shardings=(state, mesh.replicated(devices)),
        donate_argnums=0,
    )


def state_sharding(
    method: Method, devices: Mesh, placement: Placement = Placement(), like: Any = None
) -> Any:
    """Returns the sharding of the state: its dataclass with one sharding per field.

    A split optimiser's state has one per array. For the arguments see `compile_step`.
    """
    whole, split = mesh.replicated(devices), mesh.split_batch(devices)
    shared = method.queue_fields if placement.share_queue else ()
    names = [field.name for field in dataclasses.fields(method.state_type)]
    of_fields: dict[str, Any] = {name: split if name in shared else whole for name in names}
    if placement.share_optimizer:
        of_fields["opt_state"] = jax.tree.map(
            lambda leaf: mesh.split_longest(devices, leaf.shape), like.opt_state
        )
    return method.state_type(**of_fields)


def abstract_batch(
    views: ViewMaker, batch_size: int, size: int, placement: Placement = Placement()
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns shapes and dtypes of a step's batch: uint8 crops of `size` pixels, by entry."""
    batch = {}
    for name in crop_fields(views, placement):
        negatives = (views.num_negatives,) if name == "negatives" else ()
        batch[name] = jax.ShapeDtypeStruct((batch_size, *negatives, size, size, 3), jnp.uint8)
    return batch


def crop_fields(views: ViewMaker, placement: Placement = Placement()) -> tuple[str, ...]:
    """Returns the names of the entries in a step's batch."""
    if placement.arranged:
        return ("query", "key", "negatives") if views.num_negatives else ("query", "key")
    return ("query", "key", "texture") if views.reads_texture else ("query", "key")


def shuffle_orders(views: ViewMaker, batch_size: int) -> ShuffleOrders:
    """Makes the host's version of `ViewMaker.draw_orders`; both draw the same orders."""
    root = jax.random.key_data(jax.random.key(views.seed))
    high, low = (int(word) for word in root)
    return ShuffleOrders((high, low), SHUFFLE, 1 + views.num_negatives, batch_size)


def is_finite(state: Any) -> jax.Array:
    """Returns whether every parameter of the trained encoder and predictor is finite, bool []."""
    trained = (state.params_q, getattr(state, "params_p", {}))
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(trained)]).all()
