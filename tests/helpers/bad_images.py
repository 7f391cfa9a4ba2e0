"""A class folder with every kind of bad or odd image file, as downloads and archives leave them."""

import io
import os
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin


def picture(height: int = 48, width: int = 64) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    waves = [128 + 120 * np.sin((a * x + b * y) / 9) for a, b in ((1, 0), (0, 1), (1, 1))]
    return Image.fromarray(np.stack(waves, -1).astype(np.uint8))


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def jpeg(**options: object) -> bytes:
    return encoded(picture(), "JPEG", quality=85, **options)


def png() -> bytes:
    return encoded(picture(), "PNG")


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of(width: int, height: int, pixels: bytes, depth: int = 8, colour: int = 0) -> bytes:
    """A PNG with any size in its header, over compressed rows."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        png_chunk(kind, body) for kind, body in ((b"IHDR", head), (b"IDAT", pixels), (b"IEND", b""))
    )


def jpeg_of(width: int, height: int, **options: object) -> bytes:
    """A JPEG with another size in its header than its data are for."""
    data = bytearray(jpeg(**options))
    place = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    data[place + 5 : place + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def jpeg_of_scans(side: int, scans: int) -> bytes:
    """A progressive JPEG of one colour that repeats its last scan."""
    data = encoded(Image.new("L", (side, side), 99), "JPEG", progressive=True)
    last = data.rfind(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + b"\xff\xd9"


def gif_of(width: int, height: int) -> bytes:
    data = bytearray(encoded(picture(), "GIF"))
    data[6:10] = struct.pack("<HH", width, height)
    place = data.index(b"\x2c\0\0\0\0")
    data[place + 5 : place + 9] = struct.pack("<HH", width, height)
    return bytes(data)


def tiff_of(width: int, height: int) -> bytes:
    data = bytearray(encoded(picture(), "TIFF", compression="tiff_lzw"))
    for tag, value in ((256, width), (257, height), (278, height)):
        for kind in (3, 4):
            place = data.find(struct.pack("<HHI", tag, kind, 1))
            if place >= 0:
                data[place : place + 12] = struct.pack("<HHII", tag, 4, 1, value)
    return bytes(data)


def webp_of(width: int, height: int) -> bytes:
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    inner = encoded(picture(), "WEBP")[12:]
    head = b"VP8X" + struct.pack("<I", 10) + bytes(4) + canvas
    return b"RIFF" + struct.pack("<I", 4 + len(head) + len(inner)) + b"WEBP" + head + inner


def bmp_of(width: int, height: int) -> bytes:
    data = bytearray(encoded(picture(), "BMP"))
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


def with_alpha(mode: str, form: str = "PNG") -> bytes:
    image = picture().convert(mode)
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return encoded(image, form)


def ycck() -> bytes:
    data = encoded(picture().convert("CMYK"), "JPEG")
    return at_byte(data, data.index(b"Adobe") + 11, b"\2")


def animated(form: str) -> bytes:
    frames = [picture().rotate(angle) for angle in (0, 90, 180)]
    return encoded(frames[0], form, save_all=True, append_images=frames[1:])


def huge_exif() -> bytes:
    exif = Image.Exif()
    exif[0x010E] = "x" * 60_000
    data = jpeg(exif=exif)
    comment = b"\xff\xfe" + struct.pack(">H", 65_000) + bytes(64_998)
    return data[:2] + comment * 20 + data[2:]


def text_bomb() -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * 20_000_000, zip=True)
    return encoded(picture(), "PNG", pnginfo=info)


def at_byte(data: bytes, place: int, value: bytes) -> bytes:
    return data[:place] + value + data[place + len(value) :]


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def middle(data: bytes, value: bytes) -> bytes:
    return at_byte(data, len(data) * 3 // 5, value)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n%%EndComments\nshowpage\n%%EOF\n"
PDF = b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="48"><rect width="9"/></svg>'
TAR = b"n01440764_1.JPEG".ljust(257, b"\0") + b"ustar\x0000".ljust(800, b"\0")
MP4 = b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41" + bytes(200)
TGA = struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, 64, 48, 24, 0) + bytes(64 * 48 * 3)
WMF = b"\xd7\xcd\xc6\x9a" + bytes(100)

# the name of a file: its contents, and whether they are an image
FILES: dict[str, tuple[Callable[[], bytes], bool]] = {
    # broken downloads and copies
    "empty.JPEG": (lambda: b"", False),
    "one_byte.JPEG": (lambda: b"\xff", False),
    "head_only.JPEG": (lambda: jpeg()[:20], False),
    "cut_in_the_tables.JPEG": (lambda: jpeg()[:200], False),
    "cut_in_the_middle.JPEG": (lambda: half(jpeg()), False),
    "cut_near_the_end.JPEG": (lambda: jpeg()[:-40], False),
    "cut_progressive.JPEG": (lambda: half(jpeg(progressive=True)), False),
    "cut.png": (lambda: half(png()), False),
    "cut_before_the_end.png": (lambda: png()[:-40], False),
    "cut.gif": (lambda: half(encoded(picture(), "GIF")), False),
    "cut.bmp": (lambda: half(encoded(picture(), "BMP")), False),
    "cut.webp": (lambda: half(encoded(picture(), "WEBP")), False),
    "cut.tiff": (lambda: half(encoded(picture(), "TIFF")), False),
    "cut.ppm": (lambda: half(encoded(picture(), "PPM")), False),
    "zero_filled.JPEG": (lambda: bytes(5000), False),
    "zero_filled_tail.JPEG": (lambda: (d := jpeg())[: len(d) // 2] + bytes(len(d) // 2), False),
    "damaged_checksum.png": (lambda: middle(png(), b"\x55\xaa\x55"), False),
    "damaged_huffman_table.JPEG": (
        lambda: at_byte(d := jpeg(), d.index(b"\xff\xc4") + 5, b"\xff" * 12),
        False,
    ),
    # other files under an image's name
    "text.JPEG": (lambda: b"404 Not Found\n", False),
    "page.JPEG": (lambda: b"<!DOCTYPE html><html><body>Sign in</body></html>", False),
    "lfs_pointer.JPEG": (lambda: LFS, False),
    "json.JPEG": (lambda: b'{"error": "rate limit"}', False),
    "postscript.JPEG": (lambda: POSTSCRIPT, False),
    "pdf.JPEG": (lambda: PDF, False),
    "svg.png": (lambda: SVG, False),
    "archive.JPEG": (lambda: TAR, False),
    "film.JPEG": (lambda: MP4, False),
    "targa.JPEG": (lambda: TGA, False),
    "metafile.JPEG": (lambda: WMF, False),
    "noise.JPEG": (lambda: np.random.default_rng(0).bytes(5000), False),
    # small files of large pictures, true or not
    "bomb_60000.JPEG": (lambda: jpeg_of(60_000, 60_000), False),
    "bomb_10000.JPEG": (lambda: jpeg_of(10_000, 10_000), False),
    "bomb_progressive.JPEG": (lambda: jpeg_of(13_000, 13_000, progressive=True), False),
    "bomb_of_scans.JPEG": (lambda: jpeg_of_scans(3000, 2000), False),
    "bomb_60000.png": (lambda: png_of(60_000, 60_000, zlib.compress(bytes(10**7))), False),
    "bomb_of_a_line.png": (lambda: png_of(2**31 - 1, 1, zlib.compress(bytes(10**7))), False),
    "bomb_13000.png": (lambda: png_of(13_000, 13_000, zlib.compress(bytes(10**5))), False),
    "bomb_of_text.png": (text_bomb, False),
    "bomb.gif": (lambda: gif_of(65_535, 65_535), False),
    "bomb.tiff": (lambda: tiff_of(100_000, 100_000), False),
    "bomb.webp": (lambda: webp_of(16_000, 16_000), False),
    "bomb.bmp": (lambda: bmp_of(50_000, 50_000), False),
    "bomb.ppm": (lambda: b"P6\n99999 99999\n255\n" + bytes(100), False),
    "no_pixels.png": (lambda: png_of(0, 0, zlib.compress(b"")), False),
    # numbers without a known range
    "float.tiff": (lambda: encoded(picture().convert("F"), "TIFF"), False),
    "integers.tiff": (lambda: encoded(picture().convert("I"), "TIFF"), False),
    # odd, but images
    "good.JPEG": (jpeg, True),
    "progressive.JPEG": (lambda: jpeg(progressive=True), True),
    "grey.JPEG": (lambda: encoded(picture().convert("L"), "JPEG"), True),
    "cmyk.JPEG": (lambda: encoded(picture().convert("CMYK"), "JPEG"), True),
    "ycck.JPEG": (ycck, True),
    "turned.JPEG": (lambda: jpeg(exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"), True),
    "huge_exif.JPEG": (huge_exif, True),
    "film_behind_it.JPEG": (
        lambda: jpeg() + np.random.default_rng(1).bytes(10**7) + b"\xff\xda" * 200,
        True,
    ),
    "motion.JPEG": (lambda: animated("MPO"), True),
    "png_inside.JPEG": (png, True),
    "jpeg_inside.png": (jpeg, True),
    "one_pixel.JPEG": (lambda: encoded(picture(1, 1), "JPEG"), True),
    "one_pixel.png": (lambda: encoded(picture(1, 1), "PNG"), True),
    "thin.png": (lambda: encoded(picture(1, 5000), "PNG"), True),
    "tall.png": (lambda: encoded(picture(5000, 1), "PNG"), True),
    "thin.JPEG": (lambda: encoded(picture(1, 60_000), "JPEG"), True),
    "bits.png": (lambda: encoded(picture().convert("1"), "PNG"), True),
    "palette.png": (lambda: encoded(picture().quantize(16), "PNG"), True),
    "transparent_palette.png": (
        lambda: encoded(picture().quantize(16), "PNG", transparency=bytes(range(16))),
        True,
    ),
    "grey_alpha.png": (lambda: with_alpha("L"), True),
    "alpha.png": (lambda: with_alpha("RGB"), True),
    "deep.png": (lambda: encoded(Image.fromarray(np.full((9, 9), 40_000, np.uint16)), "PNG"), True),
    "deep.tiff": (
        lambda: encoded(Image.fromarray(np.full((9, 9), 40_000, np.uint16)), "TIFF"),
        True,
    ),
    "animated.gif": (lambda: animated("GIF"), True),
    "animated.png": (lambda: animated("PNG"), True),
    "animated.webp": (lambda: animated("WEBP"), True),
    "pages.tiff": (lambda: animated("TIFF"), True),
    "jpeg2000.JPEG": (lambda: encoded(picture(), "JPEG2000"), True),
    **({"av1.JPEG": (lambda: encoded(picture(), "AVIF"), True)} if "AVIF" in Image.SAVE else {}),
    "portable.pgm": (lambda: encoded(picture().convert("L"), "PPM"), True),
}

# names that few programs expect, of good images; the bytes of Latin-1 are no UTF-8
NAMES = (
    *(b"new\nline.JPEG", b'quote".JPEG', b"quote'.JPEG", b"per%cent%20.JPEG", b"tab\t.JPEG"),
    *(b"caf\xe9.JPEG", "café.JPEG".encode(), b" space.JPEG", b"-rf.JPEG", b"$HOME.JPEG"),
    *(b"bell\x07\x1b[31m.JPEG", b"back\\slash.JPEG", b"UPPER.JPG", b"x" * 250 + b".JPG"),
    *(b"*?.JPEG", "日本.JPEG".encode(), b"two..JPEG", b"{brace}.JPEG"),
)


def write_bad_images(folder: Path) -> dict[str, bool]:
    """Makes a folder of files that are, or look like, images.

    Returns:
        By the name of each file that counts as an image, whether it is readable.
    """
    folder.mkdir(parents=True)
    readable = {}
    for name, (make, good) in FILES.items():
        (folder / name).write_bytes(make())
        readable[name] = good
    for raw in NAMES:
        name = os.fsdecode(raw)
        (folder / name).write_bytes(jpeg())
        readable[name] = True
    os.mkfifo(folder / "fifo.JPEG")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(folder, os.O_RDONLY)
        server.bind(f"/proc/self/fd/{here}/socket.JPEG")  # a path may have 107 bytes
        os.close(here)
    with (folder / "sparse.JPEG").open("wb") as sparse:
        sparse.truncate(2**40)
    links = {
        "link_to_a_fifo.JPEG": "fifo.JPEG",
        "zeros.JPEG": "/dev/zero",
        "terminal.JPEG": "/dev/tty",
        "broken_link.JPEG": "gone.JPEG",
        "link_loop.JPEG": "link_loop.JPEG",
    }
    for name, target in links.items():
        (folder / name).symlink_to(target)
    readable |= dict.fromkeys(("fifo.JPEG", "socket.JPEG", "sparse.JPEG", *links), False)
    (folder / "link.JPEG").symlink_to("good.JPEG")
    (folder / "folder.JPEG").mkdir()
    (folder / "folder.JPEG" / "inside.JPEG").write_bytes(jpeg())
    readable |= {"link.JPEG": True, "folder.JPEG/inside.JPEG": True}
    # These are no images to a listing.
    (folder / "._good.JPEG").write_bytes(b"\0\5\x16\7" + bytes(100))
    (folder / ".DS_Store").write_bytes(bytes(100))
    (folder / "Thumbs.db").write_bytes(bytes(100))
    return readable
