"""Resizing and random resized crops on the host, as torchvision does them on PIL images.

Resizing is most of the host's work, so cykooz_resizer does it where it is installed. It uses
Pillow's filter (on photographs it differs by 0.1 grey levels on average, 0.3 at most) and takes a
third of the time, but has no wheel for Linux on ARM; Pillow resizes there. OpenCV has no such
filter: INTER_LINEAR and INTER_AREA differed by up to 3.4 grey levels, and INTER_LINEAR after a
fitted blur by up to 1.4.
"""

import math
import threading

import numpy as np
from PIL import Image

try:
    import cykooz_resizer as fast
except ImportError:
    fast = None

_TRIES = 10
_MOST_WHOLE = 2**24  # pixels, 50 MB
_of_thread = threading.local()


def sample_crop(
    rng: np.random.Generator,
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
    area = height * width
    log_ratio = (math.log(ratio[0]), math.log(ratio[1]))
    for _ in range(_TRIES):
        target = area * rng.uniform(*scale)
        shape = math.exp(rng.uniform(*log_ratio))
        w = round(math.sqrt(target * shape))
        h = round(math.sqrt(target / shape))
        if 0 < w <= width and 0 < h <= height:
            top = int(rng.integers(0, height - h + 1))
            left = int(rng.integers(0, width - w + 1))
            return top, left, h, w
    h, w = height, width
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return (height - h) // 2, (width - w) // 2, h, w


def relative_crop(
    box: tuple[int, int, int, int], size: tuple[int, int], other: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Scales a crop to another size of the same image.

    Args:
        box: (top, left, height, width) in pixels, in an image of `size`.
        size: (height, width) of the image that `box` is for.
        other: (height, width) of the image that the result is for.

    Returns:
        (top, left, height, width), rounded to whole pixels; `box` itself for equal sizes.
    """
    (top, left, height, width), (tall, wide), (rows, columns) = box, size, other
    first = round(top * rows / tall), round(left * columns / wide)
    last = round((top + height) * rows / tall), round((left + width) * columns / wide)
    # Keep at least one pixel inside the image.
    first = min(first[0], rows - 1), min(first[1], columns - 1)
    return *first, max(last[0] - first[0], 1), max(last[1] - first[1], 1)


def resized_crop(image: np.ndarray, box: tuple[int, int, int, int], size: int) -> np.ndarray:
    """Cuts out a box and resizes it with Pillow's bilinear filter, antialiased.

    Pixels outside the box have no influence, as in torchvision, which cuts first. Thread-safe; the
    GIL is released while resizing.

    Args:
        image: uint8 [H, W, 3].
        box: (top, left, height, width) in pixels, inside the image.
        size: side of the result in pixels.

    Returns:
        uint8 [size, size, 3]; do not write to it.
    """
    top, left, height, width = box
    cut = image[top : top + height, left : left + width]
    return resize(cut, size, size)


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
