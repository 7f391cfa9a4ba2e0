"""Resizing and random resized crops on the host, as torchvision does them on PIL images.

Resizing is most of the host's work, so cykooz_resizer does it where it is installed. It uses
Pillow's filter (on photographs it differs by 0.1 grey levels on average, 0.3 at most) and takes a
third of the time, but has no wheel for Linux on ARM; Pillow resizes there. OpenCV has no such
filter: INTER_LINEAR and INTER_AREA differed by up to 3.4 grey levels, and INTER_LINEAR after a
fitted blur by up to 1.4.
"""

import math
import threading
from collections.abc import Callable
from typing import Protocol, SupportsInt

import numpy as np
from PIL import Image

try:
    import cykooz_resizer as fast
except ImportError:
    fast = None

_TRIES = 10
_MOST_WHOLE = 2**24  # pixels, 50 MB
_of_thread = threading.local()


class Draw(Protocol):
    """What crops need of a `numpy.random.Generator`, such as `draws.PlaceGenerator`."""

    def uniform(self, low: float, high: float, /) -> float: ...

    def integers(self, low: int, high: int, /) -> SupportsInt: ...


def sample_crop(
    rng: Draw,
    height: int,
    width: int,
    scale: tuple[float, float] = (0.2, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> tuple[int, int, int, int]:
    """Draws a crop from an image of `height` x `width` by torchvision's rule, with its rounding.

    A draw that does not fit is repeated. After ten such draws the crop is the largest central one
    whose shape is within `ratio`.

    Args:
        rng: generator, advanced by four numbers per draw that fits and by two per one that does
            not.
        height: height of the image in pixels.
        width: width of the image in pixels.
        scale: smallest and largest area as a fraction of the image; uniform between them.
        ratio: smallest and largest width over height; uniform in the logarithm.

    Returns:
        (top, left, height, width) of the crop in pixels, inside the image.
    """
    return _sample(rng, height, width, scale, ratio, lambda places: int(rng.integers(0, places)))


def sample_texture_crop(
    rng: Draw,
    height: int,
    width: int,
    scale: tuple[float, float] = (0.2, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> tuple[int, int, int, int]:
    """Draws the crop of an image's texture, of another size, with the draws of the image's crop.

    As in the original, which crops the texture with the query's seed: the crops agree in area
    fraction and in width over height, in pixels, but not in place. They agree where the same draw
    is the first that fits into both. A draw that fits into only one is repeated for the other,
    whose area fraction and shape are then its own.

    Args:
        rng: a generator in the state in which `sample_crop` got it for the image.
        height: height of the texture in pixels.
        width: width of the texture in pixels.
        scale: as for the image.
        ratio: as for the image.

    Returns:
        (top, left, height, width) of the crop in pixels, inside the texture.
    """

    def remainder(places: int) -> int:
        # As in torch.randint. `integers(0, n)` takes the word's high bits, which would give the
        # texture the place of the image's crop.
        return int(rng.integers(0, 2**32)) % places

    return _sample(rng, height, width, scale, ratio, remainder)


def _sample(
    rng: Draw,
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    one_of: Callable[[int], int],
) -> tuple[int, int, int, int]:
    """Draws a crop; `one_of(n)` draws from 0 .. n - 1 for its place."""
    area = height * width
    smallest, largest = scale
    narrowest, widest = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(_TRIES):
        target = area * rng.uniform(smallest, largest)
        shape = math.exp(rng.uniform(narrowest, widest))
        w = round(math.sqrt(target * shape))
        h = round(math.sqrt(target / shape))
        if 0 < w <= width and 0 < h <= height:
            return one_of(height - h + 1), one_of(width - w + 1), h, w
    h, w = height, width
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return (height - h) // 2, (width - w) // 2, h, w


def resized_crop(
    image: np.ndarray, box: tuple[int, int, int, int], size: int, out: np.ndarray | None = None
) -> np.ndarray:
    """Cuts out a box and resizes it with Pillow's bilinear filter, antialiased.

    Pixels outside the box have no influence, as in torchvision, which cuts first. Thread-safe; the
    GIL is released while resizing.

    Args:
        image: uint8 [H, W, 3].
        box: (top, left, height, width) in pixels, inside the image.
        size: side of the result in pixels.
        out: where to write the result, uint8 [size, size, 3]; None makes a new array.

    Returns:
        uint8 [size, size, 3]; do not write to it.
    """
    top, left, height, width = box
    resized = resize(image[top : top + height, left : left + width], size, size)
    if out is None:
        return resized
    out[...] = resized
    return out


def central_view(image: np.ndarray, size: int, resize: int) -> np.ndarray:
    """Makes the view that a classifier is tested on: torchvision's Resize and CenterCrop.

    Args:
        image: uint8 [H, W, 3].
        size: side of the result in pixels.
        resize: length of the shorter side in pixels after an antialiased resize; 0 does not
            resize. As in torchvision, black pads an image that is smaller than the crop.

    Returns:
        uint8 [size, size, 3]; do not write to it.
    """
    if resize:
        image = resize_short(image, resize, size)
    height, width = image.shape[:2]
    if height < size or width < size:
        missing = [max(size - side, 0) for side in (height, width)]
        around = [(lack // 2, (lack + 1) // 2) for lack in missing]
        image = np.pad(image, (*around, (0, 0)))
        height, width = image.shape[:2]
    top, left = round((height - size) / 2), round((width - size) / 2)
    return image[top : top + size, left : left + size]


def part_seen(height: int, width: int, size: int, resize: int) -> float:
    """Returns the part of a picture's area that its `central_view` shows, 0 to 1.

    Args:
        height, width: sides of the picture in pixels.
        size, resize: see `central_view`.
    """
    if resize:
        short = min(height, width)
        height, width = resize * height // short, resize * width // short
    return min(height, size) * min(width, size) / (height * width)


def resize_short(image: np.ndarray, size: int, centre: int | None = None) -> np.ndarray:
    """Resizes uint8 [H, W, 3] to a shorter side of `size` pixels: torchvision's `Resize(size)`.

    As in torchvision, the longer side is rounded down. Filter and threads as in `resized_crop`.

    Args:
        image: uint8 [H, W, 3].
        size: length of the shorter side in pixels.
        centre: side of a central square that suffices, placed as by torchvision's `CenterCrop`.
            Only this is made of a result with more than 16 million pixels (of long thin pictures,
            or a large `size`), and by Pillow; others are made whole.
    """
    height, width = image.shape[:2]
    short = min(height, width)
    tall, wide = size * height // short, size * width // short
    if centre is None or tall * wide <= _MOST_WHOLE:
        return resize(image, tall, wide)
    rows, columns = min(tall, centre), min(wide, centre)
    top, left = round((tall - rows) / 2), round((wide - columns) / 2)
    across, (x0, x1) = _window(width, wide, left, columns)
    down, (y0, y1) = _window(height, tall, top, rows)
    picture = Image.fromarray(image[down, across])
    square = picture.resize((columns, rows), Image.Resampling.BILINEAR, (x0, y0, x1, y1))
    return np.asarray(square)


def _window(old: int, new: int, first: int, count: int) -> tuple[slice, tuple[float, float]]:
    """Finds what `count` pixels of a resized side, from `first`, are made of.

    Args:
        old, new: length of the side before and after resizing.
        first, count: the pixels of the resized side.

    Returns:
        The part of the side within the support of the filter, and the place of the pixels in it;
        places in the whole side may be too large for Pillow's single precision.
    """
    start, stop = first * old / new, min((first + count) * old / new, old)
    support = math.ceil(max(old / new, 1)) + 1
    begin, end = max(int(start) - support, 0), min(math.ceil(stop) + support, old)
    return slice(begin, end), (start - begin, stop - begin)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes uint8 [H, W, 3] to uint8 [height, width, 3], bilinear with antialiasing."""
    if image.shape[:2] == (height, width):
        return image
    return (resize_by_pillow if fast is None else resize_fast)(image, height, width)


def resize_by_pillow(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Does `resize` with Pillow."""
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def resize_fast(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Does `resize` with cykooz_resizer; equals `resize_by_pillow` up to rounding."""
    if not hasattr(_of_thread, "resizer"):
        # Threads cannot share a Resizer, because it holds buffers.
        _of_thread.resizer = fast.Resizer()
        bilinear = fast.ResizeAlg.convolution(fast.FilterType.bilinear)
        _of_thread.options = fast.ResizeOptions(bilinear, use_alpha=False)
    source = fast.ImageData(image.shape[1], image.shape[0], fast.PixelType.U8x3, image.tobytes())
    resized = fast.ImageData(width, height, fast.PixelType.U8x3)
    _of_thread.resizer.resize(source, resized, _of_thread.options)
    return np.frombuffer(resized.get_buffer(), np.uint8).reshape(height, width, 3)
