"""Placement of arrays on devices, and shuffling BN.

MoCo's encoders normalise groups of a batch separately, and a key must not be normalised with the
group of its own query. So each key pass runs on its images in a random order, and the embeddings
return to the queries' order (He et al. 2020, section 3.3; `_batch_shuffle_ddp` in the original).

The mesh is the ambient one, which `jax.sharding.use_abstract_mesh` sets around a jitted step.
Without a mesh, constraints do nothing.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

Batch = dict[str, jax.Array]
Tree = Any  # a pytree of arrays


def draw_orders(key: jax.Array, passes: int, n: int) -> jax.Array:
    """Draws a random order of n images per pass.

    Returns:
        int32 [passes, n]: place i of pass p holds sample [p, i]. `input.shuffle` draws the same
        orders on the host.
    """
    keys = sample_keys(key, jnp.arange(passes))
    # Every device draws all of it: a split sort would exchange its keys.
    return replicate(jax.vmap(lambda key: jax.random.permutation(key, n))(keys))


def arrange(batch: Batch, orders: jax.Array, texture: bool) -> Batch:
    """Arranges the crops of a batch for the passes of the key encoder.

    Args:
        batch: uint8 crops [N, S, S, 3] in one order: 'query', 'key' and, with `texture`, 'texture'.
        orders: int [1 + M, N], orders of the keys and of each negative.
        texture: whether the last negative is the batch's texture; the others are patches of the
            query.

    Returns:
        'query' unchanged; 'key' [N, S, S, 3] in its order; 'negatives' [N, M, S, S, 3], the source
        of each negative in its order. On one device there is no 'negatives', only 'texture' if
        there is one: patches are then cut from the query views that the device already has.
    """
    # Exchanged as uint8, before augmentation makes floats of them, and once for all orders.
    whole = {name: replicate(crops) for name, crops in batch.items()}
    arranged = {"query": batch["query"], "key": whole["key"][split(orders[0])]}
    if on_one_device():
        return arranged | ({"texture": batch["texture"][orders[-1]]} if texture else {})
    names = ["query"] * (len(orders) - 1)
    if texture:
        names[-1] = "texture"
    sources = [whole[name][split(o)] for name, o in zip(names, orders[1:], strict=True)]
    return arranged | ({"negatives": jnp.stack(sources, axis=1)} if sources else {})


def restore(embeddings: jax.Array, orders: jax.Array) -> jax.Array:
    """Puts embeddings [N, 1 + M, dim] from `orders` [1 + M, N] back into the queries' order.

    The result is replicated: one gather serves both the queue and the queries.
    """
    places = replicate(jnp.argsort(orders, axis=1))
    return replicate(replicate(embeddings)[places.T, jnp.arange(len(orders))])


def sample_keys(key: jax.Array, places: jax.Array) -> jax.Array:
    """Returns one PRNG key per entry of `places`, int [N], places in the global batch."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, places)


def replicate(x: jax.Array) -> jax.Array:
    """Places all of x on every device."""
    return _constrain(x, PartitionSpec())


def split(x: jax.Array) -> jax.Array:
    """Splits the first axis of x, the batch axis, over the devices."""
    return _constrain(x, PartitionSpec(_axes()))


def on_one_device() -> bool:
    return devices() == 1


def devices() -> int:
    """Returns the number of devices that share a batch."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.size


def parts(rows: Tree, number: int) -> Tree:
    """Divides a batch into parts that have equally many rows of each device, so that none moves.

    Args:
        rows: tree of arrays [N, ...]; N is a multiple of `number` times the devices.
        number: number of parts.

    Returns:
        Tree of arrays [number, N / number, ...]; `joined` puts them together again.
    """
    count = devices()

    def divide(x: jax.Array) -> jax.Array:
        each = len(x) // (count * number)
        of_devices = x.reshape(count, number, each, *x.shape[1:]).swapaxes(0, 1)
        return of_devices.reshape(number, count * each, *x.shape[1:])

    return jax.tree.map(divide, rows)


def joined(rows: Tree, times: int = 1) -> Tree:
    """Puts the rows of `parts` back in their order.

    Args:
        rows: tree of arrays [number, times n, ...]; with `times` rows per image of a part, the
            first ones of all its images come first.
        times: rows per image.

    Returns:
        Tree of arrays [times number n, ...], again with the first ones first.
    """
    count = devices()

    def join(x: jax.Array) -> jax.Array:
        number, size = x.shape[:2]
        of_devices = x.reshape(number, times, count, size // (times * count), *x.shape[2:])
        return jnp.moveaxis(of_devices, 0, 2).reshape(number * size, *x.shape[2:])

    return jax.tree.map(join, rows)


def copies(tree: Tree) -> Tree:
    """Gives each device a copy of its own: arrays [...] to [devices, ...], split over them.

    A gradient of the copies is the device's own; their sum is the gradient of the original.
    """
    count = devices()
    return jax.tree.map(lambda x: split(jnp.broadcast_to(x, (count, *x.shape))), tree)


def on_each_device(function: Callable[[Tree, Tree], tuple[Tree, Tree]]) -> Callable[..., Any]:
    """Runs a function on every device by itself, with the device's rows and its own copies.

    Args:
        function: from the original of `copies` and rows to rows and a tree of the device's own.

    Returns:
        A function from copies and rows of all devices to rows of all and copies.
    """

    def on_device(of_device: Tree, rows: Tree) -> tuple[Tree, Tree]:
        rows, own = function(jax.tree.map(lambda x: x[0], of_device), rows)
        return rows, jax.tree.map(lambda x: x[None], own)

    if on_one_device():
        return on_device
    spec = PartitionSpec(_axes())
    return jax.shard_map(on_device, in_specs=spec, out_specs=spec, check_vma=False)


def _axes() -> tuple[str, ...]:
    return jax.sharding.get_abstract_mesh().axis_names


def _constrain(x: jax.Array, spec: PartitionSpec) -> jax.Array:
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))
