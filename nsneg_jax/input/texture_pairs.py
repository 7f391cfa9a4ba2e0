"""Texture negatives on the host: pairs each image with its texture."""

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from nsneg_jax.errors import UsageError
from nsneg_jax.files import read_json, write_json, write_whole
from nsneg_jax.input.sources.derived import Derived
from nsneg_jax.input.sources.identity import difference, identity
from nsneg_jax.input.sources.source import FileSource, Source
from nsneg_jax.parallel import hosts, mesh
from nsneg_jax.textures.recipe import RECIPES, TextureRecipe
from nsneg_jax.textures.synthesis import compiled_synthesis, cut_exemplars, mosaic, random_generator

# The published textures have exemplars of 96 px at 224.
EXEMPLARS, _EXEMPLAR_SHARE = 2, 96 / 224
_SMALLEST_EXEMPLAR = 6  # smallest that holds neighbourhoods of 3 pixels
_LARGE_EXEMPLAR = 80  # from here on, the recipe for photographs
_BATCH = 128


def pair_folders(
    images: FileSource, textures: FileSource, missing: str = "error"
) -> tuple[Source, Source]:
    """Returns images and their textures in the same order.

    Class folder and name pair them, whatever their endings: 'CLASS/NAME.JPEG' belongs to
    'CLASS/NAME.png', as `nsneg prepare texture` makes it.

    Args:
        images: the training images.
        textures: textures made from them.
        missing: 'error', or 'skip' to leave out images that have no texture.

    Raises:
        UsageError: two textures share a name, an image has no texture (unless skipped), or there is
            no pair at all.
    """
    stems = [os.path.splitext(textures.path(i))[0] for i in range(len(textures))]
    places = dict(zip(stems, range(len(stems)), strict=True))
    if len(places) < len(stems):
        (name, count), *_ = Counter(stems).most_common(1)
        raise UsageError(
            f"{textures.name} has {count} textures named {name} that differ only in their endings. "
            "Remove all but one."
        )
    found = [places.get(os.path.splitext(images.path(i))[0], -1) for i in range(len(images))]
    kept = [i for i, place in enumerate(found) if place >= 0]
    lacking = len(found) - len(kept)
    if lacking and (missing != "skip" or not kept):
        first = images.path(found.index(-1))
        raise UsageError(
            f"{lacking} of {len(images)} images of {images.name} have no texture in "
            f"{textures.name}; the first is {first}. Make them with `nsneg prepare texture`, or "
            "leave these images out with --config.negatives.missing=skip."
        )
    paired = _some(textures, [found[i] for i in kept])
    return (_some(images, kept) if lacking else images), paired


def _some(source: FileSource, records: Sequence[int]) -> FileSource:
    name = f"{source.name}, {len(records)} of {len(source)} images"
    return Derived(source, records, name=name)


class MadeTextures:
    """A `Source` of textures of images, made once and kept in a file.

    It is for small pictures such as the built-in ones; `nsneg prepare texture` makes textures of
    photographs.

    Args:
        images: images to make the textures from.
        image_size: side of the textures in pixels; exemplars have 96/224 of it.
        path: file with uint8 [n, S, S, 3] as npy; process 0 makes it if it is missing, and a file
            of the same name that ends in .json, which has its digest and what it was made from. If
            that is damaged, both are made again.
        seed: seed of the synthesis.

    Raises:
        UsageError: the file belongs to other images or another seed, or has changed since.
    """

    def __init__(self, images: Source, image_size: int, path: Path, seed: int = 0) -> None:
        self.name = f"textures of {images.name}"
        self.classes, self.labels = images.classes, images.labels
        origin = path.with_suffix(".json")
        about: dict[str, Any] = {"seed": seed, "images": identity(images)}
        again = f"Remove {path} and {origin}, and they will be made again, to the bit."
        if jax.process_index() == 0 and not (path.exists() and _is_whole(origin, about)):
            made = make_textures(images, image_size, seed)
            write_json(origin, about)  # first, so that textures without it are an earlier version's
            write_whole(path, lambda partial: _save(partial, made))
            write_json(origin, about | {"sha256": _digest(path)})
        hosts.wait_for_file(path)
        before = read_json(origin, again) if origin.exists() else about
        digest = before.pop("sha256", None)  # earlier versions kept none
        if before != about:
            changed = difference(images, about["images"], before["images"])
            raise UsageError(
                f"The textures in {path} were made "
                + (
                    f"from other images: {changed}"
                    if changed
                    else f"with the seed {before['seed']}"
                )
                + ". Remove the file, and they will be made again."
            )
        if jax.process_index() == 0 and digest not in (None, _digest(path)):
            raise UsageError(
                f"The textures in {path} are not those that were made for this run: the file has "
                "changed since. Remove it, and they will be made again, to the bit."
            )
        try:
            self._textures = np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:  # of earlier versions, without a digest
            raise UsageError(f"The textures in {path} are damaged: {error}. {again}") from error
        shape = (len(images), image_size, image_size, 3)
        if self._textures.shape != shape:
            raise UsageError(
                f"The textures in {path} have the shape {self._textures.shape}, but {shape} is "
                "expected for these images. Remove the file, and it will be made again."
            )

    def __len__(self) -> int:
        return len(self._textures)

    def image(self, index: int) -> np.ndarray:
        return self._textures[index]


