"""Makes a texture per image of a data set: the texture negatives of Ge et al. 2021.

    python -m data.texture --source datasets/imagenet100 --out datasets/imagenet100-texture

SOURCE is any folder of images, such as SPLIT/CLASS/NAME.JPEG, or 'arrayrecord:PATH', 'tfds:NAME' or
'hf:PATH'; OUT gets SPLIT/CLASS/NAME.png, made from the central 96x96 square of the image and a
random one. The draws of a texture depend only on the seed and the image's path below SOURCE. Files
get their names when they are complete, so run the same command again to complete a stopped run.
Several machines share the work by --shard 0/4 .. 3/4, and the hosts of a pod by --distributed. Exit
status: 0 all is made, 1 unreadable images were left out, 75 stopped by a signal.
"""

import argparse
import dataclasses
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image
from tqdm import tqdm

from nsneg_jax.errors import EXPLAINED, UsageError, escape_output, tell
from nsneg_jax.files import data_root, expand, inside, read_json, write_whole
from nsneg_jax.input.decode import UnreadableImage
from nsneg_jax.input.sources import storage
from nsneg_jax.input.sources.lists.class_list import class_names
from nsneg_jax.input.sources.source import (
    FileSource,
    data_set_name,
    of_files,
    open_files,
)
from nsneg_jax.parallel.compilation_cache import keep_programs
from nsneg_jax.parallel.mesh import data_mesh
from nsneg_jax.textures.recipe import RECIPES, TextureRecipe
from nsneg_jax.textures.synthesis import (
    compiled_synthesis,
    cut_exemplars,
    mosaic,
    photographs_at_once,
    random_generator,
    validate,
)
from nsneg_jax.training.signals import ended_by_signals

# Options of Pillow's encoders.
FORMATS = {
    "png": {},
    "webp": {"lossless": True},
    "jpg": {"quality": 95, "subsampling": 0},
}
_SETTINGS = "texture.json"
_RECIPE = "coherent"


class Job(NamedTuple):
    """An image: its index in the source, its name for the draws, and the file to make."""

    index: int
    name: str
    target: Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    escape_output()
    try:
        with ended_by_signals("finished textures stay; run the same command again to go on"):
            options = parse(arguments)
            if options.distributed:
                # Processes need not share OUT, so there is no folder for compiled programs. The
                # service would only note SIGTERM, and nothing here asks it.
                jax.config.update("jax_enable_preemption_service", False)
                jax.distributed.initialize()
            else:
                keep_programs(options.compilation_cache)
            return run(options)
    except EXPLAINED as error:
        return tell(error)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line; argparse exits with status 2 on a malformed one.

    Raises:
        UsageError: a value is out of range.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__}.texture",
        description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--source",
        default=f"{data_root()}/imagenet100",
        type=expand,
        help="folder of images, or 'arrayrecord:PATH', 'tfds:NAME', 'hf:PATH'",
    )
    parser.add_argument(
        "--out", default="", type=expand, help="folder to make; '': $NSNEG_DATA/NAME-texture"
    )
    parser.add_argument("--split", default="train")
    parser.add_argument("--classes", default="", help="only these: names, or a file with them")
    parser.add_argument("--labels", default="", help="file with classes of a folder's images")
    parser.add_argument("--format", choices=tuple(FORMATS), default="png")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shard", default="0/1", help="I/N: every N-th image, from the I-th")
    parser.add_argument("--distributed", action="store_true", help="share the work of a pod")
    parser.add_argument("--batch", type=int, default=0, help="per device; 0: 4 on CPU, else 32")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="to read and write")
    parser.add_argument("--exemplars", type=int, default=2, help="including the central one")
    parser.add_argument("--exemplar-size", type=int, default=96, help="side in pixels")
    parser.add_argument(
        "--size", type=int, default=RECIPES[_RECIPE].output_size, help="of the textures"
    )
    parser.add_argument(
        "--recipe",
        choices=tuple(RECIPES),
        default=argparse.SUPPRESS,
        help=f"of the synthesis; without it the recipe that OUT was begun with, else {_RECIPE}",
    )
    parser.add_argument(
        "--compilation_cache",
        default="",
        metavar="DIR",
        help="for compiled programs, or 'off'; '' is the user's cache folder",
    )
    options = parser.parse_args(arguments)
    made = f"{data_root()}/{data_set_name(options.source)}-texture"
    options.out = storage.local_folder(options.out or made, "--out")
    shard = re.fullmatch(r"(\d+)/(\d+)", options.shard)
    if not shard or int(shard[1]) >= int(shard[2]):
        raise UsageError(
            f"--shard is {options.shard!r}, but must be I/N with 0 <= I < N, such as 0/4."
        )
    options.shard = int(shard[1]), int(shard[2])
    for name, least in (("batch", 0), ("threads", 1)):
        if getattr(options, name) < least:
            value = getattr(options, name)
            raise UsageError(f"--{name} is {value}, but must be at least {least}.")
    recipe = RECIPES[getattr(options, "recipe", None) or begun_with(Path(options.out)) or _RECIPE]
    options.recipe = dataclasses.replace(recipe, output_size=options.size)
    validate(options.recipe, (options.exemplars, options.exemplar_size, options.exemplar_size))
    return options


