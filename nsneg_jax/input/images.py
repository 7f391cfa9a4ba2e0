"""Turns a caller's images, in memory or in files, into the views that classifiers are tested on."""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image

from nsneg_jax.errors import UsageError
from nsneg_jax.files import expand
from nsneg_jax.input.crops import central_view
from nsneg_jax.input.decode import read_image, rgb_of

# one array [N, H, W, 3], or arrays [H, W, 3], PIL images and paths of files
Images = np.ndarray | Iterable[np.ndarray | Image.Image | str | os.PathLike[str]]

_WANTED = (
    "Give one uint8 array [N, H, W, 3], or a list of uint8 arrays [H, W, 3], PIL images or paths "
    "of image files."
)


def as_list(images: Images) -> list[Any]:
    """Lists the images, checked as far as possible without reading files.

    Raises:
        UsageError: there are none, or one is not uint8, not RGB or not an image.
    """
    if isinstance(images, str | os.PathLike) and os.path.isdir(images):
        raise UsageError(
            f"The images are the folder {os.fspath(images)!r}. Give the paths of its images, such "
            "as sorted(pathlib.Path(folder).rglob('*.jpg')); `nsneg features` takes folders."
        )
    if isinstance(images, str | os.PathLike | Image.Image):
        raise UsageError(f"The images are a single {_named(images)}. Put it in a list: [image].")
    if hasattr(images, "ndim"):
        images = np.asarray(images)
        _check_batch(images.shape)
        _check_dtype(images.dtype, "The images are")
    listed = [np.asarray(image) if hasattr(image, "ndim") else image for image in images]
    if not listed:
        raise UsageError(f"images is empty, but must hold at least one image. {_WANTED}")
    for index, image in enumerate(listed):
        if isinstance(image, str | os.PathLike | Image.Image):
            continue
        if not isinstance(image, np.ndarray):
            raise UsageError(f"Image {index} is a {_named(image)}, not an image. {_WANTED}")
        _check_dtype(image.dtype, f"Image {index} is")
        if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise UsageError(
                f"Image {index} has the shape {tuple(image.shape)}, but must be [H, W, 3], with "
                f"red, green and blue last. {_mending(image.shape)}"
            )
    return listed


def view_batches(
    images: list[Any], batch_size: int, size: int, resize: int
) -> Iterator[tuple[np.ndarray, int]]:
    """Yields the `central_view` of images in batches; threads read the files.

    Args:
        images: from `as_list`.
        batch_size: images per batch.
        size, resize: see `central_view`.

    Yields:
        uint8 [batch_size, size, size, 3], and how many of its places hold images; the rest, in the
        last batch only, are black.

    Raises:
        UnreadableImage: a file is missing, damaged or no image.
        UsageError: the pixels of a PIL image have no known range.
    """

    def view(image: Any) -> np.ndarray:
        return central_view(_pixels(image), size, resize)

    waiting = iter(images)
    with ThreadPoolExecutor(min(16, batch_size)) as pool:
        while part := list(islice(waiting, batch_size)):
            batch = np.zeros((batch_size, size, size, 3), np.uint8)
            for place, pixels in enumerate(pool.map(view, part)):
                batch[place] = pixels
            yield batch, len(part)


def _pixels(image: Any) -> np.ndarray:
    if isinstance(image, str | os.PathLike):
        return read_image(expand(os.fspath(image)))
    if isinstance(image, Image.Image):
        try:
            return rgb_of(image)
        except ValueError as error:
            raise UsageError(f"A PIL image cannot be used: {error}. Convert it to RGB.") from error
    return image


def _check_batch(shape: tuple[int, ...]) -> None:
    if len(shape) == 3 and shape[2] == 3:
        raise UsageError(
            f"The images have the shape {tuple(shape)}, which is a single image [H, W, 3], but "
            "must be [N, H, W, 3]. Put it in a list: [image]."
        )
    if len(shape) != 4 or shape[3] != 3 or 0 in shape[1:]:
        raise UsageError(
            f"The images have the shape {tuple(shape)}, but must be [N, H, W, 3], with red, green "
            f"and blue last. {_mending(shape[1:])}"
        )


def _mending(shape: tuple[int, ...]) -> str:
    """Says how to convert an image of that shape to RGB."""
    if len(shape) == 2 or shape[2:] == (1,):
        return "Repeat a grey channel three times, as np.repeat(image[..., None], 3, -1) does."
    if shape[2:] == (4,):
        return "Leave out the fourth channel: image[..., :3]."
    if len(shape) == 3 and shape[0] == 3:
        return "Move the channels to the end: np.moveaxis(image, -3, -1)."
    return _WANTED


def _check_dtype(dtype: Any, subject: str) -> None:
    if dtype != np.uint8:
        raise UsageError(
            f"{subject} of dtype {dtype}, but must be uint8, 0..255, not normalised. Convert "
            "numbers from 0 to 1 with np.round(255 * image).astype(np.uint8)."
        )


def _named(image: Any) -> str:
    return type(image).__name__
