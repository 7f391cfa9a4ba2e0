"""Pictures of the views and negatives that a run trains on."""

from pathlib import Path

import jax
import numpy as np
from PIL import Image, ImageDraw

from nsneg_jax.files import write_whole
from nsneg_jax.methods.batches import Views
from nsneg_jax.methods.views import denormalise

_SMALLEST_TILE = 96  # pixels; smaller views are enlarged by an integer factor
_GAP = 4
_TITLE = 16


def save_views(views: Views, path: Path) -> None:
    """Writes a PNG with one row per sample: query, key and negatives.

    Args:
        views: normalised images.
        path: path of the PNG; its folder is made if missing.
    """
    columns = {"query": views.query, "key": views.key}
    for m in range(views.negatives.shape[1]):
        columns[f"negative {m + 1}"] = views.negatives[:, m]
    sheet = grid({title: to_uint8(images) for title, images in columns.items()})
    write_whole(path, lambda partial: sheet.save(partial, "png"))


def to_uint8(images: jax.Array) -> np.ndarray:
    """Converts normalised views [..., 3] to uint8 pictures."""
    pixels = np.asarray(denormalise(images), np.float32)
    return np.clip(np.rint(pixels * 255), 0, 255).astype(np.uint8)


def grid(columns: dict[str, np.ndarray]) -> Image.Image:
    """Arranges pictures in columns under their titles.

    Args:
        columns: title -> uint8 [N, S, S, 3], all of one shape.
    """
    rows, side = next(iter(columns.values())).shape[:2]
    scale = max(1, -(-_SMALLEST_TILE // side))
    tile = side * scale
    width = _GAP + len(columns) * (tile + _GAP)
    sheet = Image.new("RGB", (width, _TITLE + _GAP + rows * (tile + _GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, (title, pictures) in enumerate(columns.items()):
        left = _GAP + column * (tile + _GAP)
        draw.text((left, _GAP), title, "black")
        for row, picture in enumerate(pictures):
            enlarged = Image.fromarray(picture).resize((tile, tile), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (left, _TITLE + _GAP + row * (tile + _GAP)))
    return sheet