def run(options: argparse.Namespace) -> int:
    """Makes all missing textures; returns the exit status.

    Raises:
        UsageError: the source cannot be used, or OUT was begun with other settings.
    """
    classes = class_names(options.classes) if options.classes else None
    source = open_files(of_files(options.source), options.split, classes, labels=options.labels)
    out = Path(options.out)
    everything = list_jobs(source, options.split, out, options.format)
    claim(out, settings(options))
    count = options.shard[1] * jax.process_count()
    first = options.shard[0] * jax.process_count() + jax.process_index()
    own = everything[first::count]
    todo = [job for job in own if not is_whole(job.target)]
    failed = make(source, todo, options)
    made = len(todo) - failed
    share = f" of {len(everything)} in this shard" if count > 1 else ""
    print(
        f"{len(own)} images{share}: {made} textures made, {len(own) - len(todo)} were there, "
        f"{failed} images could not be read"
    )
    return 1 if failed else 0


def list_jobs(source: FileSource, split: str, out: Path, form: str) -> list[Job]:
    """Returns one job per image of the source.

    Raises:
        UsageError: two images would give the same file.
    """
    jobs, taken = [], {}
    for index in range(len(source)):
        path = source.path(index)
        name = f"{split}/{path}"
        target = inside(out, f"{os.path.splitext(name)[0].removeprefix('./')}.{form}")
        if taken.setdefault(target, path) != path:
            raise UsageError(
                f"{taken[target]} and {path} in {source.name} would both be made to {target}. "
                "Rename or remove one of them."
            )
        jobs.append(Job(index, name, target))
    return jobs


def settings(options: argparse.Namespace) -> dict[str, object]:
    """Returns the settings that decide the pixels and names of textures."""
    return {
        "seed": options.seed,
        "format": options.format,
        "exemplars": options.exemplars,
        "exemplar_size": options.exemplar_size,
        "recipe": dataclasses.asdict(options.recipe),
    }


