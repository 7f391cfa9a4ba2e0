"""Nearest-neighbour classification of features: Wu et al. (2018), section 3.4.

The k nearest neighbours of a query by cosine similarity s vote for its label, each with weight
exp(s / temperature).
"""

from collections.abc import Sequence
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from nsneg_jax.evaluation.features import Features
from nsneg_jax.evaluation.protocols.finite import check_features
from nsneg_jax.methods.contrast import l2_normalize
from nsneg_jax.parallel import mesh
from nsneg_jax.training.progress import Progress

TEMPERATURE = 0.07  # from Wu et al.

# Rows of the bank and of the queries to compare at once.
BANK_BLOCK = 8192
_QUERY_BLOCK = 1024


def accuracies(
    bank: Features, queries: Features, ks: Sequence[int], temperature: float, devices: Mesh
) -> dict[str, float]:
    """Returns the percentage of correctly classified queries, as 'knn_K' per K.

    Raises:
        RunError: a feature is not finite.
    """
    for role, each in (("that vote", bank), ("to classify", queries)):
        check_features(each.features, f"those {role}")
    classes = int(max(bank.labels.max(), queries.labels.max())) + 1
    similarity, labels = nearest(bank, queries.features, max(ks), devices)
    voted = vote(similarity, labels, ks, temperature, classes)
    return {
        f"knn_{k}": float(100 * (labels == queries.labels).mean())
        for k, labels in zip(ks, voted, strict=True)
    }


def nearest(
    bank: Features, queries: np.ndarray, k: int, devices: Mesh
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the k rows of the bank that are nearest to each query, nearest first.

    The bank stays in the host's memory and goes to the devices in blocks. So the devices' memory
    depends only on the queries: their features and their neighbours so far.

    Args:
        bank: features [n, F] and labels [n].
        queries: float32 [m, F].
        k: number of neighbours, at most all of the bank.
        devices: devices to split the queries over.

    Returns:
        Cosine similarities float32 [m, k] and labels int32 [m, k].
    """
    k = min(k, len(bank.features))
    block = query_block(devices)
    whole, split = mesh.replicated(devices), mesh.split_batch(devices)
    merge = compile_search(k, devices)

    def rows(array: np.ndarray, start: int, size: int, sharding) -> jax.Array:
        part = array[start : start + size]
        padded = np.pad(part, ((0, size - len(part)), *[(0, 0)] * (part.ndim - 1)))
        return mesh.put(padded, sharding)

    blocks = [rows(queries, start, block, split) for start in range(0, len(queries), block)]
    found = [
        mesh.put((np.full((block, k), -np.inf, np.float32), np.zeros((block, k), np.int32)), split)
        for _ in blocks
    ]
    # Labels from 1; 0 marks a blank row of the last block.
    marked = bank.labels.astype(np.int32) + 1
    starts = range(0, len(bank.features), BANK_BLOCK)
    with Progress(len(starts), 0, unit="block") as display:
        for done, start in enumerate(starts, 1):
            part = rows(bank.features, start, BANK_BLOCK, whole)
            theirs = rows(marked, start, BANK_BLOCK, whole)
            found = [
                merge(query, part, theirs, so_far)
                for query, so_far in zip(blocks, found, strict=True)
            ]
            jax.block_until_ready(found)  # else blocks of the bank pile up in memory
            display.advance(done)
            if display.is_due():
                display.refresh(done, "of the bank searched")
    found = jax.jit(lambda parts: parts, out_shardings=whole)(found)
    similarity, labels = (
        np.concatenate([np.asarray(part[i]) for part in found])[: len(queries)] for i in range(2)
    )
    return similarity, labels - 1


def query_block(devices: Mesh) -> int:
    """Returns the number of queries to compare at once, a multiple of the devices."""
    return -(-_QUERY_BLOCK // devices.size) * devices.size


@cache  # a pre-training searches again and again
def compile_search(k: int, devices: Mesh) -> jax.stages.Wrapped:
    """Compiles the program that continues the search in a block of the bank.

    It takes queries [m, F], a block [b, F] of the bank, its labels int32 [b] (from 1; 0 for blank
    rows), and the donated (similarities float32, labels int32) [m, k] found so far.
    """
    whole, split = mesh.replicated(devices), mesh.split_batch(devices)
    return jax.jit(
        partial(_merge, k=k),
        in_shardings=(split, whole, whole, split),
        out_shardings=split,
        donate_argnums=3,
    )


def _merge(
    queries: jax.Array,
    bank: jax.Array,
    labels: jax.Array,
    found: tuple[jax.Array, jax.Array],
    k: int,
) -> tuple[jax.Array, jax.Array]:
    """Returns the k nearest among those found so far and a block of the bank."""
    similarity = jnp.einsum(
        "qf,bf->qb",
        l2_normalize(queries),
        l2_normalize(bank),
        precision=jax.lax.Precision.HIGHEST,
    )
    similarity = jnp.where(labels > 0, similarity, -jnp.inf)
    top, places = jax.lax.top_k(similarity, min(k, bank.shape[0]))
    everything = jnp.concatenate([found[0], top], axis=1)
    owners = jnp.concatenate([found[1], labels[places]], axis=1)
    top, places = jax.lax.top_k(everything, k)
    return top, jnp.take_along_axis(owners, places, axis=1)


def vote(
    similarity: np.ndarray,
    labels: np.ndarray,
    ks: Sequence[int],
    temperature: float,
    classes: int,
) -> list[np.ndarray]:
    """Returns the labels voted by the first k neighbours, int [m] per k.

    Args:
        similarity: [m, K], similarities of the neighbours, nearest first.
        labels: int [m, K], labels of the neighbours.
        ks: numbers of neighbours that vote, at most all.
        temperature: temperature of the weights.
        classes: number of classes.
    """
    # Relative to the nearest, because exp(1 / 0.01) overflows float32.
    weights = np.exp((similarity - similarity[:, :1]).astype(np.float64) / temperature)
    queries = np.arange(len(labels))[:, None]

    def voted(k: int) -> np.ndarray:
        votes = np.zeros((len(labels), classes))
        np.add.at(votes, (queries, labels[:, :k]), weights[:, :k])
        return votes.argmax(axis=1)

    return [voted(k) for k in ks]
