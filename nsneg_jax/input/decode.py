"""Decodes any image file to RGB, as the original's `Image.open(file).convert("RGB")` does.

simplejpeg (libjpeg-turbo) decodes JPEGs: it takes half the time of Pillow, releases the GIL and
returns the same bytes. Pillow reads the other `FORMATS`. As in the original, transparency is
dropped, not composited, and an EXIF orientation is ignored. The contents of a file decide its
format, not its name: ImageNet has a PNG and CMYK files among its .JPEGs.

A header is checked before anything is decoded, so that a small file cannot take much memory or
time: `MAX_PIXELS`, and for JPEGs whether the file is long enough for its size and how often it
refines the picture.

JPEGs are not decoded at a reduced scale: that is possible only where both crops are large multiples
of the output, mostly saved 10 to 30 per cent there (entropy decoding remains), and at twice the
output size differed by up to 1.4 grey levels on average.
"""

import errno
import io
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

from nsneg_jax.errors import UsageError, printable
from nsneg_jax.input.sources import storage

# Where Pillow, too, refuses a picture as an attack; photographs of phones have up to 200 million
# only in a mode for experts. At 3 bytes it is half a gigabyte per thread.
MAX_PIXELS = 178_956_970
# A file is read whole, so this is what a thread holds of one that is no picture.
MAX_BYTES = 2**28
# The raster formats that Pillow may read. Others start programs (PostScript), draw (WMF), or take
# nearly any file for theirs (TGA). Motion pictures of JPEGs (MPO) are JPEGs to Pillow.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")

# Image.open loads the rarer formats on first use; another thread meanwhile may find its format
# unknown.
Image.init()
# Older versions of Pillow read AVIF only with a plugin.
_KNOWN = [each for each in FORMATS if each in Image.OPEN]

