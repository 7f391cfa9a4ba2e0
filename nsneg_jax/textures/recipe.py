"""How textures are made, and the geometry of exemplars, levels and places."""

from dataclasses import dataclass
from typing import TypeVar

import jax
import numpy as np

from nsneg_jax.errors import UsageError

Shape = tuple[int, int, int]
Array = TypeVar("Array", np.ndarray, jax.Array)


@dataclass(frozen=True)
class TextureRecipe:
    """How textures are made.

    Attributes:
        output_size: side S of the square textures in pixels.
        passes: passes of correction per level of the pyramid, from coarse to fine; a pass visits
            each pixel once. Levels differ by a factor of two; more levels keep larger structures.
        neighbourhood: side of a neighbourhood in pixels of the level: 3, 5, 7 or 9.
        frequencies: bounds for luminance and colours: neighbourhoods are compared by the
            coefficients (u, v) of their cosine transforms with u + v below these.
        similar: number of similar places to keep per place.
        jump_cost: a place that continues no neighbour's place costs 1 + this times its distance. A
            higher cost copies larger pieces of an exemplar. 0 to 16.
        use_cost: cost of a place with mean use, in quarters of the 95th percentile of distances to
            the most similar place. 0 to 16.
        cell: approximate side of the mosaic's cells, in pixels of the coarsest level.
    """

    output_size: int = 224
    passes: tuple[int, ...] = (3, 2, 2)
    neighbourhood: int = 5
    frequencies: tuple[int, int] = (6, 2)
    similar: int = 2
    jump_cost: int = 1
    use_cost: int = 2
    cell: int = 10


def validate(recipe: TextureRecipe, exemplars: Shape) -> None:
    """Checks a recipe, and that exemplars (E, h, w) suit it.

    Raises:
        UsageError: a field is wrong, or the exemplars do not suit; the message names it.
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
    # With 11, distances would exceed 2^24, beyond which float32 is not exact.
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
    # A share must not consist only of neighbours of the place itself.
    room = count * ((height >> levels - 1) - side + 1) * ((width >> levels - 1) - side + 1)
    most = max(1, room // (2 * side * side))
    expect(
        1 <= recipe.similar <= most,
        "number of similar places",
        recipe.similar,
        f"1 to {most} for these exemplars",
    )


def shape_at(shape: Shape, depth: int) -> Shape:
    """Returns (E, h, w) of exemplars `depth` levels above the level of `shape`."""
    count, height, width = shape
    return count, height >> depth, width >> depth


def canvas_side(recipe: TextureRecipe) -> int:
    """Returns the side of the canvas: `output_size`, or more so that all levels have even sides."""
    factor = 2 ** len(recipe.passes)
    return -(-recipe.output_size // factor) * factor


def inner_places(shape: Shape, recipe: TextureRecipe) -> np.ndarray:
    """Returns the places whose neighbourhoods lie within their exemplar, int32."""
    r = recipe.neighbourhood // 2
    places = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    return places[:, r : shape[1] - r, r : shape[2] - r].ravel()


def unravel(shape: Shape, places: Array) -> tuple[Array, Array, Array]:
    """Returns exemplar, row and column of places; inverts `ravel`."""
    _, height, width = shape
    return places // (height * width), places // width % height, places % width


def ravel(shape: Shape, e: Array, y: Array, x: Array) -> Array:
    """Returns the places, int32, in row y and column x of exemplar e."""
    _, height, width = shape
    return ((e * height + y) * width + x).astype(np.int32)
