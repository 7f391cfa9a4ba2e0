"""Pictures of the views and negatives that a run trains on."""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from nsneg_jax.files import write_whole
from nsneg_jax.methods.batches import Views
from nsneg_jax.methods.views import denormalise
from nsneg_jax.report.sheets import grid


def save_views(views: Views, path: Path, names: Sequence[str] = ()) -> None:
    """Writes a PNG with one row per sample: query, key and negatives.

    Args:
        views: normalised images.
        path: path of the PNG; its folder is made if missing.
        names: titles of the negatives, each once; they are numbered without.
    """
    columns = {"query": views.query, "key": views.key}
    for m in range(views.negatives.shape[1]):
        columns[names[m] if names else f"negative {m + 1}"] = views.negatives[:, m]
    sheet = grid({title: to_uint8(images) for title, images in columns.items()})
    write_whole(path, lambda partial: sheet.save(partial, "png"))


def to_uint8(images: jax.Array) -> np.ndarray:
    """Converts normalised views [..., 3] to uint8 pictures."""
    pixels = np.asarray(denormalise(images), np.float32)
    return np.clip(np.rint(pixels * 255), 0, 255).astype(np.uint8)
