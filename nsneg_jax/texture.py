"""Textures from exemplars: a picture's local look without its content (Ge et al. 2021, section 3).

The synthesis is non-parametric, as in the paper's tool, and goes from coarse to fine after Lefebvre
and Hoppe (2005). What is synthesised is a map of *places* in the exemplars, so every colour is an
exemplar's and nothing is blurred. Passes of correction replace a pixel's place by the one whose
neighbourhood is most like the pixel's, among places that its neighbours propose: those that
continue theirs, and those that look like these (k-coherence, Tong et al. 2002). A quarter of the
pixels is corrected at once. Two things are not in that paper: the first map is a mosaic of pieces
in random order, which leaves nothing of an exemplar's layout, and a place costs more the more it is
in use (after Kaspar et al. 2015), because passes of best matches alone end in the plainest part of
the exemplars.

Chance decides about exemplars and mosaics, on the host. The rest is exact arithmetic: colours,
neighbourhoods and distances are whole numbers below 2^24, in float32 where matrices are multiplied.
So a texture is the same to the bit on every device and in every batch.

A *place* is a number, (e * h + y) * w + x for row y and column x of exemplar e of E.
"""

import hashlib
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nsneg_jax.errors import UsageError

Shape = tuple[int, int, int]

# Entries of the patterns that neighbourhoods are projected on, in this unit.
_UNIT = 1024
# Use of a place, in this part of the mean use; it costs no more from this many times the mean.
_USE_UNIT = 16
_MOST_USED = 5
# Rows and columns of squares in which the use of an exemplar is counted.
_SQUARES = 8
# Parts of a pixel in which the mosaic's cells are laid out.
_SUBPIXEL = 16
# More than any cost, and no overflow when costs are added.
_IMPOSSIBLE = 2**30
# In the search for similar places: bounds the memory.
_DISTANCES_AT_ONCE = 2**22


@dataclass(frozen=True)
class TextureRecipe:
    """How textures are made.

    Attributes:
        output_size: side S of the square textures in pixels.
        passes: of correction at each level of the pyramid, from coarse to fine; a pass visits each
            pixel once. Levels differ by a factor of two; the more, the larger the structures kept.
        neighbourhood: side of what is compared, in pixels of the level: odd, 3 to 9.
        frequencies: (of luminance, of colours): neighbourhoods are compared by the coefficients
            (u, v) of their cosine transforms with u + v below these.
        similar: places remembered for each place as looking like it.
        jump_cost: a place that continues no neighbour's costs 1 + this times its distance. The
            higher, the larger the pieces copied from an exemplar. 0 to 16.
        use_cost: of places used as often as the mean, in distances exceeded by a twentieth of the
            exemplars' places: distances to the most similar place. 0 to 16.
        cell: side of the mosaic's cells, about, in pixels of the coarsest level.
    """

    output_size: int = 224
    passes: tuple[int, ...] = (4, 3, 2, 2)
    neighbourhood: int = 5
    frequencies: tuple[int, int] = (6, 2)
    similar: int = 2
    jump_cost: int = 1
    use_cost: int = 1
    cell: int = 5


class Texture(NamedTuple):
    """Textures of N images.

    Attributes:
        image: uint8 [N, S, S, 3].
        source: int32 [N, S, S], the place of each pixel in the exemplars.
    """

    image: jax.Array
    source: jax.Array


class _Level(NamedTuple):
    """A level of the exemplars' pyramid: M places, D numbers about the neighbourhood of each."""

    shape: Shape
    inside: np.ndarray  # int32: the places whose neighbourhoods do not stick out
    colours: jax.Array  # float32 [N, M, 3]: whole numbers, -128..127
    described: jax.Array  # float32 [N, M, D]: whole numbers; no matter outside
    similar: jax.Array  # int32 [N, M, similar]: places; no matter outside


