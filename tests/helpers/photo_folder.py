"""A folder of small pictures in several formats and depths, as photographs are kept."""

from pathlib import Path

import numpy as np
from PIL import Image

NAMES = (
    *("n02/b.JPEG", "n02/a.jpg", "n02/deep/er/c.png", "n02/B.JPEG", "n01/x 1.jpg", "n01/é.webp"),
    *(f"n03/{i}.JPEG" for i in range(12)),
)


def write_photos(root: Path, names=NAMES, split="train") -> Path:
    """Writes ROOT/SPLIT/NAME for each name, of different sizes and contents."""
    rng = np.random.default_rng(0)
    for i, name in enumerate(names):
        path = root / split / name
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((40 + 5 * i, 30 + i), Image.Resampling.BILINEAR)
        form = {".png": "PNG", ".webp": "WEBP"}.get(path.suffix, "JPEG")
        picture.save(path, form)
    return root
