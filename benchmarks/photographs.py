"""Makes a folder of JPEG files for measuring the input and the job without a data set.

    python -m benchmarks.photographs OUT --count 640
    python -m benchmarks.photographs OUT --given FOLDER

OUT gets train/CLASS/NAME.jpg. The pictures are smooth random fields with the spectrum of
photographs, 500x375 pixels and about 105 kB each, like the average file of ImageNet. With --given,
OUT links to the JPEG files in FOLDER instead. Prints one JSON line.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from nsneg_jax.errors import UsageError, tell

_CLASSES = 10
_FIELDS = 12
_FIELD_SIDE = 1024
_QUALITY = 90
_ENDINGS = (".jpg", ".jpeg")


def write_made(folder: Path, count: int, width: int, height: int) -> None:
    """Makes `count` pictures, alternately landscape and portrait."""
    rng = np.random.default_rng(0)
    fields = [_field(rng, _FIELD_SIDE) for _ in range(_FIELDS)]

    def make(index: int) -> None:
        shape = (height, width) if index % 4 else (width, height)
        pixels = _picture(np.random.default_rng((1, index)), fields, shape)
        path = folder / "train" / f"class{index % _CLASSES}" / f"{index:06}.jpg"
        Image.fromarray(pixels).save(path, quality=_QUALITY)

    for each in range(min(_CLASSES, count)):
        (folder / "train" / f"class{each}").mkdir(parents=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(make, range(count)))


def link_given(folder: Path, given: Path, count: int) -> None:
    """Links to the first `count` JPEG files in `given`, at any depth, as one class."""
    inside = folder / "train" / "given"
    inside.mkdir(parents=True)
    for index, path in enumerate(jpeg_files(given)[:count]):
        (inside / f"{index:06}.jpg").symlink_to(path.resolve())


def jpeg_files(folder: Path) -> list[Path]:
    """Returns the JPEG files in a folder, by ending, at any depth."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in _ENDINGS)


def _picture(
    rng: np.random.Generator, fields: Sequence[np.ndarray], shape: tuple[int, int]
) -> np.ndarray:
    """Makes a picture, uint8 [*shape, 3]: brightness and casts from windows of the fields."""

    def window() -> np.ndarray:
        field = fields[int(rng.integers(len(fields)))]
        top, left = (rng.integers(0, _FIELD_SIDE - length + 1) for length in shape)
        seen = field[top : top + shape[0], left : left + shape[1]]
        return seen[:: rng.choice((-1, 1)), :: rng.choice((-1, 1))]

    brightness = rng.uniform(90, 160) + rng.uniform(35, 55) * window()
    colours = [brightness + rng.uniform(5, 20) * window() for _ in range(3)]
    return np.clip(np.stack(colours, axis=-1), 0, 255).astype(np.uint8)


def _field(rng: np.random.Generator, side: int) -> np.ndarray:
    """Returns noise [side, side], mean 0, deviation 1, with amplitudes 1 / frequency^1.1."""
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(side, 1 / side)] * 2)) + 1
    noise = np.fft.ifft2(np.fft.fft2(rng.standard_normal((side, side))) / frequency**1.1).real
    return (noise / noise.std()).astype(np.float32)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Reads the command line; argparse exits with status 2 on a malformed one.

    Raises:
        UsageError: OUT exists already, or --given has no JPEG file.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.photographs", description="Makes a folder of JPEG files."
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=640, help="files; of given ones, at most")
    parser.add_argument("--width", type=int, default=500, help="in pixels")
    parser.add_argument("--height", type=int, default=375, help="in pixels")
    parser.add_argument("--given", type=Path, help="link to the JPEG files in this folder instead")
    options = parser.parse_args(argv)
    if options.out.exists():
        raise UsageError(f"{options.out} exists already. Give another folder, or remove it.")
    for name in ("count", "width", "height"):
        value, most = getattr(options, name), _FIELD_SIDE if name != "count" else 10**6
        if not 1 <= value <= most:
            raise UsageError(f"--{name} is {value}, but must be from 1 to {most}.")
    if options.given and not jpeg_files(options.given):
        raise UsageError(f"--given is {options.given}, but there is no JPEG file in it.")
    return options


def main(argv: Sequence[str]) -> int:
    """Returns the exit status: 0 done, 2 a mistake of the user's."""
    try:
        options = parse(argv)
    except UsageError as error:
        return tell(error)
    partial = options.out.with_name(f".{options.out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    if options.given:
        link_given(partial, options.given, options.count)
    else:
        write_made(partial, options.count, options.width, options.height)
    partial.rename(options.out)  # complete or not at all
    sizes = [path.stat().st_size for path in jpeg_files(options.out)]
    figures = {"images": len(sizes), "mean_bytes": statistics.mean(sizes)}
    print(json.dumps({"benchmark": "photographs", **figures}, allow_nan=False))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
