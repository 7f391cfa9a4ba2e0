"""The columns of a comparison: versions of the test pictures, made of these pictures themselves.

Each function takes pictures uint8 [N, S, S, 3] and returns as many of the same shape. What depends
on chance depends on the seed and the number of pictures only.

* Contours stay where they are in all versions except `patch_shuffled`, where whatever is larger
  than a tile is gone: an encoder that relies on shape *loses* there.
* Silhouettes are not made: they need the outline of the object, which pictures do not have.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from nsneg_jax.corruptions import corrupt, image_keys

TILES = 4  # per side of a shuffled picture
# One of each group of ImageNet-C, at the middle severity.
CORRUPTIONS = (("gaussian_noise", 3), ("defocus_blur", 3), ("fog", 3), ("contrast", 3))

_LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)
_DARKEST = 99  # percentile of the slopes that is drawn black
_AT_ONCE = 256  # pictures that are corrupted in one program


class Column(NamedTuple):
    """A column of the table.

    Attributes:
        name: name of the column's folder, and of its set in the evaluation.
        title: title in tables.
        keeps_shape: whether the verdict counts it.
        about: what is done to a picture, and what the column says.
    """

    name: str
    title: str
    keeps_shape: bool
    about: str


COLUMNS = (
    Column("clean", "Clean", True, "The test pictures as they are."),
    Column(
        "corruption",
        "Corruptions",
        True,
        "Mean over four corruptions of ImageNet-C at severity 3: Gaussian noise, defocus blur, fog "
        "and lower contrast.",
    ),
    Column(
        "restyled",
        "Restyled",
        True,
        "The amplitude spectrum of a picture of another class, with the picture's own phases: "
        "contours stay in place, contrast and texture are the other picture's.",
    ),
    Column(
        "edges",
        "Edges",
        True,
        "The slope of the luminance (Sobel), dark on white: neither colours nor areas are left.",
    ),
    Column(
        "shuffled",
        "Patch-shuffled",
        False,
        f"The picture's {TILES} x {TILES} tiles in random order. An encoder that relies on shape "
        "is worse here, so a higher figure is no merit, and the verdict leaves it out.",
    ),
)


def patch_shuffled(images: np.ndarray, seed: int = 0, tiles: int = TILES) -> np.ndarray:
    """Puts the tiles of each picture in a random order of its own.

    Args:
        images: uint8 [N, S, S, 3].
        seed: seed of the orders.
        tiles: tiles per side; what is left over of S at the right and bottom stays in place.
    """
    count, side = images.shape[:2]
    tile = side // tiles
    inner = tile * tiles
    rng = np.random.default_rng(seed)
    orders = rng.permuted(np.tile(np.arange(tiles**2), (count, 1)), axis=1)
    cut = images[:, :inner, :inner].reshape(count, tiles, tile, tiles, tile, 3)
    cut = cut.transpose(0, 1, 3, 2, 4, 5).reshape(count, tiles**2, tile, tile, 3)
    moved = np.take_along_axis(cut, orders[:, :, None, None, None], axis=1)
    moved = moved.reshape(count, tiles, tiles, tile, tile, 3).transpose(0, 1, 3, 2, 4, 5)
    result = images.copy()
    result[:, :inner, :inner] = moved.reshape(count, inner, inner, 3)
    return result


def restyled(images: np.ndarray, styles: np.ndarray) -> np.ndarray:
    """Gives each picture the amplitude spectrum of another one, and keeps its phases.

    Phases hold where contours are, amplitudes how much there is of each scale and orientation
    (Oppenheim and Lim, "The importance of phase in signals", 1981). The mean colour, too, is the
    other picture's. Values beyond black and white are cut off.

    Args:
        images: uint8 [N, S, S, 3].
        styles: uint8 [N, S, S, 3], a picture for the amplitudes of each.
    """
    phases = np.angle(np.fft.rfft2(images.astype(np.float32), axes=(1, 2)))
    amplitudes = np.abs(np.fft.rfft2(styles.astype(np.float32), axes=(1, 2)))
    mixed = np.fft.irfft2(amplitudes * np.exp(1j * phases), s=images.shape[1:3], axes=(1, 2))
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def styles_of(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """Returns, for each picture, the index of one of another class.

    Args:
        labels: int [N], of two classes or more.
        seed: seed of the choice.
    """
    rng = np.random.default_rng(seed)
    chosen = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        others = np.flatnonzero(labels != label)
        own = np.flatnonzero(labels == label)
        chosen[own] = rng.choice(others, len(own), replace=len(own) > len(others))
    return chosen


def edges(images: np.ndarray) -> np.ndarray:
    """Draws the slope of the luminance dark on white.

    The slope is the length of Sobel's two derivatives; the 99th percentile of a picture is black.
    A picture of one colour becomes white.

    Args:
        images: uint8 [N, S, S, 3].
    """
    grey = images.astype(np.float32) @ np.array(_LUMINANCE, np.float32)
    down = ndimage.sobel(grey, axis=1, mode="nearest")
    across = ndimage.sobel(grey, axis=2, mode="nearest")
    slope = np.hypot(down, across)
    black = np.percentile(slope, _DARKEST, axis=(1, 2), keepdims=True)
    share = np.clip(slope / np.maximum(black, 1.0), 0, 1)  # below one level there is only rounding
    ink = np.rint(255 * (1 - share)).astype(np.uint8)
    return np.repeat(ink[..., None], 3, axis=3)


def corrupted(images: np.ndarray, name: str, severity: int, seed: int = 0) -> np.ndarray:
    """Corrupts pictures as ImageNet-C does, see `nsneg_jax.corruptions`.

    Args:
        images: uint8 [N, S, S, 3].
        name, severity: a corruption and its severity.
        seed: seed of the draws.
    """
    size = min(_AT_ONCE, len(images))
    parts = []
    for start in range(0, len(images), size):
        # The last part begins earlier, so that all have one shape and are compiled once.
        first = min(start, len(images) - size)
        keys = image_keys(seed, jnp.arange(first, first + size))
        part = np.asarray(corrupt(jnp.asarray(images[first : first + size]), name, severity, keys))
        parts.append(part[start - first :])
    return np.concatenate(parts)


def versions(images: np.ndarray, labels: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """Makes the pictures of all columns.

    Args:
        images: uint8 [N, S, S, 3], the test pictures.
        labels: int [N], their classes, two or more.
        seed: seed of every choice.

    Returns:
        Pictures by the folder that holds them: a column's name; 'corruption/NAME/SEVERITY' for each
        corruption.
    """
    found = {"clean": images}
    for name, severity in CORRUPTIONS:
        found[f"corruption/{name}/{severity}"] = corrupted(images, name, severity, seed)
    found["restyled"] = restyled(images, images[styles_of(labels, seed)])
    found["edges"] = edges(images)
    found["shuffled"] = patch_shuffled(images, seed)
    return found
