"""Measures of the pieces that a texture is put together from, by its map of places.

Two neighbouring pixels of a texture *continue* a piece if their places are neighbours in the same
direction in the same exemplar; else a seam runs between them. The right and the lower neighbour of
each pixel count; the borders of the texture do not.
"""

from typing import NamedTuple

import numpy as np

from nsneg_jax.textures.recipe import Shape, unravel


class Pieces(NamedTuple):
    """What a texture is put together from.

    Attributes:
        used: share of the exemplars' pixels that are in use, 0 to 1.
        lesser: share of the texture from the exemplar that it uses least, 0 to 1/E.
        continued: share of neighbours that continue a piece, 0 to 1.
        seam_contrast: mean absolute difference of colour between neighbours across seams, over that
            of all neighbours in the exemplars. 1 where seams look like any other place; NaN without
            seams or with exemplars of one colour.
        contrast: the same, of all neighbours in the texture.
    """

    used: float
    lesser: float
    continued: float
    seam_contrast: float
    contrast: float


def pieces(source: np.ndarray, exemplars: np.ndarray) -> Pieces:
    """Measures a texture.

    Args:
        source: integers [H, W], the place of each pixel in the exemplars.
        exemplars: uint8 [E, h, w, 3].
    """
    shape = exemplars.shape[:3]
    image = exemplars.reshape(-1, 3)[source].astype(float)
    of_exemplars = np.concatenate([d.ravel() for d in _differences(exemplars.astype(float))])
    of_texture = np.concatenate([d.ravel() for d in _differences(image)])
    joined = np.concatenate([c.ravel() for c in continues(source, shape)])
    taken = np.bincount(source.ravel() // (shape[1] * shape[2]), minlength=shape[0])
    seams, usual = of_texture[~joined], of_exemplars.mean()
    measurable = len(seams) > 0 and usual > 0
    return Pieces(
        used=len(np.unique(source)) / np.prod(shape),
        lesser=taken.min() / source.size,
        continued=joined.mean(),
        seam_contrast=seams.mean() / usual if measurable else np.nan,
        contrast=of_texture.mean() / usual if usual > 0 else np.nan,
    )


def continues(source: np.ndarray, shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """Returns which neighbours continue a piece: below, bool [H - 1, W], and right, [H, W - 1]."""
    e, y, x = unravel(shape, source)
    found = []
    for axis, step in enumerate(((1, 0), (0, 1))):
        same = np.diff(e, axis=axis) == 0
        same &= (np.diff(y, axis=axis) == step[0]) & (np.diff(x, axis=axis) == step[1])
        found.append(same)
    return found[0], found[1]


def _differences(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean absolute differences of [..., H, W, 3] to the pixel below and to the right."""
    return tuple(np.abs(np.diff(pictures, axis=axis)).mean(-1) for axis in (-3, -2))
