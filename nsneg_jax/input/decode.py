"""Decodes any image file to RGB, as the original's `Image.open(file).convert("RGB")` does.

simplejpeg (libjpeg-turbo) decodes JPEGs: it takes half the time of Pillow, releases the GIL and
returns the same bytes. Pillow reads everything else. As in the original, transparency is dropped,
not composited, and an EXIF orientation is ignored. The contents of a file decide its format, not
its name: ImageNet has a PNG and CMYK files among its .JPEGs.

JPEGs are not decoded at a reduced scale: that is possible only where both crops are large multiples
of the output, mostly saved 10 to 30 per cent there (entropy decoding remains), and at twice the
output size differed by up to 1.4 grey levels on average.
"""

import io

import numpy as np
import simplejpeg
from PIL import Image

from nsneg_jax.errors import UsageError
from nsneg_jax.input.sources import storage

# Image.open loads the rarer formats on first use; another thread meanwhile may find its format
# unknown.
Image.init()

_JPEG = b"\xff\xd8\xff"


class UnreadableImage(UsageError):
    """An image file is missing, damaged or no image; the message names the file and the reason.

    Attributes:
        path: the file.
        reason: what is wrong with it.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return (
            f"The image {self.path} cannot be read: {self.reason}. Replace it with a good copy of "
            "the same name."
        )


def read_image(path: str) -> np.ndarray:
    """Reads the first picture in a file as RGB, uint8 [H, W, 3]; do not write to it. Thread-safe.

    Raises:
        UnreadableImage: there is no such file, or see `decode_image`.
    """
    try:
        data = storage.read_bytes(path)
    except OSError as error:
        raise unreadable(path, error.strerror or str(error)) from error
    return decode_image(data, path)


def decode_image(data: bytes, name: str) -> np.ndarray:
    """Decodes the first picture of a file to RGB, uint8 [H, W, 3]; do not write to it.

    Args:
        data: the bytes of the file.
        name: name of the file, for the message.

    Raises:
        UnreadableImage: the file is no image, or damaged; incomplete pictures count as damaged.
    """
    if not data:
        raise unreadable(name, "it is empty")
    if data.startswith(_JPEG):
        try:
            # simplejpeg rounds CMYK unlike Pillow: the mean differs by a grey level.
            if simplejpeg.decode_jpeg_header(data)[2] not in ("CMYK", "YCCK"):
                return simplejpeg.decode_jpeg(data)
        except ValueError:
            pass  # Pillow is less strict, and names what is wrong
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return rgb_of(picture)
    # Pillow's decoders raise nearly anything on damage: OSError, SyntaxError, ValueError ...
    except Exception as error:
        reason = str(error)
        if isinstance(error, Image.UnidentifiedImageError):
            reason = "it is in no image format known here"
        raise unreadable(name, reason or type(error).__name__) from error


def rgb_of(picture: Image.Image) -> np.ndarray:
    """Converts a Pillow image to RGB, uint8 [H, W, 3]; do not write to it.

    Raises:
        ValueError: its pixels are 32-bit numbers.
    """
    mode = picture.mode
    if mode.startswith("I;16") or (mode == "I" and picture.format == "PPM"):
        # Pillow keeps 16-bit grey but takes the high bytes of 16-bit colour; take them for both.
        gray = (np.asarray(picture) >> 8).astype(np.uint8)
        return np.repeat(gray[:, :, None], 3, axis=2)
    if mode in ("I", "F"):
        raise ValueError(f"its pixels are 32-bit numbers (mode {mode}) whose range is not known")
    return np.asarray(picture if mode == "RGB" else picture.convert("RGB"))


def unreadable(name: str, reason: str) -> UnreadableImage:
    """Makes the error for an image file from its name and what is wrong with it."""
    return UnreadableImage(name, reason)
