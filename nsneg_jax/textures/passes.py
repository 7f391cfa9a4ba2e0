"""One level of a texture's synthesis: describe neighbourhoods, find similar ones, correct the map.

See `nsneg_jax.textures.synthesis` for the method and its terms.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nsneg_jax.textures.recipe import (
    Correction,
    Shape,
    TextureRecipe,
    ravel,
    shape_at,
    similar_at,
    unravel,
)

# Unit of the entries of the patterns that neighbourhoods are projected on.
_UNIT = 1024
# Use of a place is counted in 1/16 of the mean use; its cost grows up to _MOST_USED times the mean.
_USE_UNIT = 16
_MOST_USED = 5
# Rows and columns of squares for counting the use of an exemplar.
_SQUARES = 8
# More than any cost, and no overflow when costs are added.
_IMPOSSIBLE = 2**30
# Bounds the memory of the search for similar places.
_DISTANCES_AT_ONCE = 2**22

# A pixel and its eight neighbours: (down, right).
_AROUND = [(dy, dx) for dy in (0, -1, 1) for dx in (0, -1, 1)]

# a map and what is looked up for it, see `_looked_up`
_Map = tuple[jax.Array, jax.Array, jax.Array]


class Level(NamedTuple):
    """A level of the exemplars' pyramid: M places, D numbers per neighbourhood."""

    shape: Shape
    inside: np.ndarray  # int32: places whose neighbourhoods lie within the exemplar
    colours: jax.Array  # float32 [N, M, 3]: whole numbers, -128..127
    described: jax.Array  # float32 [N, M, D]: whole numbers; unused outside
    similar: jax.Array  # int32 [N, M, similar]: places; unused outside


def take(table: jax.Array, places: jax.Array) -> jax.Array:
    """Takes rows of a table per image: [N, M, C] at [N, ...] -> [N, ..., C]."""
    n, m = table.shape[:2]
    first = np.arange(n, dtype=np.int32).reshape(n, *[1] * (places.ndim - 1)) * m
    return table.reshape(n * m, *table.shape[2:]).at[places + first].get(mode="promise_in_bounds")


def halved(pictures: jax.Array) -> jax.Array:
    """Halves pictures of whole numbers [..., H, W, 3] by a binomial filter, rounded."""
    for axis in (-3, -2):
        axis += pictures.ndim
        size = pictures.shape[axis]
        part = partial(jax.lax.slice_in_dim, axis=axis)
        ends = part(pictures, 0, 1), part(pictures, size - 1, size)
        padded = jnp.concatenate([ends[0], pictures, ends[1]], axis)
        a, b, c, d = (part(padded, i, i + size - 1, 2) for i in range(4))
        pictures = a + d + 3 * (b + c)
    return jnp.floor(pictures / 64 + 0.5)


def _patterns(recipe: TextureRecipe) -> np.ndarray:
    """Returns cosine patterns in luminance and two opponent colours, float32 [side * side * 3, D].

    They replace the principal components of an exemplar's neighbourhoods. In natural images they
    are close to them (for a highly correlated first-order Markov process, equal), and they need no
    eigenvectors, which devices compute differently.
    """
    at = np.arange(recipe.neighbourhood)
    cosines = np.cos(np.pi * (at + 0.5) * at[:, None] / len(at))
    cosines /= np.linalg.norm(cosines, axis=1, keepdims=True)
    opponents = np.array([[1, 1, 1], [1, -1, 0], [1, 1, -2]]) / np.sqrt([[3], [2], [6]])
    luminance, colours = recipe.frequencies
    patterns = [
        np.einsum("x,y,c->xyc", cosines[u], cosines[v], colour).ravel()
        for colour, count in zip(opponents, (luminance, colours, colours), strict=True)
        for u in at
        for v in at
        if u + v < count
    ]
    return np.rint(_UNIT * np.stack(patterns, axis=1)).astype(np.float32)


def _describe(pictures: jax.Array, recipe: TextureRecipe, stride: int = 1) -> jax.Array:
    """Describes the windows of [N, H, W, 3] for comparison, [N, H', W', D]."""
    side = recipe.neighbourhood
    for axis in (1, 2):
        end = pictures.shape[axis] - side + 1
        shifted = (jax.lax.slice_in_dim(pictures, i, i + end, stride, axis) for i in range(side))
        pictures = jnp.concatenate(list(shifted), axis=-1)
    sums = jnp.matmul(pictures, _patterns(recipe), precision=jax.lax.Precision.HIGHEST)
    return jnp.floor(sums / _UNIT + 0.5)


