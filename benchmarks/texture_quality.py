"""Measures textures of every recipe on photographs, beside two baselines; draws a contact sheet.

    python -m benchmarks.texture_quality --root FOLDER --images 60
    python -m benchmarks.texture_quality --root FOLDER --images 22 --sheet docs/textures.jpg

FOLDER holds train/CLASS/*.jpg; scikit-image's brick, grass, gravel, coffee, cat and astronaut come
first (it is in requirements-dev.txt). Prints a Markdown table of means over the images. The
baselines make a texture from the same two exemplars: `tiling` puts random patches of 32 pixels side
by side, `resampling` takes every pixel from its own random place.

* window distance: distance of 7x7 windows to the nearest window in the exemplars, root mean square
  in grey levels; at random places, and across the tiling's seams. `halves` is the distance of
  windows in one half of an exemplar to the nearest in its other half.
* spectrum: root mean square difference in dB of the radially averaged power of luminance from the
  exemplars. colours: mean difference of sorted colour values (Wasserstein-1), in grey levels.
* copied block: side in pixels of the largest square that is one piece of an exemplar.
* correlation: correlation of luminance with the central square of the source image, at full size
  and with both reduced to 14x14.
* pixels of the exemplars in use, neighbours that continue a piece, contrast: see
  `benchmarks.texture_pieces`.
"""

import argparse
import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image
from skimage import data

from benchmarks.texture_pieces import pieces
from nsneg_jax.errors import UsageError, tell
from nsneg_jax.input.sources.folders.folder import Folder
from nsneg_jax.textures.recipe import RECIPES, TextureRecipe
from nsneg_jax.textures.synthesis import (
    cut_exemplars,
    mosaic,
    random_generator,
    synthesise,
)

_SAMPLES = ("brick", "grass", "gravel", "coffee", "cat", "astronaut")
_WINDOW = 7
_TILE = 32
_BATCH = 8


class Made(NamedTuple):
    """A texture, uint8 [S, S, 3], and its places in the exemplars, [S, S]."""

    image: np.ndarray
    source: np.ndarray


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.texture_quality", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--root", help="folder with train/CLASS/*.jpg; without it samples alone")
    parser.add_argument("--split", default="train")
    parser.add_argument("--images", type=int, default=60, help="in all, samples included")
    parser.add_argument("--windows", type=int, default=800, help="compared at each kind of place")
    parser.add_argument("--sheet", help="writes this contact sheet instead of the table")
    options = parser.parse_args(arguments)
    try:
        names, images = choose(options.root, options.split, options.images)
        ours = {}
        for name, recipe in RECIPES.items():
            exemplars, ours[name] = make(names, images, recipe)
        if options.sheet:
            sheet(images, exemplars, ours).save(options.sheet, quality=82)
        else:
            print(table(names, images, exemplars, ours, options.windows))
    except UsageError as error:
        return tell(error)
    return 0


def choose(root: str | None, split: str, count: int) -> tuple[list[str], list[np.ndarray]]:
    """Returns names and images, uint8 [H, W, 3]: samples, then evenly spaced photographs."""
    names = list(_SAMPLES[:count])
    images = [getattr(data, name)() for name in names]
    images = [np.stack([i] * 3, -1) if i.ndim == 2 else i for i in images]
    if root is not None and count > len(names):
        folder = Folder(root, split)
        left = min(count - len(names), len(folder))
        for place in range(left):
            index = (2 * place + 1) * len(folder) // (2 * left)
            names.append(folder.path(index))
            images.append(folder.image(index))
    return names, images


def make(
    names: list[str], images: list[np.ndarray], recipe: TextureRecipe
) -> tuple[np.ndarray, list[Made]]:
    """Returns the exemplars, uint8 [N, 2, 96, 96, 3], and our textures."""
    rngs = [random_generator(0, name) for name in names]
    exemplars = np.stack(
        [cut_exemplars(rng, image) for rng, image in zip(rngs, images, strict=True)]
    )
    mosaics = np.stack([mosaic(rng, exemplars.shape[1:4], recipe) for rng in rngs])
    made: list[Made] = []
    for start in range(0, len(names), _BATCH):
        part = slice(start, start + _BATCH)
        texture = synthesise(exemplars[part], mosaics[part], recipe)
        made.extend(map(Made, np.asarray(texture.image), np.asarray(texture.source)))
    return exemplars, made