def _is_whole(origin: Path, about: Mapping[str, Any]) -> bool:
    """Returns whether a file says what textures were made from; earlier versions wrote none."""
    try:
        return not origin.exists() or read_json(origin, "").keys() >= about.keys()
    except UsageError:
        return False


class TexturesInMemory:
    """A `Source` of textures of a few hundred small images, made when the first is asked for.

    Args:
        images: images to make the textures from.
        image_size: side of the textures in pixels.
        seed: seed of the synthesis.
    """

    def __init__(self, images: Source, image_size: int, seed: int = 0) -> None:
        self.name = f"textures of {images.name}"
        self.classes, self.labels = images.classes, images.labels
        self._images, self._side, self._seed = images, image_size, seed
        self._made: np.ndarray | None = None
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._images)

    def image(self, index: int) -> np.ndarray:
        with self._lock:
            if self._made is None:
                self._made = make_textures(self._images, self._side, self._seed)
        picture: np.ndarray = self._made[index]
        return picture


def make_textures(images: Source, image_size: int, seed: int) -> np.ndarray:
    """Makes a texture per image, uint8 [n, image_size, image_size, 3]."""
    recipe, side = small_recipe(image_size)
    shape = (EXEMPLARS, side, side)
    devices = mesh.data_mesh(jax.local_devices())
    synthesise = compiled_synthesis(recipe, devices)
    batch = made_at_once(devices)
    made = np.empty((len(images), image_size, image_size, 3), np.uint8)
    for start in range(0, len(images), batch):
        # The last batch repeats its first image as padding.
        members = [i if i < len(images) else start for i in range(start, start + batch)]
        exemplars, mosaics = [], []
        for i in members:
            rng = random_generator(seed, str(i))
            exemplars.append(cut_exemplars(rng, images.image(i), EXEMPLARS, side))
            mosaics.append(mosaic(rng, shape, recipe))
        textures = synthesise(np.stack(exemplars), np.stack(mosaics)).image
        made[start : start + batch] = np.asarray(textures)[: len(images) - start]
    return made


def made_at_once(devices: Mesh) -> int:
    """Returns how many textures `make_textures` makes per call, a multiple of the devices."""
    return -(-_BATCH // devices.size) * devices.size


def small_recipe(image_size: int) -> tuple[TextureRecipe, int]:
    """Returns the synthesis at `image_size`, and the side of its exemplars in pixels.

    At 224 pixels both are the paper's. Smaller pictures have smaller exemplars, with room for fewer
    levels and smaller neighbourhoods.
    """
    side = max(_SMALLEST_EXEMPLAR, round(image_size * _EXEMPLAR_SHARE))
    recipe = TextureRecipe(output_size=image_size)
    factor = 2 ** (len(recipe.passes) - 1)
    if is_photograph(side):
        return recipe, side // factor * factor
    levels = (side // _SMALLEST_EXEMPLAR).bit_length()
    recipe = replace(
        RECIPES["patchwork"],
        output_size=image_size,
        passes=(2,) * levels,
        neighbourhood=3,
        cell=3,
        similar=1,
    )
    factor = 2 ** (levels - 1)
    return recipe, side // factor * factor


def is_photograph(side: int) -> bool:
    """Returns whether exemplars of that side get the recipe for photographs."""
    return side >= _LARGE_EXEMPLAR


def _save(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:  # given a name, np.save would add an ending
        np.save(file, array)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
