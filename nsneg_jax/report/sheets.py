"""Sheets of pictures in columns, and the pictures out of such sheets."""

import numpy as np
from PIL import Image, ImageDraw

_SMALLEST_TILE = 96  # pixels; smaller pictures are enlarged by an integer factor
_GAP = 4
_TITLE = 16


def grid(columns: dict[str, np.ndarray]) -> Image.Image:
    """Arranges pictures in columns under their titles.

    Args:
        columns: title -> uint8 [N, S, S, 3], all of one shape.
    """
    rows, side = next(iter(columns.values())).shape[:2]
    tile = _tile(side)
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


def tiles(sheet: Image.Image, side: int) -> list[list[Image.Image]]:
    """Returns the pictures of a `grid`, by column and row, enlarged as they are there.

    Args:
        sheet: what `grid` made.
        side: side of the pictures in pixels, before they were enlarged.
    """
    step = _tile(side) + _GAP
    across, down = sheet.width // step, (sheet.height - _TITLE) // step
    boxes = (
        [(_GAP + x * step, _TITLE + _GAP + y * step) for y in range(down)] for x in range(across)
    )
    return [
        [sheet.crop((left, top, left + step - _GAP, top + step - _GAP)) for left, top in column]
        for column in boxes
    ]


def _tile(side: int) -> int:
    return side * max(1, -(-_SMALLEST_TILE // side))
