"""Textures from exemplars: a picture's local look without its content (Ge et al. 2021, section 3).

The synthesis is non-parametric, as in the paper's tool, and goes from coarse to fine (Lefebvre and
Hoppe 2005). It makes a map of *places* in the exemplars, so every colour comes from an exemplar and
nothing is blurred. Passes of correction replace the place of a pixel by the one with the most
similar neighbourhood, among places that its neighbours propose: those that continue theirs, and
those similar to these (k-coherence, Tong et al. 2002). A quarter of the pixels is corrected at
once. Two things differ from that paper: the first map is a mosaic of pieces in random order, which
keeps nothing of an exemplar's layout, and a place costs more the more it is used (after Kaspar et
al. 2015), because best matches alone converge to the plainest part of the exemplars.

Exemplars and mosaics are random, drawn on the host. The rest is exact: colours, neighbourhoods and
distances are whole numbers below 2^24, in float32 where matrices are multiplied. So a texture is
the same to the bit on every device and in every batch.

A *place* is a number, (e * h + y) * w + x for row y and column x of exemplar e of E.
"""

import hashlib
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from nsneg_jax.textures.passes import (
    Level,
    corrected,
    describe_exemplars,
    doubled,
    halved,
    inherited,
    most_similar,
    take,
)
from nsneg_jax.textures.recipe import (
    Shape,
    TextureRecipe,
    canvas_side,
    corrections,
    inner_places,
    ravel,
    shape_at,
    unravel,
    validate,
)

# Subdivisions of a pixel for the layout of the mosaic's cells.
_SUBPIXEL = 16


class Texture(NamedTuple):
    """Textures of N images.

    Attributes:
        image: uint8 [N, S, S, 3].
        source: int32 [N, S, S], the place of each pixel in the exemplars.
    """

    image: jax.Array
    source: jax.Array


def random_generator(seed: int, name: str) -> np.random.Generator:
    """Makes the generator of one image's exemplars and mosaic."""
    digest = hashlib.sha256(f"{seed} {name}".encode("utf-8", "surrogateescape")).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def cut_exemplars(
    rng: np.random.Generator, image: np.ndarray, count: int = 2, size: int = 96
) -> np.ndarray:
    """Cuts the central square of an image and random ones, as the authors do.

    Reflection extends a side shorter than `size`; it keeps the local look, while enlarging the
    image would blur it.

    Args:
        rng: generator, advanced by two numbers per random square.
        image: uint8 [H, W, 3], H and W at least 1.
        count: E, number of squares.
        size: side of the squares in pixels.

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
    """Makes the first map: Voronoi cells of random points, each a piece of an exemplar.

    The pieces are spread evenly over the exemplars, then shuffled.

    Args:
        rng: generator of the image.
        exemplars: (E, h, w), number and size of the exemplars.
        recipe: recipe of the texture.

    Returns:
        int32 [side, side], places in the exemplars at the coarsest level.

    Raises:
        UsageError: exemplars and recipe do not go together.
    """
    validate(recipe, exemplars)
    depth = len(recipe.passes) - 1
    shape = shape_at(exemplars, depth)
    side = canvas_side(recipe) >> depth
    inside = inner_places(shape, recipe)
    cells = max(1, round(side / recipe.cell))
    around, pitch = _SUBPIXEL * side, _SUBPIXEL * side // cells
    first = np.stack([*np.mgrid[:cells, :cells]], -1).reshape(-1, 2) * pitch
    points = first + rng.integers(0, pitch, first.shape)
    even = (np.arange(len(points)) + rng.random()) * len(inside) / len(points)
    centres = rng.permutation(inside[even.astype(int)])

    at = np.arange(side)[:, None] * _SUBPIXEL + _SUBPIXEL // 2
    # Offsets from the points of cells, on a torus; axes: row or column, then cell.
    down, right = ((at - p + around // 2) % around - around // 2 for p in points.T)
    cell = np.argmin(down[:, None] ** 2 + right**2, axis=-1)
    e, y, x = unravel(shape, centres[cell])
    rows = np.arange(side)
    y = y + (down[rows[:, None], cell] + _SUBPIXEL // 2) // _SUBPIXEL
    x = x + (right[rows, cell] + _SUBPIXEL // 2) // _SUBPIXEL
    margin = recipe.neighbourhood // 2
    return ravel(shape, e, _reflected(y, margin, shape[1]), _reflected(x, margin, shape[2]))


def _reflected(at: np.ndarray, margin: int, size: int) -> np.ndarray:
    """Reflects row or column numbers into margin .. size - margin - 1."""
    room = size - 2 * margin
    at = (at - margin) % (2 * room)
    return np.minimum(at, 2 * room - 1 - at) + margin


def photographs_at_once(platform: str) -> int:
    """Returns how many textures of photographs a device makes per call, by JAX platform."""
    return 4 if platform == "cpu" else 32


def compiled_synthesis(recipe: TextureRecipe, devices: Mesh) -> jax.stages.Wrapped:
    """Compiles `synthesise` with a fixed recipe for batches that are split over the devices."""
    split = PartitionSpec("data")
    # Split by hand, because the compiler would not split the loop over chunks of distances.
    parted = jax.shard_map(
        partial(synthesise, recipe=recipe), mesh=devices, in_specs=split, out_specs=split
    )
    return jax.jit(parted)


@partial(jax.jit, static_argnames="recipe")
def synthesise(exemplars: jax.Array, mosaics: jax.Array, recipe: TextureRecipe) -> Texture:
    """Makes textures.

    Args:
        exemplars: uint8 [N, E, h, w, 3].
        mosaics: int32 [N, side, side], each from `mosaic`.
        recipe: static.

    Raises:
        UsageError: exemplars and recipe do not go together.
    """
    n, count, height, width, _ = exemplars.shape
    shape = (count, height, width)
    validate(recipe, shape)
    pictures = [exemplars.astype(jnp.float32) - 128]
    for _ in recipe.passes[1:]:
        pictures.append(halved(pictures[-1]))
    source, similar = mosaics, None
    for step, correction in enumerate(corrections(recipe)):
        picture = pictures.pop()
        level_shape = shape_at(shape, len(pictures))
        inside = inner_places(level_shape, recipe)
        described = describe_exemplars(picture, recipe)
        if similar is None or pictures:
            similar = most_similar(described, level_shape, inside, recipe)
        else:
            # At the finest level, comparing all pairs would take longer than all other work.
            similar = inherited(similar, described, level_shape, inside)
        source = doubled(source, level_shape) if step else source
        colours = picture.reshape(n, -1, 3)
        level = Level(level_shape, inside, colours, described, similar)
        source = corrected(source, level, correction, recipe)
    source = source[:, : recipe.output_size, : recipe.output_size]
    return Texture(take(exemplars.reshape(n, -1, 3), source), source)
