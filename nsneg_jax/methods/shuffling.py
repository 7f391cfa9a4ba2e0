"""Where arrays lie on the devices: all of the method's placement, shuffling BN above all.

MoCo's encoders normalise groups of a batch apart, and a key must not be normalised with the
group of its own query: the images of each key pass are put into a random order, and the embeddings
back into the queries' (He et al. 2020, section 3.3; `_batch_shuffle_ddp` of the original).

The mesh is the ambient one, which `jax.sharding.use_abstract_mesh` sets around a jitted step.
Without one, constraints do nothing.
"""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

Batch = dict[str, jax.Array]


def draw_orders(key: jax.Array, passes: int, n: int) -> jax.Array:
    """The random orders of `passes` passes over n images.

    Returns:
        int32 [passes, n]: place i of pass p holds sample [p, i]. `input.shuffle` draws the same on
        the host.
    """
    keys = sample_keys(key, jnp.arange(passes))
    # drawn by every device: split, its sorts would exchange their keys
    return replicate(jax.vmap(lambda key: jax.random.permutation(key, n))(keys))


def arrange(batch: Batch, orders: jax.Array, texture: bool) -> Batch:
    """Lays the crops of a batch out for the passes of the key encoder.

    Args:
        batch: uint8 crops [N, S, S, 3] in one order: 'query', 'key' and, with `texture`, 'texture'.
        orders: [1 + M, N], of the keys and of each negative.
        texture: whether the last negative is the batch's texture; the others are patches of the
            query.

    Returns:
        'query' as it was; 'key' [N, S, S, 3] in its order; 'negatives' [N, M, S, S, 3], what each
        negative is made from, in its order. One device leaves 'negatives' out but for a texture,
        'texture': query views that it has made are nearer than crops to be augmented again.
    """
    # uint8, before augmentation makes floats of them, and whole once for all orders
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
    """Embeddings [N, 1 + M, dim] of images in `orders` [1 + M, N], in the queries' order.

    On every device whole: they are gathered once, for the queue and for their own queries.
    """
    places = replicate(jnp.argsort(orders, axis=1))
    return replicate(replicate(embeddings)[places.T, jnp.arange(len(orders))])


def sample_keys(key: jax.Array, places: jax.Array) -> jax.Array:
    """One PRNG key for each of the `places` in the global batch."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, places)


def replicate(x: jax.Array) -> jax.Array:
    """x, whole on every device."""
    return _constrain(x, PartitionSpec())


def split(x: jax.Array) -> jax.Array:
    """x with its first axis, the batch's, split over the devices."""
    mesh = jax.sharding.get_abstract_mesh()
    return _constrain(x, PartitionSpec(mesh.axis_names))


def on_one_device() -> bool:
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.empty or mesh.size == 1


def _constrain(x: jax.Array, spec: PartitionSpec) -> jax.Array:
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))
