"""Measures the input pipeline, and the original's on the same photographs in the same run.

    python -m benchmarks.input --root FOLDER --seconds S
    python -m benchmarks.input --source folder:FOLDER --source arrayrecord:PACKED --seconds S
    python -m benchmarks.input --source folder:FOLDER --profile --seconds S

FOLDER holds train/CLASS/*.jpg. Prints one JSON line. Ours decodes an image once and cuts two crops
(the device does the rest of a view). The original does all its work on the host, written here only
with Pillow and NumPy: two decoded, augmented and normalised views and one patch negative, in worker
processes, by torch's DataLoader if torch is installed. The two take turns; each starts afresh and
warms up before its clock runs. The figures are medians over the turns. --source, once or more,
measures ours on each of these data sets in turns, without the peer; ratios are to the first.
--profile samples ours on each data set and says before the JSON line, per stage, how much processor
time it takes and how long it holds Python's lock (input_profile.py). --scaling measures ours with
1, 2, 4 ... threads and worker processes.
"""

import argparse
import contextlib
import itertools
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Iterable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from benchmarks import input_profile, input_scaling
from benchmarks.input_profile import Batches
from nsneg_jax.errors import RunError, UsageError, tell
from nsneg_jax.input.crops import sample_crop
from nsneg_jax.input.decode import FORMATS
from nsneg_jax.input.loading import AUTOMATIC, Loaders, Steps, available_processors
from nsneg_jax.input.pipeline import pretrain_batches, sample_order
from nsneg_jax.input.sources.folders.folder import Folder
from nsneg_jax.input.sources.protocol import Source
from nsneg_jax.input.sources.source import open_source
from nsneg_jax.methods.views import IMAGENET_MEAN, IMAGENET_STD

