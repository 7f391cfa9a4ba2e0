"""The textures and colours of the built-in data set.

A texture is a map of two colours: float32 [S, S] in [0, 1], 0 where the first colour shows and 1
where the second does, with antialiased edges. Lengths are fractions of the picture's side, so a
generator in the same state paints the same texture at every size.

`SEEN` are the families of the training pictures; `UNSEEN` are kept for the stylized version.
"""

from collections.abc import Callable
from math import copysign, cos, pi, sin, sqrt, tau

import numpy as np

from nsneg_jax.extras import needed

with needed("shapes", "Drawing the built-in pictures"):
    import cv2

Texture = Callable[[np.random.Generator, int], np.ndarray]

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as in the grayscale of views


def stripes(rng: np.random.Generator, size: int) -> np.ndarray:
    """Parallel bands with sharp edges."""
    angle, period, duty = draw(rng, (0, pi), (0.12, 0.25), (0.35, 0.65))
    return _bands(_along(angle, size), period, duty)


def plaid(rng: np.random.Generator, size: int) -> np.ndarray:
    """Two crossing sets of bands, half mixed where there is only one of them."""
    angle = rng.uniform(0, pi)
    first, second = (
        _bands(_along(angle + turn, size), *draw(rng, (0.12, 0.25), (0.3, 0.6)))
        for turn in (0, pi / 2)
    )
    return (first + second) / 2


def checks(rng: np.random.Generator, size: int) -> np.ndarray:
    """A chessboard."""
    angle, period = draw(rng, (0, pi), (0.16, 0.32))
    rows, columns = (_bands(_along(angle + turn, size), period, 0.5) for turn in (0, pi / 2))
    return _either(rows, columns)


def dots(rng: np.random.Generator, size: int) -> np.ndarray:
    """Round dots on a square lattice."""
    angle, period, radius = draw(rng, (0, pi), (0.13, 0.25), (0.28, 0.42))
    shifts = draw(rng, (0, 1), (0, 1))
    a = _fraction(_along(angle, size) / period + shifts[0]) - 0.5
    b = _fraction(_along(angle + pi / 2, size) / period + shifts[1]) - 0.5
    return _covered((radius - np.sqrt(a * a + b * b)) * period)


def noise(rng: np.random.Generator, size: int) -> np.ndarray:
    """Soft random blotches."""
    field = _random_field(rng, int(rng.integers(6, 12)), size)
    return np.clip((field - 0.5) * 1.5 + 0.5, 0, 1)


def waves(rng: np.random.Generator, size: int) -> np.ndarray:
    """Soft undulating bands, without sharp edges."""
    angle, period = draw(rng, (0, pi), (0.12, 0.24))
    swing, length, phase = draw(rng, (0.04, 0.09), (0.3, 0.6), (0, tau))
    bend = np.sin(_along(angle + pi / 2, size) * (tau / length) + phase) * swing
    return np.sin((_along(angle, size) + bend) * (tau / period)) * 0.5 + 0.5


def rings(rng: np.random.Generator, size: int) -> np.ndarray:
    """Concentric rings around a point near the middle."""
    x, y, period, duty = draw(rng, (0.3, 0.7), (0.3, 0.7), (0.1, 0.2), (0.35, 0.65))
    return _bands(_distance(x, y, size), period, duty)


def bricks(rng: np.random.Generator, size: int) -> np.ndarray:
    """A brick wall: the first colour is the mortar."""
    angle, height, ratio, shift = draw(rng, (0, pi), (0.12, 0.18), (1.7, 2.4), (0, 1))
    rows = _along(angle + pi / 2, size) / height + shift
    # Every other row starts half a brick later.
    columns = _along(angle, size) / (height * ratio) + np.floor(rows) * 0.5
    bed = 0.5 - np.abs(_fraction(rows) - 0.5)
    butt = (0.5 - np.abs(_fraction(columns) - 0.5)) * ratio
    return _covered((np.minimum(bed, butt) - 0.12) * height)


def cells(rng: np.random.Generator, size: int) -> np.ndarray:
    """Voronoi cells like leaded glass: the first colour is the lead."""
    side = int(rng.integers(4, 7))
    squares = np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2)
    centres = (squares + rng.uniform(0.1, 0.9, squares.shape)) / side
    nearest = second = np.full((size, size), 9, np.float32)
    for x, y in centres.tolist():
        distance = _distance(x, y, size)
        second = np.minimum(second, np.maximum(nearest, distance))
        nearest = np.minimum(nearest, distance)
    return _covered((second - nearest) / 2 - 0.1 / side)


def marble(rng: np.random.Generator, size: int) -> np.ndarray:
    """Thin irregular veins."""
    angle, period, swing = draw(rng, (0, pi), (0.3, 0.5), (0.6, 0.9))
    bend = _random_field(rng, 5, size) * swing
    return np.sqrt(np.abs(np.sin((_along(angle, size) + bend) * (tau / period))))


def triangles(rng: np.random.Generator, size: int) -> np.ndarray:
    """Triangles of one colour between triangles of the other."""
    angle, period = draw(rng, (0, pi), (0.26, 0.42))
    # A quarter of a period each makes the edges of all three meet in points.
    bands = [_bands(_along(angle + k * tau / 3, size) + period / 4, period, 0.5) for k in range(3)]
    return _either(_either(bands[0], bands[1]), bands[2])


