"""`shapes`, the built-in data set: ten silhouettes, made on the fly, nothing to download.

The label is the silhouette; texture and colour say nothing about it. The data set lets you try the
whole program, and the claim that texture should not be trusted, on a laptop. It is no benchmark.
"""

from collections.abc import Callable, Sequence
from math import acos, atan2, copysign, cos, pi, sin, sqrt, tau
from operator import index as as_index
from threading import Lock

import numpy as np

from nsneg_jax.errors import UsageError
from nsneg_jax.extras import needed
from nsneg_jax.input.shapes import fills as textures

with needed("shapes", "Drawing the built-in pictures"):
    import cv2

CLASSES = (
    "disc",
    "triangle",
    "square",
    "star",
    "cross",
    "heart",
    "ellipse",
    "arrow",
    "crescent",
    "L",
)
SPLITS = ("train", "val", "test")
VERSIONS = ("clean", "sketch", "stylized", "rendition", "conflict")
SMALLEST, LARGEST = 16, 512  # sides in pixels
MOST = 100_000_000  # pictures

# Square root of the area, as a fraction of the picture's side. The longest silhouette, L, spans
# 1.76 times that, so that every one fits under every rotation.
_SCALE = (0.5, 0.54)
_MARGIN = 0.02
_SUPERSAMPLING = 4
_PEN = 0.03  # width of a sketch's line, as a fraction of the picture's side
# Probabilities in 'clean'. An encoder that has seen only filled silhouettes knows regions but no
# lines: without contours it is at chance on sketches, with or without negatives.
_PLAIN, _CONTOURED, _HOLLOW = 0.75, 0.5, 0.3
_CONTOUR_WIDTH = (0.04, 0.1)
_SHIFT_BITS = 6  # fixed point of the corners given to OpenCV

# Random streams for the parts of a picture, under its split, seed and index.
_GEOMETRY, _CLEAN, _STYLIZED, _RENDITION, _CONFLICT = range(5)

# of a picture: seed, split, version, side, index
_Key = tuple[int, str, str, int, int]