def random_generator(seed: int, name: str) -> np.random.Generator:
    """The generator that decides about the exemplars and the mosaic of one image."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def cut_exemplars(
    rng: np.random.Generator, image: np.ndarray, count: int = 2, size: int = 96
) -> np.ndarray:
    """The central square of an image and random ones, as the authors cut them.

    A side shorter than `size` is continued by reflection, which keeps the local look, where
    enlarging the image would blur it.

    Args:
        rng: is advanced by two numbers for each random square.
        image: uint8 [H, W, 3], H and W at least 1.
        count: E, squares in all.
        size: their side in pixels.

    Returns:
        uint8 [E, size, size, 3].
    """
    height, width = image.shape[:2]
    short = [max(0, size - side) for side in (height, width)]
    if any(short):
        image = np.pad(image, [(s // 2, s - s // 2) for s in short] + [(0, 0)], "symmetric")
        height, width = image.shape[:2]
    corners = [((height - size) // 2, (width - size) // 2)]
    for _ in range(count - 1):
        corners.append(tuple(rng.integers((height - size + 1, width - size + 1))))
    return np.stack([image[y : y + size, x : x + size] for y, x in corners])


def mosaic(rng: np.random.Generator, exemplars: Shape, recipe: TextureRecipe) -> np.ndarray:
    """The first map: Voronoi cells of random points, each a piece of an exemplar.

    The pieces are spread evenly over the exemplars and then shuffled.

    Args:
        rng: of the image.
        exemplars: (E, h, w), number and size of the exemplars.
        recipe: of the texture.

    Returns:
        int32 [side, side], places in the exemplars at the coarsest level.

    Raises:
        UsageError: exemplars and recipe do not go together.
    """
    validate(recipe, exemplars)
    depth = len(recipe.passes) - 1
    shape = _shape_at(exemplars, depth)
    side = _canvas_side(recipe) >> depth
    inside = _inside(shape, recipe)
    cells = max(1, round(side / recipe.cell))
    around, pitch = _SUBPIXEL * side, _SUBPIXEL * side // cells
    first = np.stack(np.mgrid[:cells, :cells], -1).reshape(-1, 2) * pitch
    points = first + rng.integers(0, pitch, first.shape)
    even = (np.arange(len(points)) + rng.random()) * len(inside) / len(points)
    centres = rng.permutation(inside[even.astype(int)])

    at = np.arange(side)[:, None] * _SUBPIXEL + _SUBPIXEL // 2
    # from the cells' points, on a torus: row or column, then cell
    down, right = ((at - p + around // 2) % around - around // 2 for p in points.T)
    cell = np.argmin(down[:, None] ** 2 + right**2, axis=-1)
    e, y, x = _unravel(shape, centres[cell])
    rows = np.arange(side)
    y = y + down[rows[:, None], cell] // _SUBPIXEL
    x = x + right[rows, cell] // _SUBPIXEL
    margin = recipe.neighbourhood // 2
    return _ravel(shape, e, _reflected(y, margin, shape[1]), _reflected(x, margin, shape[2]))


def validate(recipe: TextureRecipe, exemplars: Shape) -> None:
    """Checks a recipe, and that exemplars (E, h, w) suit it.

    Raises:
        UsageError: they do not.
    """

    def expect(holds: bool, what: str, value: object, expected: str) -> None:
        if not holds:
            raise UsageError(f"The texture's {what} is {value}, but must be {expected}.")

    levels = len(recipe.passes)
    expect(recipe.output_size >= 1, "output_size", recipe.output_size, "at least 1 pixel")
    expect(
        levels > 0 and min(recipe.passes) >= 0,
        "passes",
        recipe.passes,
        "a number of passes, 0 or more, for each level of the pyramid, from coarse to fine",
    )
    side = recipe.neighbourhood
    # at 11 distances would exceed 2^24, which float32 holds no longer exactly
    expect(side in (3, 5, 7, 9), "neighbourhood", side, "3, 5, 7 or 9 pixels")
    expect(
        len(recipe.frequencies) == 2 and min(recipe.frequencies) >= 1,
        "frequencies",
        recipe.frequencies,
        "two numbers of at least 1, for luminance and colours",
    )
    for name in ("jump_cost", "use_cost"):
        cost = getattr(recipe, name)
        expect(cost in range(17), name, cost, "a whole number of 0 to 16")
    expect(recipe.cell >= 1, "cell", recipe.cell, "at least 1 pixel")
    count, height, width = exemplars
    expect(count >= 1, "number of exemplars", count, "at least 1")
    factor, least = 2 ** (levels - 1), 2 * side * 2 ** (levels - 1)
    fits = min(height, width) >= least and height % factor == width % factor == 0
    expect(
        fits,
        "exemplar size",
        f"{height} x {width}",
        f"a multiple of {factor} and at least {least} in both directions, for {levels} levels of "
        f"neighbourhoods of {side} pixels; take larger exemplars or fewer levels",
    )
    # the nearest of each share must not all be neighbours of the place itself
    room = count * ((height >> levels - 1) - side + 1) * ((width >> levels - 1) - side + 1)
    most = max(1, room // (2 * side * side))
    expect(
        1 <= recipe.similar <= most,
        "number of similar places",
        recipe.similar,
        f"1 to {most} for these exemplars",
    )


@partial(jax.jit, static_argnums=2)
def synthesise(exemplars: jax.Array, mosaics: jax.Array, recipe: TextureRecipe) -> Texture:
    """Makes textures.

    Args:
        exemplars: uint8 [N, E, h, w, 3].
        mosaics: int32 [N, side, side], each from `mosaic`.
        recipe: static.

    Raises:
        UsageError: exemplars and recipe do not go together.
    """
    n, *shape = exemplars.shape[:-1]
    validate(recipe, shape)
    pictures = [exemplars.astype(jnp.float32) - 128]
    for _ in recipe.passes[1:]:
        pictures.append(_halved(pictures[-1]))
    source = similar = None
    for passes in recipe.passes:
        picture = pictures.pop()
        level_shape = _shape_at(shape, len(pictures))
        inside = _inside(level_shape, recipe)
        described = _describe_exemplars(picture, recipe)
        if similar is None or pictures:
            similar = _most_similar(described, level_shape, inside, recipe)
        else:
            # at the finest level all pairs would take more time than the rest of the work
            similar = _inherited(similar, described, level_shape, inside)
        source = mosaics if source is None else _doubled(source, level_shape)
        colours = picture.reshape(n, -1, 3)
        level = _Level(level_shape, inside, colours, described, similar)
        source = _corrected(source, level, passes, recipe)
    source = source[:, : recipe.output_size, : recipe.output_size]
    return Texture(_take(exemplars.reshape(n, -1, 3), source), source)


def _shape_at(shape: Shape, depth: int) -> Shape:
    count, height, width = shape
    return count, height >> depth, width >> depth


def _canvas_side(recipe: TextureRecipe) -> int:
    # even at every level, so that quarters of the pixels are all alike
    factor = 2 ** len(recipe.passes)
    return -(-recipe.output_size // factor) * factor


def _inside(shape: Shape, recipe: TextureRecipe) -> np.ndarray:
    r = recipe.neighbourhood // 2
    places = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    return places[:, r : shape[1] - r, r : shape[2] - r].ravel()


def _unravel(shape: Shape, places):
    _, height, width = shape
    return places // (height * width), places // width % height, places % width


def _ravel(shape: Shape, e, y, x):
    _, height, width = shape
    return ((e * height + y) * width + x).astype(np.int32)


def _reflected(at: np.ndarray, margin: int, size: int) -> np.ndarray:
    """Row or column numbers of any size, reflected into margin .. size - margin - 1."""
    room = size - 2 * margin
    at = (at - margin) % (2 * room)
    return np.minimum(at, 2 * room - 1 - at) + margin


def _take(table: jax.Array, places: jax.Array) -> jax.Array:
    """Rows of each image's table: [N, M, C] at [N, ...] -> [N, ..., C]."""
    n, m = table.shape[:2]
    first = np.arange(n, dtype=np.int32).reshape(n, *[1] * (places.ndim - 1)) * m
    return table.reshape(n * m, *table.shape[2:]).at[places + first].get(mode="promise_in_bounds")


