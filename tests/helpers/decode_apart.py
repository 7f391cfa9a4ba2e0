"""Reads image files as a program of its own, and prints what each costs.

    python decode_apart.py folder FOLDER           all files below FOLDER that count as images
    python decode_apart.py fuzz NUMBER SEED        as many damaged files of several formats

Each line is JSON: the file's name, its shape or its fault, seconds, and the growth of the largest
memory ever used, in MB. The last line has that memory.
"""

import collections
import io
import json
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from nsneg_jax.input.crops import central_view, resized_crop, sample_crop
from nsneg_jax.input.decode import UnreadableImage, decode_image
from nsneg_jax.input.sources.folders.folder import Folder

# Not lossless WebP: its header may be damaged to any size, which nothing contradicts until the
# decoder has taken 17 bytes per pixel.
FORMATS = {
    "JPEG": {"quality": 90},
    "progressive": {"progressive": True},
    "PNG": {},
    "GIF": {},
    "WEBP": {},
    "TIFF": {"compression": "tiff_lzw"},
    "BMP": {},
    "JPEG2000": {},
    "AVIF": {},
}


def mutants(number: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yields damaged files of all formats in turn, each with a name that tells its making."""
    whole = {}
    rng = np.random.default_rng(0)
    for name, options in FORMATS.items():
        coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((200, 150), Image.Resampling.BILINEAR)
        file = io.BytesIO()
        picture.save(file, "JPEG" if name == "progressive" else name, **options)
        whole[name] = file.getvalue()
    names = list(FORMATS)
    for i in range(number):
        rng = np.random.default_rng((seed, i))
        name = names[i % len(names)]
        yield f"{name} {i}", mutated(rng, bytearray(whole[name]))


def mutated(rng: np.random.Generator, data: bytearray) -> bytes:
    """Does one to four kinds of damage, half of them in the header."""
    for _ in range(rng.integers(1, 5)):
        end = len(data) if rng.random() < 0.5 else min(len(data), 700)
        place = int(rng.integers(0, max(end, 1)))
        length = int(rng.integers(1, 9))
        kind = rng.integers(0, 8)
        if kind == 0:
            data[place : place + 1] = bytes([data[place] ^ (1 << int(rng.integers(8)))])
        elif kind == 1:
            data[place : place + length] = rng.bytes(length)
        elif kind == 2:
            data[place : place + length] = b"\xff" * length
        elif kind == 3:
            data[place : place + length] = bytes(length)
        elif kind == 4:
            del data[place : place + length]
        elif kind == 5:
            data[place:place] = rng.bytes(length)
        elif kind == 6:
            data[place:place] = data[place : place + 50 * length]
        elif rng.random() < 0.3:
            del data[place:]
        if not data:
            return b""
    return bytes(data)


def peak() -> float:
    """The largest memory ever used, in MB; `resource` counts the parent's before the start."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def measure(name: str, read: Callable[[], np.ndarray]) -> dict[str, object]:
    begin, before = time.perf_counter(), peak()
    result: dict[str, object] = {"name": os.fsencode(name).hex()}
    try:
        image = read()
        # what is done to an image afterwards must not cost more
        central_view(image, 224, 256)
        box = sample_crop(np.random.default_rng(0), *image.shape[:2])
        resized_crop(image, box, 224)
        result["shape"] = image.shape
    except UnreadableImage as error:
        result |= {"path": os.fsencode(error.path).hex(), "fault": error.kind}
        result |= {"reason": error.reason, "message": str(error)}
    result |= {"seconds": time.perf_counter() - begin, "growth": peak() - before}
    return result


def main(what: str, *arguments: str) -> None:
    warnings.simplefilter("ignore")  # Pillow's, on damaged metadata
    if what == "folder":
        root, split, name = arguments[0].rsplit("/", 2)
        source = Folder(root, split, (name,))
        for index in range(len(source)):
            print(json.dumps(measure(source.path(index), lambda i=index: source.image(i))))
        print(json.dumps({"peak": peak()}))
        return
    counts: collections.Counter[str] = collections.Counter()
    slowest, largest = 0.0, 0.0
    for name, data in mutants(*map(int, arguments)):
        result = measure(name, lambda name=name, data=data: decode_image(data, name))
        form = name.partition(" ")[0]
        counts[f"{form} {result.get('fault', 'decoded')}"] += 1
        slowest = max(slowest, result["seconds"])
        largest = max(largest, result["growth"])
        if result["seconds"] > 1 or result["growth"] > 50:
            print(json.dumps(result), file=sys.stderr)
    print(json.dumps({"counts": counts, "slowest": slowest, "growth": largest, "peak": peak()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