_JPEG = b"\xff\xd8\xff"
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_PROGRESSIVE = 0xC2
_ARITHMETIC = (0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_FRAMES = (*(0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7), *_ARITHMETIC)
_RESTARTS = range(0xD0, 0xD8)
# A block of 8x8 pixels takes at least two bits, or one in progressive JPEGs, or, in those with
# arithmetic coding, which nearly nobody writes, less.
_MOST_PIXELS_PER_BYTE = 4 * 64
# A macroblock of 16x16 pixels takes at least two bits, by the fixed probabilities of its modes.
_MOST_WEBP_PIXELS_PER_BYTE = 4 * 256
# Encoders write 3 to 15; each is another pass over all pixels.
_MOST_SCANS = 100
# Pictures are converted in parts of about so many pixels, since Pillow needs copies.
_PART_PIXELS = 2**22


class UnreadableImage(UsageError):
    """An image file is missing, damaged or no image; the message names the file and the reason.

    Attributes:
        path: the file.
        reason: what is wrong with it, a clause such as 'it is empty'.
        kind: 'missing', 'no file', 'no image', 'too large' or 'damaged'.
    """

    def __init__(self, path: str, reason: str, kind: str = "damaged") -> None:
        super().__init__(
            f"The image {printable(path)} cannot be read: {printable(reason)}. Replace it with a "
            "good copy of the same name; without the file a begun run could not go on. `nsneg "
            "prepare check FOLDER` lists all such images."
        )
        self.path, self.reason, self.kind = path, reason, kind

    def __reduce__(self) -> tuple[type["UnreadableImage"], tuple[str, str, str]]:
        return type(self), (self.path, self.reason, self.kind)  # for worker processes


class Header(NamedTuple):
    """What a file says of its first picture.

    Attributes:
        format: name of the format, as in Pillow.
        mode: how its pixels are stored, as in Pillow: 'RGB', 'L', 'CMYK' ...
        height, width: size in pixels.
    """

    format: str
    mode: str
    height: int
    width: int


def read_image(path: str) -> np.ndarray:
    """Reads the first picture in a file as RGB, uint8 [H, W, 3]; do not write to it. Thread-safe.

    Raises:
        UnreadableImage: there is no such file, or see `decode_image`.
    """
    return decode_image(read_encoded(path), path)


def read_encoded(path: str) -> bytes:
    """Reads the bytes of an image file. Thread-safe.

    Raises:
        UnreadableImage: the file is missing, no regular file, or larger than `MAX_BYTES`.
    """
    try:
        return storage.read_bytes(path, MAX_BYTES)
    except OSError as error:
        kinds = {errno.ENOENT: "missing", errno.EFBIG: "too large"}
        kind = kinds.get(error.errno or 0, "no file")
        raise UnreadableImage(path, error.strerror or str(error), kind) from error


def decode_image(data: bytes, name: str) -> np.ndarray:
    """Decodes the first picture of a file to RGB, uint8 [H, W, 3]; do not write to it.

    Args:
        data: the bytes of the file.
        name: name of the file, for the message.

    Raises:
        UnreadableImage: the file is in none of `FORMATS`, damaged or too large; incomplete
            pictures count as damaged.
    """
    try:
        _check_bytes(data)
        header = _jpeg_header(data)
        # simplejpeg rounds CMYK unlike Pillow: the mean differs by a grey level.
        if header is not None and header.mode != "CMYK":
            try:
                return simplejpeg.decode_jpeg(data)
            except ValueError:
                pass  # Pillow is less strict, and names what is wrong
        with _opened(data) as picture:
            return rgb_of(picture)
    # Pillow's decoders raise nearly anything on damage: OSError, SyntaxError, ValueError ...
    except Exception as error:
        raise _unreadable(name, error) from error


def header_of(data: bytes, name: str) -> Header:
    """Reads the header of a file without decoding the picture.

    Raises:
        UnreadableImage: the file is in none of `FORMATS`, or too large.
    """
    try:
        _check_bytes(data)
        header = _jpeg_header(data)
        if header is None:
            with _opened(data) as picture:
                form = "JPEG" if data.startswith(_JPEG) else str(picture.format)  # not MPO
                header = Header(form, picture.mode, picture.height, picture.width)
        return header
    except Exception as error:
        raise _unreadable(name, error) from error


def rgb_of(picture: Image.Image) -> np.ndarray:
    """Converts a Pillow image to RGB, uint8 [H, W, 3]; do not write to it.

    Raises:
        ValueError: its pixels are 32-bit numbers.
    """
    mode = picture.mode
    if mode in ("I", "F") and not (mode == "I" and picture.format == "PPM"):
        raise _NoImage(f"its pixels are 32-bit numbers (mode {mode}) whose range is not known")
    rows = max(_PART_PIXELS // picture.width, 1)
    if rows >= picture.height:
        return _rgb(picture)
    image = np.empty((picture.height, picture.width, 3), np.uint8)
    for top in range(0, picture.height, rows):
        bottom = min(top + rows, picture.height)
        image[top:bottom] = _rgb(picture.crop((0, top, picture.width, bottom)))
    return image


def unreadable(name: str, reason: str) -> UnreadableImage:
    """Makes the error for an image file from its name and what is wrong with it."""
    return UnreadableImage(name, reason)


class _TooLarge(ValueError):
    """A picture has more pixels than `MAX_PIXELS`, or a file more bytes than `MAX_BYTES`."""


class _NoImage(ValueError):
    """A file is in none of `FORMATS`, or its numbers are no colours."""


def _unreadable(name: str, error: Exception) -> UnreadableImage:
    if isinstance(error, Image.UnidentifiedImageError):
        return UnreadableImage(name, "it is in no image format known here", "no image")
    if isinstance(error, _NoImage | _TooLarge):
        kind = "too large" if isinstance(error, _TooLarge) else "no image"
        return UnreadableImage(name, str(error), kind)
    if isinstance(error, Image.DecompressionBombError):
        return UnreadableImage(name, f"it has more than {MAX_PIXELS:,} pixels", "too large")
    return UnreadableImage(name, str(error) or type(error).__name__)


def _check_bytes(data: bytes) -> None:
    if not data:
        raise _NoImage("it is empty")
    if len(data) > MAX_BYTES:
        raise _TooLarge(f"it is larger than {MAX_BYTES:,} bytes")


def _check_pixels(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise _TooLarge(f"it has {width} x {height} pixels, more than {MAX_PIXELS:,}")


def _jpeg_header(data: bytes) -> Header | None:
    """Returns the checked header of a JPEG; None if simplejpeg cannot read it, or it is none."""
    if not data.startswith(_JPEG):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    _check_pixels(height, width)
    _check_jpeg(data, height, width)
    mode = {"Gray": "L", "CMYK": "CMYK", "YCCK": "CMYK"}.get(colours, "RGB")
    return Header("JPEG", mode, height, width)


def _opened(data: bytes) -> Image.Image:
    """Opens a file with Pillow, with its header checked and nothing decoded."""
    _check_webp(data)
    picture = Image.open(io.BytesIO(data), formats=_KNOWN)
    _check_pixels(picture.height, picture.width)
    if data.startswith(_JPEG):
        _check_jpeg(data, picture.height, picture.width)
    return picture


def _check_jpeg(data: bytes, height: int, width: int) -> None:
    """Raises ValueError if a JPEG cannot hold its picture, or takes too many passes over it."""
    frame, in_one_scan = _jpeg_frame(data)
    most = _MOST_PIXELS_PER_BYTE * (2 if frame == _PROGRESSIVE else 1)
    if height * width > most * len(data) and frame not in _ARITHMETIC:
        raise _short(data, height, width)
    # Such bytes occur in what follows the picture, too: phones append films.
    if in_one_scan or data.count(bytes((0xFF, _START_OF_SCAN))) <= _MOST_SCANS:
        return
    if sum(marker == _START_OF_SCAN for marker, _ in _jpeg_segments(data)) > _MOST_SCANS:
        raise ValueError(f"it is in more than {_MOST_SCANS} scans")


def _jpeg_frame(data: bytes) -> tuple[int, bool]:
    """Returns the marker of a JPEG's frame, which tells the coding, and whether one scan is all."""
    frame, components = 0, 0
    for marker, place in _jpeg_segments(data):
        if marker in _FRAMES and place + 7 < len(data):
            frame, components = marker, data[place + 7]
        elif marker == _START_OF_SCAN:
            whole = place + 2 < len(data) and data[place + 2] == components
            return frame, whole and frame != _PROGRESSIVE
    return frame, True


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Yields markers of a JPEG and where their segments begin, up to the end of its picture."""
    place = 2
    while (place := data.find(b"\xff", place)) >= 0 and place + 1 < len(data):
        marker = data[place + 1]
        place += 1
        if marker in (0x00, 0xFF) or marker in _RESTARTS:  # part of a scan
            continue
        place += 1
        yield marker, place
        if marker == _END_OF_IMAGE:
            return
        if len(data) >= place + 2:
            place += struct.unpack_from(">H", data, place)[0]


def _check_webp(data: bytes) -> None:
    """Checks a WebP's header before its decoder, which allocates two of its canvas at once."""
    if not (data.startswith(b"RIFF") and data[8:12] == b"WEBP" and len(data) >= 30):
        return
    if data[12:16] == b"VP8X":
        width, height = (int.from_bytes(data[i : i + 3], "little") + 1 for i in (24, 27))
        _check_pixels(height, width)
    elif data[12:16] == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
        _check_pixels(height, width)
        if height * width > _MOST_WEBP_PIXELS_PER_BYTE * len(data):
            raise _short(data, height, width)


def _short(data: bytes, height: int, width: int) -> ValueError:
    return ValueError(f"its {len(data):,} bytes are too few for {width} x {height} pixels")


def _rgb(picture: Image.Image) -> np.ndarray:
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        # Pillow keeps 16-bit grey but takes the high bytes of 16-bit colour; take them for both.
        gray = (np.asarray(picture) >> 8).astype(np.uint8)
        return np.repeat(gray[:, :, None], 3, axis=2)
    converted: Any = picture if picture.mode == "RGB" else picture.convert("RGB")
    return np.asarray(converted)