def describe_exemplars(pictures: jax.Array, recipe: TextureRecipe) -> jax.Array:
    """Describes every place of exemplars [N, E, h, w, 3], [N, M, D]."""
    n, e, h, w, _ = pictures.shape
    r = recipe.neighbourhood // 2
    described = _describe(pictures.reshape(n * e, h, w, 3), recipe)
    frame = ((0, 0, 0), (r, r, 0), (r, r, 0), (0, 0, 0))
    return jax.lax.pad(described, np.float32(0), frame).reshape(n, e * h * w, -1)


def _distances(described: jax.Array, places: jax.Array, own: jax.Array) -> jax.Array:
    """Returns squared distances of places [N, ..., C] to `own` [N, ..., D], int32 [N, ..., C]."""
    gap = take(described, places) - own[..., None, :]
    return jnp.sum(gap * gap, axis=-1).astype(jnp.int32)


def _nearest(distances: jax.Array) -> jax.Array:
    """Returns the first index of the minimum along the last axis, int32 even in 64-bit mode."""
    return jax.lax.argmin(distances, distances.ndim - 1, jnp.int32)


def most_similar(
    described: jax.Array, shape: Shape, inside: np.ndarray, recipe: TextureRecipe
) -> jax.Array:
    """Finds, per place, the most similar place in each of `similar_at` equal shares.

    Shares are bands of the exemplars, so that the results differ. Places that overlap half of the
    neighbourhood are left out, because neighbours propose them anyway.

    Returns:
        int32 [N, M, similar]; 0 for places that are not inside.
    """
    n, m, _ = described.shape
    count = similar_at(shape, recipe)
    share = -(-len(inside) // count)
    pool = np.resize(inside, count * share)
    rows = max(1, min(len(inside), _DISTANCES_AT_ONCE // len(pool)))
    chunks = np.resize(inside, (-(-len(inside) // rows), rows))
    e, y, x = unravel(shape, pool)
    theirs = described[:, pool]
    norms = jnp.sum(theirs * theirs, axis=-1)

    def nearest(chunk: tuple[jax.Array, jax.Array]) -> jax.Array:
        image, places = chunk
        products = jnp.matmul(
            described[image, places], theirs[image].T, precision=jax.lax.Precision.HIGHEST
        )
        own_e, own_y, own_x = (at[:, None] for at in unravel(shape, places))
        r = recipe.neighbourhood // 2
        near = (own_e == e) & (jnp.abs(own_y - y) <= r) & (jnp.abs(own_x - x) <= r)
        # Omits the square of the place's own description, which is constant.
        distances = jnp.where(near, jnp.inf, norms[image] - 2 * products)
        best = _nearest(distances.reshape(rows, count, share))
        return jnp.asarray(pool)[best + share * np.arange(count, dtype=np.int32)]

    images = np.repeat(np.arange(n, dtype=np.int32), len(chunks))
    found = jax.lax.map(nearest, (images, np.tile(chunks, (n, 1))))
    found = found.reshape(n, -1, count)[:, : len(inside)]
    return jnp.zeros((n, m, count), jnp.int32).at[:, inside].set(found)


def inherited(
    similar: jax.Array, described: jax.Array, shape: Shape, inside: np.ndarray
) -> jax.Array:
    """Derives similar places at the level of `shape` from the next coarser level.

    Takes the places below those that are similar to the place above, or the best of their eight
    neighbours.
    """
    n, m, _ = described.shape
    above = shape_at(shape, 1)
    e, y, x = unravel(shape, inside)
    margin = int(y.min())
    parents = (
        np.clip(i // 2, margin, size - margin - 1)
        for i, size in zip((y, x), above[1:], strict=True)
    )
    start = similar[:, ravel(above, e, *parents)]
    start = _below(start, above, y[:, None] % 2, x[:, None] % 2)
    tried = start[..., None] + np.array(_moves(shape), np.int32)
    own = jnp.broadcast_to(described[:, inside, None], (*start.shape, described.shape[-1]))
    best = _nearest(_distances(described, tried, own))
    found = jnp.take_along_axis(tried, best[..., None], axis=-1)[..., 0]
    return jnp.zeros((n, m, similar.shape[-1]), jnp.int32).at[:, inside].set(found)


def _below(places: jax.Array, shape: Shape, down: np.ndarray, right: np.ndarray) -> jax.Array:
    """Returns the (down, right) one of the four places below each place of the level of `shape`."""
    e, y, x = unravel(shape, places)
    finer = (shape[0], 2 * shape[1], 2 * shape[2])
    return ravel(finer, e, 2 * y + down, 2 * x + right)


def doubled(source: jax.Array, shape: Shape) -> jax.Array:
    """Doubles a map [N, side, side] for the next finer level, the level of `shape`."""
    parity = np.arange(2 * source.shape[1]) % 2
    source = jnp.repeat(jnp.repeat(source, 2, axis=1), 2, axis=2)
    return _below(source, shape_at(shape, 1), parity[:, None], parity)


def _moves(shape: Shape) -> list[int]:
    """Returns the offsets from a place to itself and its eight neighbours."""
    return [dy * shape[2] + dx for dy, dx in _AROUND]


def corrected(
    source: jax.Array, level: Level, correction: Correction, recipe: TextureRecipe
) -> jax.Array:
    """Corrects a map [N, side, side], a torus.

    A pass has four parts, one per quarter of the pixels.
    """
    side = source.shape[1]
    marked = np.zeros(np.prod(level.shape), bool)
    marked[level.inside] = True
    places = jnp.asarray(marked)
    factors = np.array([1] + [1 + correction.jump_cost] * level.similar.shape[-1], np.int32)
    use_costs = _use_costs(level, side * side, correction.use_cost) if correction.use_cost else None

    def part(state: _Map, corner: jax.Array | np.ndarray) -> tuple[_Map, None]:
        source, image, known = (jnp.roll(array, -corner, axis=(1, 2)) for array in state)
        own = _describe(_wrapped(image, recipe.neighbourhood // 2), recipe, stride=2)
        around = _wrapped(known, 1)
        proposals = [
            around[:, 1 + dy : 1 + dy + side : 2, 1 + dx : 1 + dx + side : 2] - move
            for (dy, dx), move in zip(_AROUND, _moves(level.shape), strict=True)
        ]
        tried = jnp.concatenate(proposals, axis=-1)
        costs = _distances(level.described, tried, own) * np.tile(factors, len(proposals))
        if use_costs is not None:
            costs += use_costs(source, tried)
        costs = jnp.where(places[tried], costs, _IMPOSSIBLE)
        best = _nearest(costs)[..., None]
        new = jnp.take_along_axis(tried, best, axis=-1)[..., 0]
        changed = zip((source, image, known), _looked_up(new, level), strict=True)
        updated = (old.at[:, ::2, ::2].set(own) for old, own in changed)
        source, image, known = (jnp.roll(array, corner, axis=(1, 2)) for array in updated)
        return (source, image, known), None

    corners = np.tile(np.array([[0, 0], [1, 1], [0, 1], [1, 0]], np.int32), (correction.passes, 1))
    return jax.lax.scan(part, _looked_up(source, level), corners)[0][0]


def _looked_up(source: jax.Array, level: Level) -> _Map:
    """Returns a map, its colours [..., 3], and its places with similar ones [..., 1 + similar]."""
    known = jnp.concatenate([source[..., None], take(level.similar, source)], axis=-1)
    return source, take(level.colours, source), known


def _use_costs(
    level: Level, pixels: int, use_cost: int
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Makes the function from a map and candidate places to their cost of use, int32.

    Use is counted per square of the exemplars, relative to equal use of all places.
    """
    e, y, x = unravel(level.shape, np.arange(np.prod(level.shape)))
    rows, columns = (min(_SQUARES, size // 3) for size in level.shape[1:])
    square = (e * rows + y * rows // level.shape[1]) * columns + x * columns // level.shape[2]
    count = level.shape[0] * rows * columns
    mean = np.bincount(square[level.inside], minlength=count) * pixels / len(level.inside)
    mean = np.maximum(1, np.rint(mean)).astype(np.int32)
    square = jnp.asarray(square, jnp.int32)

    nearest = _distances(
        level.described, level.similar[:, level.inside], level.described[:, level.inside]
    ).min(axis=-1)
    unit = jnp.sort(nearest, axis=-1)[:, len(level.inside) * 19 // 20]

    def costs(source: jax.Array, tried: jax.Array) -> jax.Array:
        squares = square[source.reshape(len(source), -1)]
        used = jax.vmap(lambda s: jnp.zeros(count, jnp.int32).at[s].add(1))(squares)
        used = jnp.minimum(used * _USE_UNIT // mean, _MOST_USED * _USE_UNIT)
        cost = unit[:, None] * used // _USE_UNIT * use_cost // 4
        return take(cost, square[tried])

    return costs


def _wrapped(array: jax.Array, r: int) -> jax.Array:
    """Pads [N, H, W, C] with r rows and columns from the opposite side."""
    array = jnp.concatenate([array[:, -r:], array, array[:, :r]], axis=1)
    return jnp.concatenate([array[:, :, -r:], array, array[:, :, :r]], axis=2)
