"""Measures the corruptions at every severity and prints one JSON line, or draws them all.

    python -m benchmarks.corruptions
    python -m benchmarks.corruptions --names fog snow --batch 100 --steps 5
    python -m benchmarks.corruptions --sheet docs/corruptions.jpg

Fields of the line:

* `seconds_per_100_images`: per corruption, five severities; from uint8 pictures on the device to
  uint8 pictures on the device, medians over the steps, without compilation.
* `cpu_seconds_per_100_images`: processor time of the process over all threads in the same calls,
  which other load hardly changes; on an accelerator, the work of the host.
* `test_seconds_per_100_images`, `test_cpu_seconds_per_100_images`: sums over the 15 test
  corruptions and 5 severities, if all were measured; `seconds_per_100_images_all` sums everything
  measured.
* `compile_seconds`: first call minus a later one, summed over all corruptions and severities.

--sheet measures nothing and writes a JPEG file: one photograph under all 19 corruptions (rows) and
5 severities (columns).
"""

import argparse
import importlib.metadata
import json
import os
import platform
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

from nsneg_jax.corruptions import CORRUPTIONS, EXTRA, SEVERITIES, corrupt, image_keys
from nsneg_jax.errors import UsageError, tell
from nsneg_jax.input.decode import FORMATS

_TILE = 128
_GAP = 4
_NAMES = 112  # pixels for the names beside the sheet
_TITLE = 16


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Reads the command line; argparse exits with status 2 on a malformed one.

    Raises:
        UsageError: a value is out of range.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.corruptions",
        description="Measures or draws the corruptions; prints one JSON line.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    names = (*CORRUPTIONS, *EXTRA)
    parser.add_argument("--names", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--batch", type=int, default=25, help="pictures per call")
    parser.add_argument("--size", type=int, default=224, help="side of the pictures in pixels")
    parser.add_argument("--steps", type=int, default=4, help="timed calls of each setting")
    parser.add_argument("--sheet", type=Path, help="draw this JPEG file instead")
    parser.add_argument(
        "--picture", type=Path, help="of the sheet; without it, scikit-image's photograph of a cat"
    )
    options = parser.parse_args(argv)
    for name, least in (("batch", 1), ("steps", 1), ("size", 16)):
        if getattr(options, name) < least:
            raise UsageError(f"--{name} is {getattr(options, name)}, but must be at least {least}.")
    return options


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The figures of the JSON line."""
    rng = np.random.default_rng(0)
    # Smooth shapes and some grain, as in photographs; flat pictures would be no faster.
    coarse = rng.integers(0, 256, (options.batch, 8, 8, 3), np.uint8)
    size = (options.size, options.size)
    resized = (Image.fromarray(x).resize(size, Image.Resampling.BICUBIC) for x in coarse)
    pictures = jax.device_put(np.stack([np.asarray(each) for each in resized]))
    keys = image_keys(0, jnp.arange(options.batch))
    seconds: dict[str, list[float]] = {}
    cpu_seconds: dict[str, list[float]] = {}
    compiling = 0.0
    for name in options.names:
        seconds[name], cpu_seconds[name] = [], []
        for severity in SEVERITIES:
            turns = []
            for turn in range(1 + options.steps):
                if turn == 1:
                    cpu_start = time.process_time()
                start = time.perf_counter()
                jax.block_until_ready(corrupt(pictures, name, severity, keys))
                turns.append(time.perf_counter() - start)
            cpu = (time.process_time() - cpu_start) / options.steps
            median = statistics.median(turns[1:])
            compiling += max(0.0, turns[0] - median)
            seconds[name].append(median * 100 / options.batch)
            cpu_seconds[name].append(cpu * 100 / options.batch)

    def test_sum(figures: dict[str, list[float]]) -> float | None:
        if set(CORRUPTIONS) <= set(options.names):
            return round(sum(sum(figures[name]) for name in CORRUPTIONS), 3)
        return None

    def rounded(figures: dict[str, list[float]]) -> dict[str, list[float]]:
        return {name: [round(second, 4) for second in row] for name, row in figures.items()}

    device = jax.devices()[0]
    return {
        "benchmark": "corruptions",
        "batch": options.batch,
        "size": options.size,
        "steps": options.steps,
        "device": device.device_kind,
        "platform": device.platform,
        "cpu_count": os.cpu_count(),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("jax", "jaxlib")},
        },
        "seconds_per_100_images": rounded(seconds),
        "cpu_seconds_per_100_images": rounded(cpu_seconds),
        "test_seconds_per_100_images": test_sum(seconds),
        "test_cpu_seconds_per_100_images": test_sum(cpu_seconds),
        "seconds_per_100_images_all": round(sum(map(sum, seconds.values())), 3),
        "compile_seconds": round(compiling, 1),
        "load_average": os.getloadavg()[0],
    }


def sheet(picture: np.ndarray, names: Sequence[str]) -> Image.Image:
    """Draws one row per corruption and one column per severity.

    Args:
        picture: uint8 [S, S, 3].
        names: names of the corruptions.
    """
    width = _NAMES + len(SEVERITIES) * (_TILE + _GAP)
    page = Image.new("RGB", (width, _TITLE + len(names) * (_TILE + _GAP)), "white")
    draw = ImageDraw.Draw(page)
    for column, severity in enumerate(SEVERITIES):
        left = _NAMES + column * (_TILE + _GAP)
        draw.text((left, 0), f"severity {severity}", "black")
        for row, name in enumerate(names):
            top = _TITLE + row * (_TILE + _GAP)
            if column == 0:
                draw.text((_GAP, top + _TILE // 2), name, "black")
            keys = image_keys(row, jnp.arange(1))
            corrupted = corrupt(jnp.asarray(picture[None]), name, severity, keys)
            tile = Image.fromarray(np.asarray(corrupted[0])).resize((_TILE, _TILE))
            page.paste(tile, (left, top))
    return page


def load_picture(path: Path | None, size: int) -> np.ndarray:
    """Returns the middle of a photograph, uint8 [size, size, 3].

    Raises:
        UsageError: the photograph cannot be read.
    """
    try:
        if path is None:
            import skimage.data

            image = Image.fromarray(skimage.data.chelsea())
        else:
            image = Image.open(path, formats=FORMATS).convert("RGB")
    except (ImportError, OSError) as error:
        raise UsageError(
            f"The picture for the sheet cannot be read ({error}). Give one with --picture FILE, or "
            "install scikit-image for its photograph of a cat."
        ) from error
    edge = min(image.size)
    left, top = ((length - edge) // 2 for length in image.size)
    return np.asarray(image.resize((size, size), box=(left, top, left + edge, top + edge)))


def main(argv: Sequence[str]) -> int:
    """Returns the exit status: 0 done, 2 a mistake of the user's."""
    try:
        options = parse(argv)
        if options.sheet:
            page = sheet(load_picture(options.picture, options.size), options.names)
            options.sheet.parent.mkdir(parents=True, exist_ok=True)
            page.save(options.sheet, quality=85)
        else:
            print(json.dumps(measure(options), allow_nan=False))
    except UsageError as error:
        return tell(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
