"""Any image file to RGB, as the original's `Image.open(file).convert("RGB")` gives it.

JPEGs go through simplejpeg (libjpeg-turbo), which takes half the time of Pillow, releases the GIL
and returns the same bytes; Pillow reads everything else. As in the original, transparency is
dropped, not composited, and an EXIF orientation is ignored. Files are told apart by what is in
them: ImageNet has a PNG and CMYK files among its .JPEGs.

Decoding JPEGs at a reduced scale was tried and left out: it may be used only where both crops are
large multiples of the output, it mostly saved 10 to 30 per cent there (entropy decoding remains),
and at twice the output size it already differed by up to 1.4 grey levels in the mean.
"""

import io

import numpy as np
import simplejpeg
from PIL import Image

from nsneg_jax.errors import UsageError
from nsneg_jax.input.sources import storage

# Image.open loads the rarer formats on first need, and while one thread does so another may be
# told that its file is of no known format.
Image.init()

_JPEG = b"\xff\xd8\xff"


class UnreadableImage(UsageError):
    """An image file that is missing, damaged or no image; the message names it and says why."""


def read_image(path: str) -> np.ndarray:
    """The first picture in a file as uint8 [H, W, 3], RGB, not to be written to.

    Safe to call in threads.

    Raises:
        UnreadableImage: see `decode_image`; or there is no such file.
    """
    try:
        data = storage.read_bytes(path)
    except OSError as error:
        raise unreadable(path, error.strerror or str(error)) from error
    return decode_image(data, path)


def decode_image(data: bytes, name: str) -> np.ndarray:
    """The first picture in the bytes of a file as uint8 [H, W, 3], RGB, not to be written to.

    Args:
        data: all of the file.
        name: its name, for the message.

    Raises:
        UnreadableImage: no image, or a damaged one: where a part of the picture is missing, it is
            not used.
    """
    if not data:
        raise unreadable(name, "it is empty")
    if data.startswith(_JPEG):
        try:
            # simplejpeg converts CMYK with other rounding than Pillow, a grey level off in the mean
            if simplejpeg.decode_jpeg_header(data)[2] not in ("CMYK", "YCCK"):
                return simplejpeg.decode_jpeg(data)
        except ValueError:
            pass  # Pillow reads some that simplejpeg is too strict for, and says what is wrong
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return rgb_of(picture)
    # Pillow's decoders meet damage with nearly any exception: OSError, SyntaxError, ValueError ...
    except Exception as error:
        reason = str(error)
        if isinstance(error, Image.UnidentifiedImageError):
            reason = "it is in no image format known here"
        raise unreadable(name, reason or type(error).__name__) from error


def rgb_of(picture: Image.Image) -> np.ndarray:
    """The pixels of a picture of Pillow's as uint8 [H, W, 3], RGB, not to be written to.

    Raises:
        ValueError: they are 32-bit numbers.
    """
    mode = picture.mode
    if mode.startswith("I;16") or (mode == "I" and picture.format == "PPM"):
        # Pillow reads 16-bit grey as it is and 16-bit colour by its high bytes; do so with both
        gray = (np.asarray(picture) >> 8).astype(np.uint8)
        return np.repeat(gray[:, :, None], 3, axis=2)
    if mode in ("I", "F"):
        raise ValueError(f"its pixels are 32-bit numbers (mode {mode}) whose range is not known")
    return np.asarray(picture if mode == "RGB" else picture.convert("RGB"))


def unreadable(name: str, reason: str) -> UnreadableImage:
    """The error for an image file by its name and what is wrong with it."""
    return UnreadableImage(
        f"The image {name} cannot be read: {reason}. Replace the file by a good copy, or remove it."
    )