SEEN: dict[str, Texture] = {f.__name__: f for f in (stripes, plaid, checks, dots, noise, waves)}
UNSEEN: dict[str, Texture] = {f.__name__: f for f in (rings, bricks, cells, marble, triangles)}


def tile(rng: np.random.Generator, silhouette: np.ndarray) -> list[np.ndarray]:
    """Tiles the picture with small copies of a silhouette; returns their corners, [P, 2] each.

    The copies do not overlap and share one rotation. A cell of the lattice has the proportions of
    the silhouette's bounding box and the same area for every silhouette.
    """
    turn, period, mirror, *shifts = draw(rng, (0, tau), (0.2, 0.25), (-1, 1), (0, 1), (0, 1))
    low, high = silhouette.min(axis=0), silhouette.max(axis=0)
    cell = (high - low) * 1.25
    corners = (silhouette - (low + high) / 2) * (copysign(1, mirror), 1)
    scale = period / sqrt(cell[0] * cell[1])
    cell, corners = cell * scale, corners * scale
    # Enough cells to reach the picture's corners at any angle.
    columns, rows = (np.arange(-n, n + 1) for n in np.ceil(1 / cell).astype(int))
    rotate = np.array([[cos(turn), sin(turn)], [-sin(turn), cos(turn)]])
    return [
        (corners + (np.array((column, row)) + shifts) * cell) @ rotate + 0.5
        for column in columns.tolist()
        for row in rows.tolist()
    ]


def pick(rng: np.random.Generator, families: dict[str, Texture], count: int) -> list[Texture]:
    """Picks `count` different families, all equally likely."""
    order = rng.permutation(len(families))[:count]
    return [tuple(families.values())[i] for i in order]


def colours(rng: np.random.Generator) -> tuple[list[float], list[float], list[float]]:
    """Draws a ground colour and two that stand out from it; red, green, blue in [0, 1] each.

    Both are lighter than the ground or both darker, by a luma of at least 0.3, so that the shape
    shows in any mixture of them, and in grayscale.
    """
    ground = rng.uniform(0.05, 0.4)
    near, far = ground + 0.3, 0.97
    # From the two outer thirds of the remaining range, so that the texture shows too.
    thirds = draw(rng, (0, 1 / 3), (2 / 3, 1))
    lumas = [near + (far - near) * place for place in rng.permutation(thirds).tolist()]
    if rng.random() < 0.5:
        ground, lumas = 1 - ground, [1 - luma for luma in lumas]
    return _colour(rng, ground), _colour(rng, lumas[0]), _colour(rng, lumas[1])


def two_pairs(rng: np.random.Generator) -> tuple[list[list[float]], list[list[float]]]:
    """Draws two pairs of colours, one dark and one light, at least 0.3 apart in luma."""
    dark = [_colour(rng, luma) for luma in draw(rng, (0.03, 0.12), (0.25, 0.34))]
    light = [_colour(rng, luma) for luma in draw(rng, (0.64, 0.74), (0.86, 0.97))]
    for pair in (dark, light):
        rng.shuffle(pair)
    return (dark, light) if rng.random() < 0.5 else (light, dark)


def draw(rng: np.random.Generator, *ranges: tuple[float, float]) -> list[float]:
    """Draws one uniform number per range."""
    # Plain floats, because NumPy's own would turn float32 arrays into float64.
    places = rng.random(len(ranges)).tolist()
    return [a + (b - a) * place for (a, b), place in zip(ranges, places, strict=True)]


def _colour(rng: np.random.Generator, luma: float) -> list[float]:
    """A random colour of the given luma."""
    tint = rng.random(3).tolist()
    own = sum(weight * value for weight, value in zip(_LUMA, tint, strict=True))
    # Towards black or towards white: both keep the hue and stay within [0, 1].
    if luma < own:
        return [value * luma / own for value in tint]
    return [1 - (1 - value) * (1 - luma) / (1 - own) for value in tint]


def _along(angle: float, size: int) -> np.ndarray:
    """Returns each pixel's distance from the top-left corner along `angle`, [S, S]."""
    axis = _axis(size)
    return axis * cos(angle) + (axis * sin(angle))[:, None]


def _distance(x: float, y: float, size: int) -> np.ndarray:
    dx, dy = _axis(size) - x, _axis(size) - y
    return np.sqrt(dx * dx + (dy * dy)[:, None])


def _axis(size: int) -> np.ndarray:
    return (np.arange(size, dtype=np.float32) + 0.5) / size


def _fraction(values: np.ndarray) -> np.ndarray:
    return values - np.floor(values)


def _bands(position: np.ndarray, period: float, duty: float) -> np.ndarray:
    """Bands of width `duty * period`, one per period."""
    off_centre = np.abs(_fraction(position / period) - 0.5)
    return _covered((duty / 2 - off_centre) * period)


def _covered(depth: np.ndarray) -> np.ndarray:
    """Share of each pixel within an edge, from its signed distance to it, positive inside."""
    return np.clip(depth * len(depth) + 0.5, 0, 1)


def _either(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """One of the two but not both."""
    return a + b - 2 * a * b


def _random_field(rng: np.random.Generator, side: int, size: int) -> np.ndarray:
    """Smooth noise in [0, 1], [S, S], from `side` x `side` independent values."""
    grid = rng.random((side, side), np.float32)
    return np.clip(cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC), 0, 1)
