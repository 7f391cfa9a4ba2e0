"""Pictures of frost for the frost corruption, made without photographs.

The benchmark's generator blends in five photographs of ice, which this package does not have. Five
procedural pictures replace them: sheets of ice, leaves of ice, rime and ferns of frost. Their mean
colours and contrasts, which set the strength of the corruption, are close to the photographs'.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image

from nsneg_jax.corruptions.resampling import PUBLISHED_SIDE, gaussian

_SIDE = 2 * PUBLISHED_SIDE


class _Ice(NamedTuple):
    """Grey levels and contents of a picture.

    Attributes:
        mean: mean of red, green and blue in grey levels.
        deviation: standard deviation in grey levels.
        ferns: number of ferns.
        length: length of their stems in pixels.
        angle: angle between a stem and its branches in degrees.
        width: width of a branch in pixels.
        clouds: weight of the clouds.
        veins: weight of the folds.
    """

    mean: tuple[int, int, int]
    deviation: float
    ferns: int
    length: float
    angle: float
    width: float
    clouds: float
    veins: float


_PICTURES = (
    _Ice((78, 149, 166), 19, 0, 0, 0, 1.0, 1.0, 0.6),
    _Ice((201, 205, 214), 22, 1000, 70, 12, 1.2, 0.5, 0.0),
    _Ice((200, 206, 212), 22, 320, 110, 18, 1.5, 0.6, 0.15),
    _Ice((140, 154, 166), 28, 3500, 18, 60, 0.7, 0.6, 0.1),
    _Ice((100, 113, 126), 42, 210, 90, 55, 0.7, 0.5, 0.0),
)


@lru_cache(maxsize=4)
def frost_pictures(side: int) -> np.ndarray:
    """Draws the five pictures, sized for corrupting pictures of `side` pixels.

    Returns:
        uint8 [5, 3, 2 * side, 2 * side].
    """
    pictures = [_draw(ice, np.random.default_rng(n)) for n, ice in enumerate(_PICTURES)]
    if side != PUBLISHED_SIDE:
        resized = (
            Image.fromarray(p).resize((2 * side,) * 2, Image.Resampling.BICUBIC) for p in pictures
        )
        pictures = [np.asarray(picture) for picture in resized]
    return np.stack(pictures).transpose(0, 3, 1, 2)


def _draw(ice: _Ice, rng: np.random.Generator) -> np.ndarray:
    """Draws a picture, uint8 [_SIDE, _SIDE, 3]."""
    clouds = _clouds(rng, 1.7)
    picture = ice.clouds * clouds
    if ice.veins:
        folds = np.asarray(sum(np.exp(-abs(_clouds(rng, 1.9)) / 0.05) for _ in range(6)))
        lit = folds - np.roll(folds, (1, 1), (0, 1))
        picture = picture + ice.veins * (_standard(folds) + _standard(lit))
    if ice.ferns:
        crystals = 1 - np.exp(-_ferns(ice, rng))
        lit = crystals - np.roll(crystals, (1, 1), (0, 1))  # light from the upper left
        picture = picture + _standard(_standard(crystals) + 0.5 * _standard(lit))
    picture = _standard(np.tanh(0.5 * _standard(picture + 0.15 * rng.normal(size=picture.shape))))
    tint = 8 * (_clouds(rng, 1.7)[..., None] * np.array([1.0, 0.0, -0.5]))
    levels = np.array(ice.mean) + ice.deviation * picture[..., None] + tint
    return np.clip(np.round(levels), 0, 255).astype(np.uint8)


def _standard(x: np.ndarray) -> np.ndarray:
    return (x - x.mean()) / x.std()


def _clouds(rng: np.random.Generator, roughness: float) -> np.ndarray:
    """Draws periodic noise with amplitudes frequency^-roughness, mean 0 and deviation 1."""
    frequency = np.hypot(np.fft.fftfreq(_SIDE)[:, None], np.fft.rfftfreq(_SIDE))
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.normal(size=(_SIDE, _SIDE))) / frequency**roughness
    return _standard(np.fft.irfft2(spectrum, (_SIDE, _SIDE)))


def _ferns(ice: _Ice, rng: np.random.Generator) -> np.ndarray:
    """Returns the amount of ice per pixel: stems, their branches, and branches of branches."""
    centre = rng.uniform(0, _SIDE, (ice.ferns, 2))
    direction = rng.uniform(0, 2 * np.pi, ice.ferns)
    length = ice.length * rng.uniform(0.4, 1.2, ice.ferns)
    amount = rng.uniform(0.3, 1.0, ice.ferns)
    canvas = np.zeros((_SIDE, _SIDE))
    for level in range(3):
        steps = np.maximum(2, (length / 0.6).astype(int))
        line = np.repeat(np.arange(len(length)), steps)
        along = (np.arange(len(line)) - np.repeat(np.cumsum(steps) - steps, steps)) / steps[line]
        heading = np.stack([np.sin(direction), np.cos(direction)], axis=1)
        points = centre[line] + (along * length[line])[:, None] * heading[line]
        rows, columns = points.round().astype(int).T % _SIDE
        np.add.at(canvas, (rows, columns), amount[line] * (1 - 0.7 * along) / (1 + 0.5 * level))
        # A bud every few pixels; branches get shorter towards the tip.
        buds = np.flatnonzero(np.arange(len(line)) % (7, 5, 5)[level] == 0)
        side = np.where(rng.uniform(size=len(buds)) < 0.5, -1, 1)
        turn = np.deg2rad(ice.angle + rng.normal(0, 4, len(buds)))
        centre, direction = points[buds], direction[line[buds]] + side * turn
        length = 0.4 * length[line[buds]] * (1 - along[buds]) * rng.uniform(0.5, 1.0, len(buds))
        amount = amount[line[buds]]
        kept = length > 2
        centre, direction, length, amount = (a[kept] for a in (centre, direction, length, amount))
        if not len(length):
            break
    blur = gaussian(_SIDE, ice.width).astype(np.float64)
    return blur @ canvas @ blur.T
