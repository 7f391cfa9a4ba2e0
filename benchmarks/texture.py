"""Measures speed and memory of texture synthesis; prints one JSON line.

    python -m benchmarks.texture --batch 8 --rounds 5

`images_per_second`: speed of the jitted synthesis from exemplars and mosaics in host memory to
textures in host memory, median over the rounds; `cpu_seconds_per_image`: its processor time, which
other work on the machine hardly changes; `host_seconds_per_image`: time of a host thread to cut
exemplars and draw a mosaic; `peak_memory_bytes`: on CPU the process's largest resident size,
including compilation.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence

import jax
import numpy as np

from benchmarks.memory import peak_of
from benchmarks.step import _rounded, _versions
from nsneg_jax.errors import UsageError, tell
from nsneg_jax.parallel.mesh import data_mesh
from nsneg_jax.textures.synthesis import (
    TextureRecipe,
    compiled_synthesis,
    cut_exemplars,
    mosaic,
    random_generator,
)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line; argparse exits with status 2 on a malformed one.

    Raises:
        UsageError: a value is out of range.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.texture",
        description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--batch", type=int, default=8, help="images, over all devices")
    parser.add_argument("--size", type=int, default=224, help="side of the textures in pixels")
    parser.add_argument("--rounds", type=int, default=5, help="timed batches")
    options = parser.parse_args(argv)
    for name in ("batch", "size", "rounds"):
        value = getattr(options, name)
        if value < 1:
            raise UsageError(f"--{name} is {value}, but must be at least 1.")
    devices = jax.local_device_count()
    if options.batch % devices:
        raise UsageError(
            f"--batch is {options.batch}, but must be a multiple of {devices}, the "
            "number of devices."
        )
    return options


def measure(options: argparse.Namespace) -> dict[str, object]:
    """Synthesises textures from noise with structures of all sizes; returns the line's fields."""
    recipe = TextureRecipe(output_size=options.size)
    devices = data_mesh(jax.local_devices())
    images = [_picture(index) for index in range(options.batch)]
    start = time.perf_counter()
    prepared = []
    for index, image in enumerate(images):
        rng = random_generator(0, str(index))
        exemplars = cut_exemplars(rng, image)
        prepared.append((exemplars, mosaic(rng, exemplars.shape[:3], recipe)))
    host_seconds = (time.perf_counter() - start) / options.batch
    exemplars, mosaics = (np.stack(part) for part in zip(*prepared, strict=True))

    start = time.perf_counter()
    program = compiled_synthesis(recipe, devices).lower(exemplars, mosaics).compile()
    compile_seconds = time.perf_counter() - start
    memory = program.memory_analysis()
    seconds, cpu_seconds = [], []
    for _ in range(1 + options.rounds):
        start, cpu_start = time.perf_counter(), time.process_time()
        np.asarray(program(exemplars, mosaics).image)
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    device = devices.devices.flat[0]
    return {
        "benchmark": "texture",
        "images_per_second": options.batch / statistics.median(seconds[1:]),
        "batch": options.batch,
        "size": options.size,
        "seconds": seconds[1:],
        "cpu_seconds_per_image": statistics.median(cpu_seconds[1:]) / options.batch,
        "host_seconds_per_image": host_seconds,
        "compile_seconds": compile_seconds,
        "program_bytes": memory and memory.temp_size_in_bytes * devices.size,
        "peak_memory_bytes": peak_of(device),
        "device": device.device_kind,
        "devices": devices.size,
        "cpus": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "platform": platform.platform(),
        "versions": _versions(("jax", "jaxlib", "numpy")),
    }


def _picture(seed: int, side: int = 400) -> np.ndarray:
    """Returns coloured noise, uint8 [side, side, 3], with the spectrum of photographs."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(side, 1 / side)] * 2)) + 1
    noise = np.fft.fft2(rng.standard_normal((3, side, side))) / frequency
    noise = np.fft.ifft2(noise).real
    noise /= noise.std(axis=(1, 2), keepdims=True)
    return np.clip(128 + 50 * noise, 0, 255).astype(np.uint8).transpose(1, 2, 0)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 done, 2 a mistake of the user's."""
    try:
        figures = measure(parse(argv))
    except UsageError as error:
        return tell(error)
    print(json.dumps(_rounded(figures), allow_nan=False))
    return 0


if __name__ == "__main__":
    # As in data.texture.
    jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
    sys.exit(main())
