"""A method's step as one program over the devices, and what that program takes."""

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
    """How a run places its arrays; it changes no result, so a resumed run may change it.

    Attributes:
        share_queue: each device holds a part of the queue's rows, and not the whole.
        arranged: each process loads its key crops and what negatives are made from in the orders
            of shuffling BN, so that the devices need not exchange them.
    """

    share_queue: bool = False
    arranged: bool = False


def compile_step(
    method: Method, devices: Mesh, placement: Placement = Placement()
) -> jax.stages.Wrapped:
    """`method.step` as one program over the devices; it takes over the state's memory."""
    state = state_sharding(method, devices, placement)

    def train_step(state: Any, batch: Batch) -> tuple[Any, Metrics]:
        with jax.sharding.use_abstract_mesh(devices.abstract_mesh):
            return method.step(state, batch, placement.arranged)

    return jax.jit(
        train_step,
        in_shardings=(state, mesh.split_batch(devices)),
        out_shardings=(state, mesh.replicated(devices)),
        donate_argnums=0,
    )


def state_sharding(method: Method, devices: Mesh, placement: Placement = Placement()) -> Any:
    """Where the state lives: its dataclass with a sharding for each field."""
    whole, split = mesh.replicated(devices), mesh.split_batch(devices)
    shared = method.queue_fields if placement.share_queue else ()
    names = [field.name for field in dataclasses.fields(method.state_type)]
    return method.state_type(**{name: split if name in shared else whole for name in names})


def abstract_batch(
    views: ViewMaker, batch_size: int, size: int, placement: Placement = Placement()
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of the batch that a step takes, for crops of `size` pixels."""
    batch = {}
    for name in crop_fields(views, placement):
        negatives = (views.num_negatives,) if name == "negatives" else ()
        batch[name] = jax.ShapeDtypeStruct((batch_size, *negatives, size, size, 3), jnp.uint8)
    return batch


def crop_fields(views: ViewMaker, placement: Placement = Placement()) -> tuple[str, ...]:
    """The entries of a batch that a step takes."""
    if placement.arranged:
        return ("query", "key", "negatives") if views.num_negatives else ("query", "key")
    return ("query", "key", "texture") if views.texture else ("query", "key")


def shuffle_orders(views: ViewMaker, batch_size: int) -> ShuffleOrders:
    """The orders that `ViewMaker.draw_orders` draws, for the host."""
    root = jax.random.key_data(jax.random.key(views.seed))
    high, low = (int(word) for word in root)
    return ShuffleOrders((high, low), SHUFFLE, 1 + views.num_negatives, batch_size)


def is_finite(state: Any) -> jax.Array:
    """Whether every parameter of the trained encoder is a number, bool []."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params_q)]).all()
