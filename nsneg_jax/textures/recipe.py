"""How textures are made, and the geometry of exemplars, levels and places."""

from dataclasses import dataclass
from typing import NamedTuple, TypeVar

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
        similar: most similar places to keep per place; a level of few places keeps fewer.
        jump_cost: a place that continues no neighbour's place costs 1 + this times its distance. A
            higher cost copies larger pieces of an exemplar, with harder seams. 0 to 16; one number,
            or one per level from coarse to fine.
        use_cost: cost of a place with mean use, in quarters of the 95th percentile of distances to
            the most similar place. A higher cost uses more of the exemplars, in smaller pieces. 0
            to 16; one number, or one per level from coarse to fine.
        cell: approximate side of the mosaic's cells, in pixels of the coarsest level.
    """

    output_size: int = 224
    passes: tuple[int, ...] = (4, 3, 2, 2)
    neighbourhood: int = 5
    frequencies: tuple[int, int] = (6, 2)
    similar: int = 2
    jump_cost: int | tuple[int, ...] = (0, 0, 1, 1)
    use_cost: int | tuple[int, ...] = (2, 1, 0, 0)
    cell: int = 8


# By name. The names are kept, so that data sets made earlier can be completed.
RECIPES = {
    "coherent": TextureRecipe(),
    "patchwork": TextureRecipe(passes=(3, 2, 2), jump_cost=1, use_cost=2, cell=10),
}


class Correction(NamedTuple):
    """What is done at a level; see `TextureRecipe`."""

    passes: int
    jump_cost: int
    use_cost: int


def corrections(recipe: TextureRecipe) -> list[Correction]:
    """Returns the corrections of all levels, from coarse to fine."""
    costs = (_per_level(cost, recipe) for cost in (recipe.jump_cost, recipe.use_cost))
    return [Correction(*level) for level in zip(recipe.passes, *costs, strict=True)]


def _per_level(cost: int | tuple[int, ...], recipe: TextureRecipe) -> tuple[int, ...]:
    return cost if isinstance(cost, tuple) else (cost,) * len(recipe.passes)


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
        each = _per_level(cost, recipe)
        expect(
            len(each) == levels and all(one in range(17) for one in each),
            name,
            cost,
            f"a whole number of 0 to 16, or {levels} of them, one for each level",
        )
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
        f"neighbourhoods of {side} pixels; take other exemplars or a recipe of fewer levels",
    )
    most = _most_similar(shape_at(exemplars, min(1, levels - 1)), recipe)
    expect(
        1 <= recipe.similar <= most,
        "number of similar places",
        recipe.similar,
        f"1 to {most} for these exemplars",
    )


def similar_at(shape: Shape, recipe: TextureRecipe) -> int:
    """Returns how many similar places each place of a level of that shape has."""
    return min(recipe.similar, _most_similar(shape, recipe))


def _most_similar(shape: Shape, recipe: TextureRecipe) -> int:
    # A share must not consist only of neighbours of the place itself.
    side = recipe.neighbourhood
    room = shape[0] * (shape[1] - side + 1) * (shape[2] - side + 1)
    return max(1, room // (2 * side * side))


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