class PictureCache:
    """Keeps rendered pictures up to `limit` bytes; later pictures are not kept. Thread-safe.

    It never evicts: an epoch visits every picture once, so eviction would remove just those that
    the next epoch needs first.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self._pictures: dict[_Key, np.ndarray] = {}
        self._lock = Lock()

    def get(self, key: _Key, render: Callable[[], np.ndarray]) -> np.ndarray:
        """Returns the picture under `key`, uint8 [S, S, 3], a copy that the caller may change."""
        kept = self._pictures.get(key)
        if kept is not None:
            return kept.copy()
        picture = render()
        with self._lock:
            if key not in self._pictures and self.bytes + picture.nbytes <= self.limit:
                self._pictures[key] = picture.copy()
                self.bytes += picture.nbytes
        return picture


# One per process, so that all data sets together stay within the limit and share equal pictures. A
# module's variable is not pickled for worker processes.
_CACHE = PictureCache(512 * 2**20)


class Shapes:
    """A split of the data set in one version.

    Pictures depend only on seed, split, index, version and image size, to the bit on one machine;
    on another the last bit of a sine may differ, and a grey level with it. All versions of a
    picture show the same silhouette in the same place:

    * 'clean': a random texture (`fills.SEEN`) in random colours on a plain or faintly mottled
      ground; every second picture has a contour in the first of the two colours, and three in ten
      of these have only the contour;
    * 'sketch': a thin black outline on white, which 'clean' never shows;
    * 'stylized': textures from families that 'clean' never shows, inside and outside;
    * 'rendition': flat colours;
    * 'conflict': like 'clean' on a plain ground, but the texture consists of small copies of
      another class's silhouette.

    Args:
        split: 'train', 'val' or 'test', which share no pictures.
        image_size: side in pixels, 16 to 512. The same picture is drawn at every size.
        size: number of pictures; a longer set begins with the pictures of a shorter one.
        seed: 0 to 2**64 - 1; another seed gives other pictures.
        version: one of the above.

    Attributes:
        name: 'shapes/VERSION/SPLIT', with '@SEED' after the version if the seed is not 0.
        classes: names of the ten silhouettes.
        labels: int32 [size]; label i is i modulo 10, so every ten in a row are balanced.
        texture_labels: int32 [size], class of the small silhouettes in 'conflict', never the label;
            every ten in a row have each class once, every 90 each pair. None in other versions.

    Raises:
        UsageError: the split or version is unknown, or a size or the seed is out of range.
    """

    def __init__(
        self,
        split: str = "train",
        *,
        image_size: int,
        size: int,
        seed: int = 0,
        version: str = "clean",
    ) -> None:
        if split not in SPLITS:
            raise UsageError(
                f"The shapes data set has no split {split!r}. "
                f"Set the split to one of {', '.join(SPLITS)}."
            )
        if version not in VERSIONS:
            raise UsageError(
                f"The shapes data set has no version {version!r}. Choose one of "
                f"{', '.join(VERSIONS)} (corruptions are applied to clean pictures afterwards)."
            )
        if not SMALLEST <= image_size <= LARGEST:
            raise UsageError(
                f"The image size is {image_size} pixels, but the shapes data set is drawn at "
                f"{SMALLEST} to {LARGEST} pixels. Set the image size to a value in that range."
            )
        if not 1 <= size <= MOST:
            raise UsageError(
                f"The size of the shapes data set is {size}, but must lie between 1 and {MOST:,}. "
                "Give a number in that range, best a multiple of 10 for balanced classes."
            )
        if not 0 <= seed < 2**64:
            raise UsageError(
                f"The seed of the shapes data set is {seed}, but must lie between 0 and 2**64 - 1. "
                "Choose a seed in that range."
            )
        self.split = split
        self.image_size = image_size
        self.seed = seed
        self.version = version
        self.name = f"shapes/{version}{f'@{seed}' if seed else ''}/{split}"
        self.classes: tuple[str, ...] = CLASSES
        self.labels = np.arange(size, dtype=np.int32) % len(CLASSES)
        self.texture_labels: np.ndarray | None = None
        if version == "conflict":
            ahead = 1 + np.arange(size, dtype=np.int32) // len(CLASSES) % (len(CLASSES) - 1)
            self.texture_labels = (self.labels + ahead) % len(CLASSES)

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> np.ndarray:
        """Draws picture `index` in RGB, uint8 [image_size, image_size, 3]. Thread-safe.

        The caller may change it.

        Raises:
            IndexError: `index` is not in 0 .. len(self) - 1.
        """
        index = as_index(index)
        if not 0 <= index < len(self):
            raise IndexError(f"picture {index} of {len(self)}")
        key = (self.seed, self.split, self.version, self.image_size, index)
        return _CACHE.get(key, lambda: self._render(index))

    def _render(self, index: int) -> np.ndarray:
        outline = self._outline(index)
        if self.version == "sketch":
            ink = _stroke(outline, self.image_size, _PEN)
            return np.repeat(255 - ink[:, :, None], 3, axis=2)
        mask = _fill([outline], self.image_size)
        if self.version == "rendition":
            return _paint_rendition(self._stream(_RENDITION, index), mask)
        if self.version == "stylized":
            return _paint_stylized(self._stream(_STYLIZED, index), mask)
        if self.texture_labels is not None:
            small = _SILHOUETTES[self.texture_labels[index]]
            return _paint_conflict(self._stream(_CONFLICT, index), mask, small)
        return _paint_clean(self._stream(_CLEAN, index), mask, outline)

    def _outline(self, index: int) -> np.ndarray:
        """The silhouette's corners in place, float64 [P, 2], as fractions of the picture's side."""
        rng = self._stream(_GEOMETRY, index)
        turn, scale, mirror = textures.draw(rng, (0, tau), _SCALE, (-1, 1))
        corners = _SILHOUETTES[index % len(CLASSES)] * (copysign(scale, mirror), scale)
        x, y = corners[:, 0], corners[:, 1]
        corners = np.stack((x * cos(turn) - y * sin(turn), x * sin(turn) + y * cos(turn)), axis=1)
        low, high = corners.min(axis=0), corners.max(axis=0)
        room = 1 - 2 * _MARGIN - (high - low)
        return corners - low + _MARGIN + room * rng.random(2)

    def _stream(self, purpose: int, index: int) -> np.random.Generator:
        # Key and upper half of the counter select the stream; the lower half counts.
        counter = (0, 0, purpose, SPLITS.index(self.split))
        key = np.array((self.seed, index), np.uint64)
        return np.random.Generator(np.random.Philox(counter=np.array(counter, np.uint64), key=key))


def _paint_clean(rng: np.random.Generator, mask: np.ndarray, outline: np.ndarray) -> np.ndarray:
    plain, *pair = textures.colours(rng)
    ground: Sequence[np.ndarray | float] = plain
    (family,) = textures.pick(rng, textures.SEEN, 1)
    inside = _blend(pair, family(rng, len(mask)))
    if rng.random() >= _PLAIN:
        mottle = (textures.noise(rng, len(mask)) - 0.5) * 0.1
        ground = [value + mottle for value in plain]
    contoured, hollow, width = textures.draw(rng, (0, 1), (0, 1), _CONTOUR_WIDTH)
    if contoured >= _CONTOURED:
        return _compose(mask, inside, ground)
    line = _stroke(outline, len(mask), width).astype(np.float32) / 255
    if hollow < _HOLLOW:
        return _compose(line, pair[0], ground)
    inside = [
        value + line * (colour - value) for value, colour in zip(inside, pair[0], strict=True)
    ]
    return _compose(np.maximum(mask, line), inside, ground)


def _paint_stylized(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    outside, inside = textures.two_pairs(rng)
    around, within = textures.pick(rng, textures.UNSEEN, 2)
    ground = _blend(outside, around(rng, len(mask)))
    return _compose(mask, _blend(inside, within(rng, len(mask))), ground)


def _paint_rendition(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    ground, flat, _ = textures.colours(rng)
    return _compose(mask, flat, ground)


def _paint_conflict(
    rng: np.random.Generator, mask: np.ndarray, silhouette: np.ndarray
) -> np.ndarray:
    ground, *pair = textures.colours(rng)
    copies = _fill(textures.tile(rng, silhouette), len(mask))
    return _compose(mask, _blend(pair, copies), ground)


def _blend(pair: list[list[float]], share: np.ndarray) -> list[np.ndarray]:
    """Mixes two colours by a texture; returns red, green and blue, [S, S] each."""
    return [first + share * (second - first) for first, second in zip(*pair, strict=True)]


def _compose(
    mask: np.ndarray, inside: Sequence[np.ndarray | float], outside: Sequence[np.ndarray | float]
) -> np.ndarray:
    """Combines two paintings, red, green, blue in [0, 1] each, to one picture, uint8 [S, S, 3]."""
    picture = np.empty((*mask.shape, 3), np.uint8)
    for channel, (figure, ground) in enumerate(zip(inside, outside, strict=True)):
        plane = ground + mask * (figure - ground)
        picture[..., channel] = np.clip(plane * 255 + 0.5, 0, 255)
    return picture


def _fill(outlines: Sequence[np.ndarray], size: int) -> np.ndarray:
    """Coverage of each pixel by silhouettes that do not overlap, float32 [S, S] in [0, 1]."""
    canvas = np.zeros((size * _SUPERSAMPLING,) * 2, np.uint8)
    points = [_fixed_point(outline, len(canvas)) for outline in outlines]
    cv2.fillPoly(canvas, points, 255, shift=_SHIFT_BITS)
    coverage = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
    return coverage.astype(np.float32) / 255


def _stroke(outline: np.ndarray, size: int, pen: float) -> np.ndarray:
    """Coverage of each pixel by a pen that follows the silhouette's edge, uint8 [S, S].

    The pen's width is `pen` times the picture's side, but at least a pixel.
    """
    canvas = np.zeros((size * _SUPERSAMPLING,) * 2, np.uint8)
    width = max(_SUPERSAMPLING, round(pen * len(canvas)))
    points = _fixed_point(outline, len(canvas))
    cv2.polylines(canvas, [points], True, 255, width, shift=_SHIFT_BITS)
    return cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)


def _fixed_point(outline: np.ndarray, side: int) -> np.ndarray:
    # OpenCV counts from the centre of the first pixel.
    return np.rint((outline * side - 0.5) * 2**_SHIFT_BITS).astype(np.int32)


def _silhouettes() -> list[np.ndarray]:
    """The classes' corners, float64 [P, 2] each, with area 1."""

    def polygon(*corners: tuple[float, float]) -> np.ndarray:
        return np.array(corners, float)

    t = np.linspace(0, tau, 64, endpoint=False)
    spokes = pi * np.arange(10) / 5
    reach = np.where(np.arange(10) % 2, 0.45, 1)
    # A disc without the part that a smaller disc to the right covers; they meet at `tip`.
    bite, offset = 0.8, 0.45
    tip = acos((1 + offset**2 - bite**2) / (2 * offset))
    inner_tip = atan2(sin(tip), cos(tip) - offset)
    outer = _circle(np.linspace(tip, tau - tip, 48))
    inner = _circle(np.linspace(tau - inner_tip, inner_tip, 48)[1:-1]) * bite + (offset, 0)
    heart = (16 * np.sin(t) ** 3, 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t))
    drawn = {
        "disc": _circle(t),
        "triangle": _circle(tau * np.arange(3) / 3),
        "square": polygon((0, 0), (1, 0), (1, 1), (0, 1)),
        "star": _circle(spokes) * reach[:, None],
        "cross": polygon(
            *((1, 3), (1, 1), (3, 1), (3, -1), (1, -1), (1, -3)),
            *((-1, -3), (-1, -1), (-3, -1), (-3, 1), (-1, 1), (-1, 3)),
        ),
        "heart": np.stack(heart, axis=1),
        "ellipse": _circle(t) * (2, 1),
        "arrow": polygon(
            (-3, -1.2), (0.2, -1.2), (0.2, -3), (4, 0), (0.2, 3), (0.2, 1.2), (-3, 1.2)
        ),
        "crescent": np.concatenate((outer, inner)),
        "L": polygon((0, 0), (3, 0), (3, 1.3), (1.3, 1.3), (1.3, 3.4), (0, 3.4)),
    }
    return [drawn[name] / sqrt(_area(drawn[name])) for name in CLASSES]


def _circle(t: np.ndarray) -> np.ndarray:
    return np.stack((np.cos(t), np.sin(t)), axis=1)


def _area(corners: np.ndarray) -> float:
    x, y = corners.T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


_SILHOUETTES = _silhouettes()