def begun_with(out: Path) -> str | None:
    """Returns the name of the recipe that OUT was begun with; None if there is none, or no name."""
    try:
        begun = json.loads((out / _SETTINGS).read_text())["recipe"]
        size = begun["output_size"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # `claim` says what is wrong with a file that is there
    for name, recipe in RECIPES.items():
        if _as_json(dataclasses.replace(recipe, output_size=size)) == begun:
            return name
    return None


def _as_json(recipe: TextureRecipe) -> dict[str, object]:
    return json.loads(json.dumps(dataclasses.asdict(recipe)))


def claim(out: Path, ours: dict[str, object]) -> None:
    """Writes the settings to OUT, or checks that those there are the same.

    Raises:
        UsageError: the settings differ, or OUT cannot be written.
    """
    path = out / _SETTINGS
    text = json.dumps(ours, indent=2) + "\n"
    try:
        if path.exists():
            begun = read_json(path, f"Remove it if the options are still those of {out}.")
            if begun != json.loads(text):
                raise UsageError(
                    f"{out} was begun with other settings, which are in {path}; now they are "
                    f"{json.dumps(ours)}. Use the same options, or another folder for --out."
                )
            return
        out.mkdir(parents=True, exist_ok=True)
        # Shards may begin at the same time, so each writes its own partial file.
        write_whole(path, lambda partial: partial.write_text(text), f".{os.getpid()}")
    except OSError as error:
        raise UsageError(
            f"The folder {out} cannot be written: {error}. Give another folder for --out."
        ) from error


def is_whole(path: Path) -> bool:
    """Returns whether the file was finished; a power cut may leave an empty one."""
    try:
        return path.is_file() and path.stat().st_size > 0
    except OSError:
        return False


def make(source: FileSource, jobs: Sequence[Job], options: argparse.Namespace) -> int:
    """Makes the textures of `jobs`; returns how many images could not be read."""
    devices = data_mesh(jax.local_devices())
    per_device = options.batch or photographs_at_once(jax.default_backend())
    batch = per_device * devices.size
    synthesis = compiled_synthesis(options.recipe, devices)
    failed = 0
    with (
        ThreadPoolExecutor(options.threads) as readers,
        ThreadPoolExecutor(options.threads) as writers,
        tqdm(total=len(jobs), unit="image", smoothing=0.05) as progress,
    ):
        writing: list[Future] = []
        for group, prepared in _batches(source, jobs, options, batch, readers):
            good = [(job, ready) for job, ready in zip(group, prepared, strict=True) if ready]
            failed += len(group) - len(good)
            if good:
                # One shape for all batches, so that one program suffices.
                filled = [good[min(i, len(good) - 1)][1] for i in range(batch)]
                exemplars, mosaics = (np.stack(part) for part in zip(*filled, strict=True))
                textures = np.asarray(synthesis(exemplars, mosaics).image)
            for future in writing:
                future.result()
            writing = [
                writers.submit(_write, job.target, textures[i], options.format)
                for i, (job, _) in enumerate(good)
            ]
            progress.update(len(group))
        for future in writing:
            future.result()
    return failed


def _batches(
    source: FileSource,
    jobs: Sequence[Job],
    options: argparse.Namespace,
    batch: int,
    readers: ThreadPoolExecutor,
) -> Iterator[tuple[Sequence[Job], list]]:
    """Yields groups of jobs with the results of `_prepare`; the next group is read meanwhile."""
    groups = [jobs[start : start + batch] for start in range(0, len(jobs), batch)]
    reading: list[list[Future]] = []
    for group in groups[:1]:
        reading.append([readers.submit(_prepare, source, job, options) for job in group])
    for place, group in enumerate(groups):
        for following in groups[place + 1 : place + 2]:
            reading.append([readers.submit(_prepare, source, job, options) for job in following])
        yield group, [future.result() for future in reading.pop(0)]


def _prepare(
    source: FileSource, job: Job, options: argparse.Namespace
) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns exemplars and mosaic of an image; None, with a message, if it is unreadable."""
    try:
        image = source.image(job.index)
    except UnreadableImage as error:
        tqdm.write(f"left out: {error}", file=sys.stderr)
        return None
    rng = random_generator(options.seed, job.name)
    exemplars = cut_exemplars(rng, image, options.exemplars, options.exemplar_size)
    return exemplars, mosaic(rng, exemplars.shape[:3], options.recipe)


def _write(target: Path, texture: np.ndarray, form: str) -> None:
    kind = {"jpg": "jpeg"}.get(form, form)
    image = Image.fromarray(texture)
    write_whole(target, lambda partial: image.save(partial, kind, **FORMATS[form]))


if __name__ == "__main__":
    # One CPU device per core, because XLA runs most of this program on one thread per device.
    jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
    sys.exit(main())