def _halved(pictures: jax.Array) -> jax.Array:
    """Whole numbers [..., H, W, 3] at half the size: binomial filter, rounded."""
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
    """Cosine patterns in luminance and two opponent colours, float32 [side * side * 3, D].

    They stand in for the principal components of an exemplar's neighbourhoods, which they are
    close to in natural images (and would be exactly for a first-order Markov process of high
    correlation), and need no eigenvectors, which devices compute differently.
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
    """What is compared of the windows of [N, H, W, 3]: [N, H', W', D]."""
    side = recipe.neighbourhood
    for axis in (1, 2):
        end = pictures.shape[axis] - side + 1
        shifted = (
            jax.lax.slice_in_dim(pictures, i, i + end, stride, axis) for i in range(side)
        )
        pictures = jnp.concatenate(list(shifted), axis=-1)
    sums = jnp.matmul(pictures, _patterns(recipe), precision=jax.lax.Precision.HIGHEST)
    return jnp.floor(sums / _UNIT + 0.5)


def _describe_exemplars(pictures: jax.Array, recipe: TextureRecipe) -> jax.Array:
    """Of [N, E, h, w, 3], for every place: [N, M, D]."""
    n, e, h, w, _ = pictures.shape
    r = recipe.neighbourhood // 2
    described = _describe(pictures.reshape(n * e, h, w, 3), recipe)
    frame = ((0, 0, 0), (r, r, 0), (r, r, 0), (0, 0, 0))
    return jax.lax.pad(described, np.float32(0), frame).reshape(n, e * h * w, -1)


def _distances(described: jax.Array, places: jax.Array, own: jax.Array) -> jax.Array:
    """Squared, of places [N, ..., C] to descriptions [N, ..., D]: int32 [N, ..., C]."""
    gap = _take(described, places) - own[..., None, :]
    return jnp.sum(gap * gap, axis=-1).astype(jnp.int32)


def _most_similar(
    described: jax.Array, shape: Shape, inside: np.ndarray, recipe: TextureRecipe
) -> jax.Array:
    """For every place the nearest in each of `recipe.similar` equal shares of all places.

    Shares are bands of the exemplars, so that the places found differ. Places that overlap half
    of the neighbourhood are left out: they are found by their neighbours anyway.

    Returns:
        int32 [N, M, similar]; 0 for places that are not inside.
    """
    n, m, _ = described.shape
    share = -(-len(inside) // recipe.similar)
    pool = np.resize(inside, recipe.similar * share)
    rows = max(1, min(len(inside), _DISTANCES_AT_ONCE // len(pool)))
    chunks = np.resize(inside, (-(-len(inside) // rows), rows))
    e, y, x = _unravel(shape, pool)
    theirs = described[:, pool]
    norms = jnp.sum(theirs * theirs, axis=-1)

    def nearest(chunk: tuple[jax.Array, jax.Array]) -> jax.Array:
        image, places = chunk
        products = jnp.matmul(
            described[image, places], theirs[image].T, precision=jax.lax.Precision.HIGHEST
        )
        own_e, own_y, own_x = (at[:, None] for at in _unravel(shape, places))
        r = recipe.neighbourhood // 2
        near = (own_e == e) & (jnp.abs(own_y - y) <= r) & (jnp.abs(own_x - x) <= r)
        # without the square of the place's own description, which is the same for all
        distances = jnp.where(near, jnp.inf, norms[image] - 2 * products)
        best = jnp.argmin(distances.reshape(rows, recipe.similar, share), axis=-1)
        return jnp.asarray(pool)[best + share * np.arange(recipe.similar)]

    images = np.repeat(np.arange(n), len(chunks))
    found = jax.lax.map(nearest, (images, np.tile(chunks, (n, 1))))
    found = found.reshape(n, -1, recipe.similar)[:, : len(inside)]
    return jnp.zeros((n, m, recipe.similar), jnp.int32).at[:, inside].set(found)


def _inherited(
    similar: jax.Array, described: jax.Array, shape: Shape, inside: np.ndarray
) -> jax.Array:
    """Similar places at the level of `shape` from those of the next coarser one.

    The places below what is similar to the place above, or the best of their eight neighbours.
    """
    n, m, _ = described.shape
    above = _shape_at(shape, 1)
    e, y, x = _unravel(shape, inside)
    margin = int(y.min())
    parents = (np.clip(i // 2, margin, size - margin - 1) for i, size in zip((y, x), above[1:]))
    start = similar[:, _ravel(above, e, *parents)]
    start = _below(start, above, y[:, None] % 2, x[:, None] % 2)
    tried = start[..., None] + np.array(_moves(shape))
    own = jnp.broadcast_to(described[:, inside, None], (*start.shape, described.shape[-1]))
    best = jnp.argmin(_distances(described, tried, own), axis=-1)
    found = jnp.take_along_axis(tried, best[..., None], axis=-1)[..., 0]
    return jnp.zeros((n, m, similar.shape[-1]), jnp.int32).at[:, inside].set(found)


def _below(places: jax.Array, shape: Shape, down: np.ndarray, right: np.ndarray) -> jax.Array:
    """Of the four places below each place of the level of `shape`, that at (down, right)."""
    e, y, x = _unravel(shape, places)
    finer = (shape[0], 2 * shape[1], 2 * shape[2])
    return _ravel(finer, e, 2 * y + down, 2 * x + right)


def _doubled(source: jax.Array, shape: Shape) -> jax.Array:
    """A map [N, side, side] for the next finer level, the one of `shape`."""
    parity = np.arange(2 * source.shape[1]) % 2
    source = jnp.repeat(jnp.repeat(source, 2, axis=1), 2, axis=2)
    return _below(source, _shape_at(shape, 1), parity[:, None], parity)


def _moves(shape: Shape) -> list[int]:
    """What added to a place gives it and its eight neighbours."""
    return [dy * shape[2] + dx for dy in (0, -1, 1) for dx in (0, -1, 1)]


def _corrected(
    source: jax.Array, level: _Level, passes: int, recipe: TextureRecipe
) -> jax.Array:
    """The map [N, side, side] after `passes` passes of correction.

    It is a torus. A pass has four parts, one for each quarter of the pixels.
    """
    n, side, _ = source.shape
    places = np.zeros(np.prod(level.shape), bool)
    places[level.inside] = True
    places = jnp.asarray(places)
    factors = np.array([1] + [1 + recipe.jump_cost] * recipe.similar, np.int32)
    use_costs = _use_costs(level, side * side, recipe)

    def part(state: tuple[jax.Array, ...], corner: jax.Array) -> tuple[tuple, None]:
        source, image, known = (jnp.roll(array, -corner, axis=(1, 2)) for array in state)
        own = _describe(_wrapped(image, recipe.neighbourhood // 2), recipe, stride=2)
        around = _wrapped(known, 1)
        proposals = [
            around[:, 1 + dy : 1 + dy + side : 2, 1 + dx : 1 + dx + side : 2] - move
            for (dy, dx), move in zip(_OFFSETS, _moves(level.shape), strict=True)
        ]
        tried = jnp.concatenate(proposals, axis=-1)
        costs = _distances(level.described, tried, own) * np.tile(factors, len(proposals))
        costs = jnp.where(places[tried], costs + use_costs(source, tried), _IMPOSSIBLE)
        best = jnp.argmin(costs, axis=-1)[..., None]
        new = jnp.take_along_axis(tried, best, axis=-1)[..., 0]
        state = source, image, known
        changed = _looked_up(new, level)
        state = (old.at[:, ::2, ::2].set(own) for old, own in zip(state, changed, strict=True))
        return tuple(jnp.roll(array, corner, axis=(1, 2)) for array in state), None

    corners = np.tile(np.array([[0, 0], [1, 1], [0, 1], [1, 0]], np.int32), (passes, 1))
    return jax.lax.scan(part, _looked_up(source, level), corners)[0][0]


_OFFSETS = [(dy, dx) for dy in (0, -1, 1) for dx in (0, -1, 1)]


def _looked_up(source: jax.Array, level: _Level) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A map, its colours [..., 3], and itself with similar places [..., 1 + similar]."""
    known = jnp.concatenate([source[..., None], _take(level.similar, source)], axis=-1)
    return source, _take(level.colours, source), known


def _use_costs(level: _Level, pixels: int, recipe: TextureRecipe):
    """Returns the function of (map, places tried) that says what the places' use costs."""
    e, y, x = _unravel(level.shape, np.arange(np.prod(level.shape)))
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
        return _take(unit[:, None] * used // _USE_UNIT * recipe.use_cost, square[tried])

    return costs


def _wrapped(array: jax.Array, r: int) -> jax.Array:
    """[N, H, W, C] with r rows and columns from the other side on each side."""
    array = jnp.concatenate([array[:, -r:], array, array[:, :r]], axis=1)
    return jnp.concatenate([array[:, :, -r:], array, array[:, :, :r]], axis=2)
