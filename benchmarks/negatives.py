"""Measures how long negatives take to make and prints one JSON line, or draws them.

    python -m benchmarks.negatives
    python -m benchmarks.negatives --names patch colour_histogram --batch 256 --steps 20
    python -m benchmarks.negatives --sheet docs/negatives.jpg

Fields of the line:

* `milliseconds_per_image`: per negative; from normalised views on the device to negatives on the
  device, medians over the steps, without compilation.
* `gflop_per_image`: per negative, what XLA counts in the program for this device.

--sheet measures nothing and writes a JPEG file: photographs of scikit-image and scikit-learn (rows)
and each of the negatives (columns), with the settings of a default config.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw

from nsneg_jax.errors import UsageError, tell
from nsneg_jax.jobs import build, defaults
from nsneg_jax.methods.negatives import NEGATIVES, Negative
from nsneg_jax.methods.views import normalise
from nsneg_jax.report.pictures import to_uint8

_TILE, _GAP, _TITLE = 128, 4, 16
_NAMES = tuple(name for name in NEGATIVES if name != "texture")  # textures are made beforehand


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Reads the command line; argparse exits with status 2 on a malformed one.

    Raises:
        UsageError: a value is out of range.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.negatives",
        description="Measures or draws the negatives; prints one JSON line.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--names", nargs="+", choices=_NAMES, default=_NAMES, metavar="NAME")
    parser.add_argument("--batch", type=int, default=64, help="images per call")
    parser.add_argument("--size", type=int, default=224, help="side of the images in pixels")
    parser.add_argument("--steps", type=int, default=10, help="timed calls of each negative")
    parser.add_argument("--sheet", type=Path, help="draw this JPEG file instead")
    options = parser.parse_args(argv)
    for name, least in (("batch", 1), ("steps", 1), ("size", 16)):
        if getattr(options, name) < least:
            raise UsageError(f"--{name} is {getattr(options, name)}, but must be at least {least}.")
    return options


def makers(names: Sequence[str], side: int) -> dict[str, Negative]:
    """Returns the negatives of these names with the settings of a default config."""
    config = defaults.pretraining().unlock()
    config.data.image_size = side
    settings = build.negative_settings(config)
    return {name: NEGATIVES[name](settings) for name in names}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the figures of the JSON line."""
    rng = np.random.default_rng(0)
    views = jnp.asarray(rng.normal(size=(options.batch, options.size, options.size, 3)), "float32")
    keys = jax.random.split(jax.random.key(0), options.batch)
    times: dict[str, float] = {}
    work: dict[str, float] = {}
    for name, negative in makers(options.names, options.size).items():
        program = jax.jit(negative).lower(views, keys).compile()
        turns = []
        for _ in range(1 + options.steps):
            start = time.perf_counter()
            jax.block_until_ready(program(views, keys))
            turns.append(time.perf_counter() - start)
        times[name] = 1000 * statistics.median(turns[1:]) / options.batch
        cost = program.cost_analysis() or {}
        work[name] = float(cost.get("flops", 0)) / options.batch / 1e9
    device = jax.devices()[0]
    return {
        "benchmark": "negatives",
        "batch": options.batch,
        "size": options.size,
        "steps": options.steps,
        "device": device.device_kind,
        "jax": jax.__version__,
        "milliseconds_per_image": {name: round(each, 5) for name, each in times.items()},
        "gflop_per_image": {name: round(each, 5) for name, each in work.items()},
    }


def photographs(side: int) -> np.ndarray:
    """Returns the middles of photographs, uint8 [4, side, side, 3].

    Raises:
        UsageError: scikit-image or scikit-learn is missing.
    """
    try:
        from skimage import data
        from sklearn.datasets import load_sample_image  # type: ignore[import-untyped]
    except ImportError as error:
        raise UsageError(
            f"The sheet needs photographs of scikit-image and scikit-learn ({error}). Install both."
        ) from error
    pictures = (data.chelsea(), data.astronaut(), data.rocket(), load_sample_image("flower.jpg"))
    found = []
    for picture in map(Image.fromarray, pictures):
        edge = min(picture.size)
        left, top = ((length - edge) // 2 for length in picture.size)
        found.append(picture.resize((side, side), box=(left, top, left + edge, top + edge)))
    return np.stack([np.asarray(each) for each in found])


def sheet(names: Sequence[str], side: int) -> Image.Image:
    """Draws one row per photograph: the photograph, then each negative."""
    pictures = photographs(side)
    views = normalise(jnp.asarray(pictures, jnp.float32) / 255)
    keys = jax.random.split(jax.random.key(0), len(pictures))
    columns = {"image": pictures}
    for name, negative in makers(names, side).items():
        columns[name] = to_uint8(jax.jit(negative)(views, keys))
    size = (
        _GAP + len(columns) * (_TILE + _GAP), _TITLE + _GAP + len(pictures) * (_TILE + _GAP),
    )  # fmt: skip
    page = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(page)
    for column, (name, images) in enumerate(columns.items()):
        left = _GAP + column * (_TILE + _GAP)
        draw.text((left, _GAP), name, "black")
        for row, image in enumerate(images):
            tile = Image.fromarray(image).resize((_TILE, _TILE), Image.Resampling.LANCZOS)
            page.paste(tile, (left, _TITLE + _GAP + row * (_TILE + _GAP)))
    return page


def main(argv: Sequence[str]) -> int:
    """Returns the exit status: 0 done, 2 a mistake of the user's."""
    try:
        options = parse(argv)
        if options.sheet:
            page = sheet(options.names, options.size)
            options.sheet.parent.mkdir(parents=True, exist_ok=True)
            page.save(options.sheet, quality=85)
        else:
            print(json.dumps(measure(options), allow_nan=False))
    except UsageError as error:
        return tell(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