def tiling(rng: np.random.Generator, exemplars: np.ndarray, size: int) -> Made:
    """Puts random patches side by side."""
    e, h, w = exemplars.shape[:3]
    places = np.arange(e * h * w).reshape(e, h, w)
    cells = -(-size // _TILE)
    source = np.empty((cells * _TILE, cells * _TILE), int)
    for row in range(0, len(source), _TILE):
        for column in range(0, len(source), _TILE):
            of, y, x = rng.integers((e, h - _TILE + 1, w - _TILE + 1))
            patch = places[of, y : y + _TILE, x : x + _TILE]
            source[row : row + _TILE, column : column + _TILE] = patch
    source = source[:size, :size]
    return Made(exemplars.reshape(-1, 3)[source], source)


def resampling(rng: np.random.Generator, exemplars: np.ndarray, size: int) -> Made:
    """Takes every pixel from its own random place."""
    source = rng.integers(0, exemplars[..., 0].size, (size, size))
    return Made(exemplars.reshape(-1, 3)[source], source)


def windows(image: np.ndarray) -> np.ndarray:
    """Returns all windows of [H, W, 3] as float32 [H - 6, W - 6, 147]."""
    view = np.lib.stride_tricks.sliding_window_view(image, (_WINDOW, _WINDOW), (0, 1))
    return view.reshape(*view.shape[:2], -1).astype(np.float32)


def nearest(these: np.ndarray, those: np.ndarray) -> np.ndarray:
    """Returns the root mean square distance of each row of `these` to the nearest of `those`."""
    centre = those.mean(0)
    these, those = these - centre, those - centre  # else float32 would lose small distances
    best = np.full(len(these), np.inf, np.float32)
    for part in np.array_split(those, -(-len(those) // 4096)):
        np.minimum(best, ((part**2).sum(1) - 2 * these @ part.T).min(1), out=best)
    return np.sqrt(np.maximum(best + (these**2).sum(1), 0) / these.shape[1])


def window_distances(
    rng: np.random.Generator, image: np.ndarray, exemplars: np.ndarray, count: int
) -> tuple[float, float]:
    """Returns the mean distance to the nearest exemplar window, at random places and at seams."""
    own = windows(image)
    side = len(own)
    anywhere = own.reshape(-1, own.shape[-1])
    # windows start at most 6 pixels before a seam
    start = np.arange(side)
    across = (start % _TILE > _TILE - _WINDOW) & (start + _WINDOW < len(image))
    seams = own[across[:, None] | across]
    theirs = np.concatenate([windows(e).reshape(-1, own.shape[-1]) for e in exemplars])

    def mean(places: np.ndarray) -> float:
        return float(nearest(rng.permutation(places)[:count], theirs).mean())

    return mean(anywhere), mean(seams)


def half_distance(rng: np.random.Generator, exemplars: np.ndarray, count: int) -> float:
    """Mean distance of windows in one half of an exemplar to the nearest in its other half."""
    distances = []
    middle = exemplars.shape[2] // 2
    for exemplar in exemplars:
        for image in (exemplar, exemplar.swapaxes(0, 1)):
            halves = [windows(h).reshape(-1, 147) for h in (image[:, :middle], image[:, middle:])]
            for one, other in (halves, halves[::-1]):
                distances.append(nearest(rng.permutation(one)[: count // 8], other).mean())
    return float(np.mean(distances))


def luminance(image: np.ndarray) -> np.ndarray:
    return image @ np.array([0.299, 0.587, 0.114])


def spectrum(image: np.ndarray, side: int) -> np.ndarray:
    """Returns the radially averaged power in dB of Hann-weighted windows of `side` pixels."""
    taper = np.outer(np.hanning(side), np.hanning(side))
    starts = np.unique(np.linspace(0, len(image) - side, 3).astype(int))
    power = np.zeros((side, side))
    for top in starts:
        for left in starts:
            part = luminance(image[top : top + side, left : left + side])
            power += np.abs(np.fft.fft2((part - part.mean()) * taper)) ** 2
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(side, 1 / side)] * 2))
    ring = np.rint(frequency).astype(int).ravel()
    rings = np.bincount(ring, power.ravel()) / np.bincount(ring) / len(starts) ** 2
    # The added term is the power of rounding to whole grey levels.
    return 10 * np.log10(rings[1 : side // 2] + (taper**2).sum() / 12)


def spectrum_difference(image: np.ndarray, exemplars: np.ndarray) -> float:
    side = exemplars.shape[1]
    theirs = np.mean([10 ** (spectrum(e, side) / 10) for e in exemplars], axis=0)
    return float(np.sqrt(np.mean((spectrum(image, side) - 10 * np.log10(theirs)) ** 2)))


def colour_difference(image: np.ndarray, exemplars: np.ndarray) -> float:
    quantiles = (np.arange(256) + 0.5) / 256
    ours, theirs = (
        np.quantile(pixels.reshape(-1, 3), quantiles, axis=0) for pixels in (image, exemplars)
    )
    return float(np.abs(ours - theirs).mean())


def copied_block(source: np.ndarray, width: int) -> int:
    """Returns the side of the largest square in `source` that is one piece of an exemplar."""
    right = source[1:, 1:] == source[1:, :-1] + 1
    down = source[1:, 1:] == source[:-1, 1:] + width
    corner = source[1:, 1:] == source[:-1, :-1] + width + 1
    joined = right & down & corner
    side = np.ones(source.shape, int)
    for y in range(1, len(source)):
        for x in np.flatnonzero(joined[y - 1]) + 1:
            side[y, x] = 1 + min(side[y - 1, x], side[y, x - 1], side[y - 1, x - 1])
    return int(side.max())


def correlations(image: np.ndarray, original: np.ndarray) -> tuple[float, float]:
    """Returns the correlation of luminance with the source's central square, whole and at 14x14."""
    height, width = original.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = Image.fromarray(original[top : top + side, left : left + side])
    pair = (square, Image.fromarray(image))
    found = []
    for size in (len(image), 14):
        small = (p.resize((size, size), Image.Resampling.BOX) for p in pair)
        levels = (luminance(np.asarray(p)) for p in small)
        one, other = (p.ravel() - p.mean() for p in levels)
        scale = np.sqrt((one @ one) * (other @ other))
        found.append(float(one @ other / scale) if scale > 0 else 0.0)
    return found[0], found[1]


def table(
    names: list[str],
    images: list[np.ndarray],
    exemplars: np.ndarray,
    ours: dict[str, list[Made]],
    count: int,
) -> str:
    """Returns all figures as a Markdown table."""
    figures: dict[str, list[list[float]]] = {name: [] for name in (*ours, "tiling", "resampling")}
    halves = []
    size = len(next(iter(ours.values()))[0].image)
    for index, name in enumerate(names):
        rng = random_generator(1, name)
        own = exemplars[index]
        made = {
            **{recipe: textures[index] for recipe, textures in ours.items()},
            "tiling": tiling(rng, own, size),
            "resampling": resampling(rng, own, size),
        }
        halves.append(half_distance(rng, own, count))
        for method, texture in made.items():
            figures[method].append(
                [
                    *window_distances(rng, texture.image, own, count),
                    spectrum_difference(texture.image, own),
                    colour_difference(texture.image, own),
                    copied_block(texture.source, own.shape[2]),
                    *correlations(texture.image, images[index]),
                    *pieces(texture.source, own),
                ]
            )
    rows = {method: np.array(values) for method, values in figures.items()}
    half = float(np.mean(halves))
    lines = [f"| {len(names)} images | " + " | ".join(rows) + " |", "|---" * (1 + len(rows)) + "|"]

    def line(title: str, cell: Callable[[np.ndarray], str]) -> None:
        lines.append(f"| {title} | " + " | ".join(cell(v) for v in rows.values()) + " |")

    def means(*columns: int) -> Callable[[np.ndarray], str]:
        return lambda v: ", ".join(f"{np.nanmean(v[:, column]):.2f}" for column in columns)

    def mean_and_size(column: int) -> Callable[[np.ndarray], str]:
        return lambda v: f"{v[:, column].mean():+.3f}, {np.abs(v[:, column]).mean():.3f}"

    line("pixels of the exemplars in use", means(7))
    line("of the texture, from the exemplar used less", means(8))
    line("neighbours that continue a piece", means(9))
    line("contrast at seams over the exemplars'", means(10))
    line("contrast everywhere over the exemplars'", means(11))
    line("window distance, anywhere (grey levels)", means(0))
    line("window distance, across the tiling's seams (grey levels)", means(1))
    line(
        f"window distance, anywhere, over that of halves, {half:.2f}", lambda v: means(0)(v / half)
    )
    line("spectrum (dB)", means(2))
    line("colours (grey levels)", means(3))
    line(
        "copied block (px): median, largest",
        lambda v: f"{np.median(v[:, 4]):.0f}, {v[:, 4].max():.0f}",
    )
    line("correlation with the source: mean, mean size", mean_and_size(5))
    line("the same at 14x14", mean_and_size(6))
    return "\n".join(lines)


def sheet(
    images: list[np.ndarray], exemplars: np.ndarray, ours: dict[str, list[Made]]
) -> Image.Image:
    """Draws each source image, reduced, its exemplars, its textures by recipe; two per row."""
    textures = list(zip(*ours.values(), strict=True))
    size, small = len(textures[0][0].image), exemplars.shape[2]
    gap, photo = 6, 224
    width = photo + small + 2 * gap + len(ours) * (size + gap)
    height = max(size, 2 * small + gap) + gap
    canvas = Image.new("RGB", (2 * width, -(-len(images) // 2) * height), "white")
    for index, (image, pair, made) in enumerate(zip(images, exemplars, textures, strict=True)):
        left, top = index % 2 * width, index // 2 * height
        reduced = Image.fromarray(image)
        reduced.thumbnail((photo, size), Image.Resampling.BOX)
        canvas.paste(reduced, (left + photo - reduced.width, top))
        left += photo + gap
        for place, exemplar in enumerate(pair):
            canvas.paste(Image.fromarray(exemplar), (left, top + place * (small + gap)))
        for place, texture in enumerate(made):
            at = left + small + gap + place * (size + gap)
            canvas.paste(Image.fromarray(texture.image), (at, top))
    return canvas


if __name__ == "__main__":
    sys.exit(main())
