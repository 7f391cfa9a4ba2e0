"""Measures speed and memory of texture synthesis; prints one JSON line.

    python -m benchmarks.texture --batch 8 --rounds 5

`images_per_second`: speed of the jitted synthesis from exemplars and mosaics in host memory to
textures in host memory, median over the rounds; with `--beside`, `ratio` is this speed over the
speed of another recipe, whose batches take turns with these; `cpu_seconds_per_image`: its processor
time, which other work on the machine hardly changes; `host_seconds_per_image`: time of a host
thread to cut exemplars and draw a mosaic; `peak_memory_bytes`: on CPU the process's largest
resident size, including compilation.
"""

import argparse
import dataclasses
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from benchmarks.memory import peak_of
from benchmarks.step import _rounded, _versions
from nsneg_jax.errors import UsageError, tell
from nsneg_jax.parallel.mesh import data_mesh
from nsneg_jax.textures.recipe import RECIPES, TextureRecipe
from nsneg_jax.textures.synthesis import (
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
    parser.add_argument("--recipe", choices=tuple(RECIPES), default="coherent")
    parser.add_argument("--beside", choices=tuple(RECIPES), help="a recipe to compare with")
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
    devices = data_mesh(jax.local_devices())
    images = [_picture(index) for index in range(options.batch)]
    names = [options.recipe] + [options.beside] * bool(options.beside)
    recipes = [dataclasses.replace(RECIPES[name], output_size=options.size) for name in names]
    ready = [_compiled(images, recipe, devices) for recipe in recipes]
    times = [[one() for one in ready] for _ in range(1 + options.rounds)][1:]
    seconds, cpu_seconds = ([row[0][i] for row in times] for i in range(2))
    median = statistics.median(seconds)
    device = devices.devices.flat[0]
    memory = ready[0].program.memory_analysis()
    beside = {}
    if options.beside:
        theirs = [row[1][0] for row in times]
        beside = {
            "beside": options.beside,
            "seconds_beside": theirs,
            "ratio": statistics.median(theirs) / median,
        }
    return {
        "benchmark": "texture",
        "recipe": options.recipe,
        "images_per_second": options.batch / median,
        "batch": options.batch,
        "size": options.size,
        "seconds": seconds,
        **beside,
        "cpu_seconds_per_image": statistics.median(cpu_seconds) / options.batch,
        "host_seconds_per_image": ready[0].host_seconds / options.batch,
        "compile_seconds": ready[0].compile_seconds,
        "program_bytes": memory and memory.temp_size_in_bytes * devices.size,
        "peak_memory_bytes": peak_of(device),
        "device": device.device_kind,
        "devices": devices.size,
        "cpus": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "platform": platform.platform(),
        "versions": _versions(("jax", "jaxlib", "numpy")),
    }


class _Compiled(NamedTuple):
    """A compiled synthesis with its arguments; a call returns seconds and processor seconds."""

    program: jax.stages.Compiled
    arguments: tuple[np.ndarray, np.ndarray]
    host_seconds: float
    compile_seconds: float

    def __call__(self) -> tuple[float, float]:
        start, cpu_start = time.perf_counter(), time.process_time()
        np.asarray(self.program(*self.arguments).image)
        return time.perf_counter() - start, time.process_time() - cpu_start


def _compiled(images: list[np.ndarray], recipe: TextureRecipe, devices: Mesh) -> _Compiled:
    """Cuts exemplars, draws mosaics and compiles the synthesis for them."""
    start = time.perf_counter()
    prepared = []
    for index, image in enumerate(images):
        rng = random_generator(0, str(index))
        exemplars = cut_exemplars(rng, image)
        prepared.append((exemplars, mosaic(rng, exemplars.shape[:3], recipe)))
    host_seconds = time.perf_counter() - start
    exemplars, mosaics = (np.stack(part) for part in zip(*prepared, strict=True))
    arguments = exemplars, mosaics
    start = time.perf_counter()
    program = compiled_synthesis(recipe, devices).lower(*arguments).compile()
    return _Compiled(program, arguments, host_seconds, time.perf_counter() - start)


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