_TURNS = 5
_PATCH_RANGE = (16 / 224, 72 / 224)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.input", description=__doc__.split("\n")[0])
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--root", help="folder with train/CLASS/*.jpg")
    data.add_argument("--source", action="append", help="data set, such as 'tfds:imagenet2012'")
    parser.add_argument("--tfds-dir", default="", help="of 'tfds:' data sets")
    parser.add_argument("--split", default="train")
    parser.add_argument("--seconds", type=float, default=30, help="total measured time")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=224, help="side of the crops in pixels")
    parser.add_argument("--threads", type=int, default=AUTOMATIC, help="our threads")
    parser.add_argument("--workers", type=int, default=AUTOMATIC, help="our worker processes")
    parser.add_argument("--peer-workers", type=int, default=2, help="the peer's worker processes")
    parser.add_argument("--scaling", action="store_true", help="of ours with threads and workers")
    parser.add_argument("--profile", action="store_true", help="of ours, needs py-spy")
    options = parser.parse_args(arguments)
    run = compare if options.source else measure
    if options.profile or options.scaling:
        run = profile if options.profile else scaling
    try:
        print(json.dumps(run(options), allow_nan=False))
    except (UsageError, RunError) as error:
        sys.exit(tell(error))


def measure(options: argparse.Namespace) -> dict[str, object]:
    """Runs both pipelines in turns and returns the fields of the line."""
    source = Folder(options.root, options.split)
    turn_seconds = options.seconds / (2 * _TURNS)
    # Forked before anything uses JAX; the warning is about threads that do not exist yet.
    warnings.filterwarnings("ignore", message=r"os\.fork\(\) was called")
    ours, peer = [], []
    for turn in range(_TURNS):
        batches = _our_batches(source, options, turn)
        ours.append(_speed(batches, options.batch, 3, turn_seconds))
        batches, loader = _peer_batches(source, options, turn)
        peer.append(_speed(batches, options.batch, 2 * options.peer_workers, turn_seconds))
    figure, peer_figure = statistics.median(ours), statistics.median(peer)
    sizes = _image_sizes(source)
    return {
        "benchmark": "input",
        "images_per_second": round(figure, 1),
        "peer_images_per_second": round(peer_figure, 1),
        "ratio": round(figure / peer_figure, 2),
        "turns": [round(speed, 1) for speed in ours],
        "peer_turns": [round(speed, 1) for speed in peer],
        "peer": f"Pillow/NumPy: two v2 views and a patch negative per image on the host; {loader}",
        "peer_workers": options.peer_workers,
        "threads": _loaders(options).threads,
        "workers": _loaders(options).workers,
        **_setting(options),
        "images": len(source),
        "median_image_pixels": int(statistics.median(w * h for w, h in sizes)),
        "median_image_width": int(statistics.median(w for w, _ in sizes)),
        "median_image_height": int(statistics.median(h for _, h in sizes)),
    }


def compare(options: argparse.Namespace) -> dict[str, object]:
    """Runs our pipeline on each data set in turns and returns the fields of the line."""
    sources = {spec: _open(spec, options) for spec in options.source}
    turn_seconds = options.seconds / (len(sources) * _TURNS)
    turns: dict[str, list[float]] = {spec: [] for spec in sources}
    costs: dict[str, list[float]] = {spec: [] for spec in sources}
    for turn in range(_TURNS):
        for spec, source in sources.items():
            batches = _our_batches(source, options, turn)
            speed, cost = _speed_and_cost(batches, options.batch, 3, turn_seconds)
            turns[spec].append(speed)
            costs[spec].append(cost)
    first = turns[options.source[0]]
    return {
        "benchmark": "input",
        "sources": {
            spec: {
                "images": len(sources[spec]),
                "images_per_second": round(statistics.median(speeds), 1),
                # Between neighbouring turns, which other work on the machine slows alike.
                "ratio": round(
                    statistics.median(a / b for a, b in zip(speeds, first, strict=True)), 3
                ),
                "turns": [round(speed, 1) for speed in speeds],
                "cpu_ms_per_image": round(1000 * statistics.median(costs[spec]), 3),
            }
            for spec, speeds in turns.items()
        },
        "threads": _loaders(options).threads,
        "workers": _loaders(options).workers,
        **_setting(options),
    }


def profile(options: argparse.Namespace) -> dict[str, object]:
    """Profiles our pipeline on each data set, prints tables and returns the fields of the line."""
    if options.workers > 0:
        raise UsageError(
            f"--profile samples one process, but --workers is {options.workers}. Set it to 0."
        )
    specs = options.source or [f"folder:{options.root}"]
    found = {}
    for spec in specs:
        batches = _batches_by(_open(spec, options), options, Loaders(options.threads))
        found[spec] = input_profile.profile(batches, options.batch, options.seconds / len(specs))
        print(f"{spec}\n\n{input_profile.table(found[spec])}\n", flush=True)
    return {
        "benchmark": "input",
        "profiles": found,
        "threads": _loaders(options).threads,
        **_setting(options),
    }


def scaling(options: argparse.Namespace) -> dict[str, object]:
    """Measures ours with more and more threads and workers; prints a table, returns the line."""
    specs = options.source or [f"folder:{options.root}"]
    found = {}
    for spec in specs:
        source = _open(spec, options)
        make = partial(_batches_by, source, options)
        order = sample_order(len(source), options.batch, 0)
        seconds = options.seconds / len(specs)
        found[spec] = input_scaling.scaling(make, order, options.batch, seconds)
        print(f"{spec}\n\n{input_scaling.table(found[spec])}\n", flush=True)
    return {
        "benchmark": "input",
        "scaling": found,
        **_setting(options),
    }


def _open(spec: str, options: argparse.Namespace) -> Source:
    return open_source(spec, options.split, image_size=options.size, tfds_dir=options.tfds_dir)


def _our_batches(source: Source, options: argparse.Namespace, turn: int) -> Batches:
    return _batches_by(source, options, _loaders(options), turn)


def _batches_by(
    source: Source, options: argparse.Namespace, loaders: Loaders, seed: int = 0
) -> Batches:
    return pretrain_batches(
        source,
        Steps(options.batch, 0, 10**9),
        loaders,
        image_size=options.size,
        crop_scale=(0.2, 1.0),
        seed=seed,
    )


def _speed(batches: Batches, batch_size: int, warm_up: int, seconds: float) -> float:
    """Returns images per second over at least `seconds`, after `warm_up` batches; closes them."""
    return _speed_and_cost(batches, batch_size, warm_up, seconds)[0]


def _speed_and_cost(
    batches: Batches, batch_size: int, warm_up: int, seconds: float
) -> tuple[float, float]:
    """Returns `_speed`, and processor seconds of this process per image."""
    with contextlib.closing(batches):
        for _ in range(warm_up):
            next(batches)
        start, used = time.perf_counter(), time.process_time()
        images, elapsed = 0, 0.0
        while elapsed < seconds:
            next(batches)
            images += batch_size
            elapsed = time.perf_counter() - start
        return images / elapsed, (time.process_time() - used) / images


class PeerDataset:
    """The original's data set and transforms, one image at a time on the host.

    Views follow facebookresearch/moco with --aug-plus, as torchvision makes them on PIL images. The
    negative comes from the query, as in the original's patch transform.
    """

    def __init__(self, folder: str, source: Folder, size: int, seed: int) -> None:
        self._paths = [os.path.join(folder, source.path(i)) for i in range(len(source))]
        self._size = size
        self._seed = seed

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns query, key and negative, float32 [3, size, size] each."""
        rng = np.random.default_rng([self._seed, index])
        with open(self._paths[index], "rb") as file:
            image = Image.open(file, formats=FORMATS).convert("RGB")
        query, key = (_view(image, self._size, rng) for _ in range(2))
        return query, key, _patch_negative(query, rng)


def _view(image: Image.Image, size: int, rng: np.random.Generator) -> np.ndarray:
    top, left, height, width = sample_crop(rng, image.height, image.width)
    view = image.crop((left, top, left + width, top + height))
    view = view.resize((size, size), Image.Resampling.BILINEAR)
    if rng.random() < 0.8:
        view = _jitter(view, rng)
    if rng.random() < 0.2:
        view = view.convert("L").convert("RGB")
    if rng.random() < 0.5:
        view = view.filter(ImageFilter.GaussianBlur(rng.uniform(0.1, 2.0)))
    if rng.random() < 0.5:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = np.asarray(view, np.float32).transpose(2, 0, 1) / np.float32(255)
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (pixels - mean) / std


def _jitter(view: Image.Image, rng: np.random.Generator) -> Image.Image:
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for operation in rng.permutation(4):
        if operation < 3:
            view = enhancers[operation](view).enhance(rng.uniform(0.6, 1.4))
        else:
            hue, saturation, value = view.convert("HSV").split()
            shift = np.uint8(int(rng.uniform(-0.1, 0.1) * 255) % 256)
            hue = Image.fromarray(np.asarray(hue) + shift)  # wraps around, like hue
            view = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
    return view


def _patch_negative(query: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    size = query.shape[1]
    smallest, largest = (round(part * size) for part in _PATCH_RANGE)
    patch = int(rng.integers(smallest, largest + 1))
    cells = size // patch + 1
    canvas = np.empty((3, cells * patch, cells * patch), np.float32)
    for row in range(0, cells * patch, patch):
        for column in range(0, cells * patch, patch):
            top, left = rng.integers(0, size - patch, 2)
            canvas[:, row : row + patch, column : column + patch] = query[
                :, top : top + patch, left : left + patch
            ]
    return canvas[:, :size, :size]


def _peer_batches(source: Folder, options: argparse.Namespace, turn: int) -> tuple[Batches, str]:
    folder = os.path.join(options.root, options.split)
    dataset = PeerDataset(folder, source, options.size, turn)
    order = np.random.default_rng(turn).permutation(len(source))
    batches = order[: len(order) // options.batch * options.batch].reshape(-1, options.batch)
    try:
        from torch.utils.data import DataLoader
    except ImportError:
        return _pool_batches(dataset, batches, options.peer_workers), "multiprocessing.Pool"
    loader: Iterable[Any] = DataLoader(
        dataset,  # type: ignore[arg-type]  # it has what DataLoader uses
        batch_sampler=itertools.cycle(batches.tolist()),
        num_workers=options.peer_workers,
        multiprocessing_context="fork",
    )
    return _loader_batches(loader), "torch DataLoader"


def _loader_batches(loader: Iterable[Any]) -> Batches:
    iterator = iter(loader)
    try:
        yield from iterator
    finally:
        del iterator  # ends its workers


def _pool_batches(dataset: PeerDataset, batches: np.ndarray, workers: int) -> Batches:
    with multiprocessing.get_context("fork").Pool(workers, _start_worker, (dataset,)) as pool:
        todo = itertools.cycle(batches)
        # Each worker has two batches in progress at any time, as in DataLoader.
        under_way = [pool.apply_async(_load_batch, (next(todo),)) for _ in range(2 * workers)]
        while True:
            batch = under_way.pop(0).get()
            under_way.append(pool.apply_async(_load_batch, (next(todo),)))
            yield batch


_worker_dataset: PeerDataset  # of a process of the pool


def _start_worker(dataset: PeerDataset) -> None:
    global _worker_dataset
    _worker_dataset = dataset


def _load_batch(indices: np.ndarray) -> list[np.ndarray]:
    samples = [_worker_dataset[int(index)] for index in indices]
    return [np.stack(part) for part in zip(*samples, strict=True)]


def _image_sizes(source: Folder, most: int = 500) -> list[tuple[int, int]]:
    chosen = range(0, len(source), -(-len(source) // most))
    return [source.image(index).shape[1::-1] for index in chosen]


def _loaders(options: argparse.Namespace) -> Loaders:
    # With one accelerator, since asking JAX would start it before the peer's workers are forked.
    return Loaders(options.threads, options.workers).chosen(available_processors(), 1)


def _setting(options: argparse.Namespace) -> dict[str, object]:
    """Returns the fields of every line."""
    return {
        "batch": options.batch,
        "size": options.size,
        "cpus": os.cpu_count(),
        "versions": {"python": platform.python_version(), **_versions()},
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in ("grain", "simplejpeg", "pillow", "numpy", "torch", "py-spy"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


if __name__ == "__main__":
    main()
