"""Every kind of image file that data sets hold, really written and read, against Pillow."""

import io
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from nsneg_jax.errors import UsageError
from nsneg_jax.input.decode import UnreadableImage, decode_image, read_image


def picture(height=37, width=53):
    y, x = np.mgrid[:height, :width]
    waves = [128 + 120 * np.sin((a * x + b * y) / 9) for a, b in ((1, 0), (0, 1), (1, 1))]
    return Image.fromarray(np.stack(waves, -1).astype(np.uint8))


def encoded(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def as_original(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def exif_turned():
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees
    return encoded(picture(), "JPEG", exif=exif)


def palette(transparent=False):
    image = picture().quantize(16)
    return encoded(image, "PNG", **({"transparency": 3} if transparent else {}))


def with_alpha(mode, form="PNG"):
    image = picture().convert(mode)
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return encoded(image, form)


PLAIN = {
    "jpeg": lambda: encoded(picture(), "JPEG", quality=90),
    "jpeg_444_progressive": lambda: encoded(picture(), "JPEG", subsampling=0, progressive=True),
    "jpeg_grayscale": lambda: encoded(picture().convert("L"), "JPEG"),
    "jpeg_cmyk": lambda: encoded(picture().convert("CMYK"), "JPEG"),
    "jpeg_turned_by_exif": exif_turned,
    "jpeg_with_text_after_it": lambda: encoded(picture(), "JPEG") + b"and more",
    "png": lambda: encoded(picture(), "PNG"),
    "png_grayscale": lambda: encoded(picture().convert("L"), "PNG"),
    "png_one_bit": lambda: encoded(picture().convert("1"), "PNG"),
    "png_palette": palette,
    "png_palette_transparent": lambda: palette(True),
    "png_alpha": lambda: with_alpha("RGB"),
    "png_grayscale_alpha": lambda: with_alpha("L"),
    "bmp": lambda: encoded(picture(), "BMP"),
    "gif": lambda: encoded(picture(), "GIF"),
    "tiff": lambda: encoded(picture(), "TIFF"),
    "tiff_cmyk": lambda: encoded(picture().convert("CMYK"), "TIFF"),
    "tiff_lzw": lambda: encoded(picture(), "TIFF", compression="tiff_lzw"),
    "webp": lambda: encoded(picture(), "WEBP"),
    "webp_alpha": lambda: with_alpha("RGB", "WEBP"),
    "ppm": lambda: encoded(picture(), "PPM"),
    "pgm": lambda: encoded(picture().convert("L"), "PPM"),
    "one_pixel": lambda: encoded(picture(1, 1), "JPEG"),
}


@pytest.mark.parametrize("kind", PLAIN)
def test_reads_what_the_original_reads(kind, tmp_path):
    data = PLAIN[kind]()
    path = tmp_path / "n01440764_1.JPEG"  # whatever is in it: the name does not matter
    path.write_bytes(data)
    image = read_image(str(path))
    assert image.dtype == np.uint8 and image.shape[2] == 3
    np.testing.assert_array_equal(image, as_original(data))


def test_alpha_is_dropped_not_composited():
    rgb = decode_image(with_alpha("RGB"), "a.png")
    np.testing.assert_array_equal(rgb, np.asarray(picture()))


def test_first_picture_of_an_animation():
    frames = [picture(), picture().rotate(180)]
    for form, options in (("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True})):
        data = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
        image = decode_image(data, "animated").astype(int)
        assert np.abs(image - np.asarray(frames[0])).mean() < 10  # a GIF has 256 colours


def deep_gray(form):
    gray = np.linspace(0, 65535, 40 * 50).reshape(40, 50).astype(np.uint16)
    if form == "PGM":
        return gray, b"P5\n50 40\n65535\n" + gray.astype(">u2").tobytes()
    if form == "PPM":
        colour = np.repeat(gray.astype(">u2")[:, :, None], 3, 2)
        return gray, b"P6\n50 40\n65535\n" + colour.tobytes()
    if form == "TIFF big-endian":
        return gray, encoded(
            Image.frombytes("I;16B", (50, 40), gray.astype(">u2").tobytes()), "TIFF"
        )
    return gray, encoded(Image.fromarray(gray), form)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "TIFF big-endian", "PGM", "PPM"])
def test_sixteen_bits_are_scaled_not_clipped(form):
    gray, data = deep_gray(form)
    image = decode_image(data, "deep")
    assert image.shape == (40, 50, 3)
    assert np.abs(image.astype(float) - (gray / 257)[:, :, None]).max() <= 1


def test_recoverable_faults_are_no_errors():
    data = encoded(picture(200, 200), "JPEG")
    data = data[:-2] + b"\x00\x12\x34" + data[-2:]  # stray bytes before the end marker
    np.testing.assert_array_equal(decode_image(data, "a.jpg"), as_original(data))


DAMAGED = {
    **{
        f"half_a_{kind}": lambda kind=kind: (d := PLAIN[kind]())[: len(d) // 2]
        for kind in ("jpeg", "jpeg_cmyk", "png", "bmp", "gif", "tiff", "tiff_lzw", "webp", "ppm")
    },
    "head_of_a_jpeg": lambda: PLAIN["jpeg"]()[:20],
    "jpeg_without_its_end": lambda: PLAIN["jpeg"]()[:-40],
    "flipped_bits_in_a_png": lambda: (d := PLAIN["png"]())[:80] + bytes(40) + d[120:],
    "empty": lambda: b"",
    "text": lambda: b"<html>404 not found</html>",
    "floating_point": lambda: encoded(picture().convert("F"), "TIFF"),
    "32_bit": lambda: encoded(picture().convert("I"), "TIFF"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damage_is_named(kind, tmp_path):
    path = tmp_path / f"{kind}.jpg"
    path.write_bytes(DAMAGED[kind]())
    with pytest.raises(UnreadableImage, match=str(path)) as caught:
        read_image(str(path))
    assert isinstance(caught.value, UsageError)
    assert "BytesIO" not in str(caught.value)
    # the worker processes send it to the trainer
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(UnreadableImage, match=r"gone\.jpg cannot be read: No such file"):
        read_image(str(tmp_path / "gone.jpg"))
    with pytest.raises(UnreadableImage, match="Is a directory"):
        read_image(str(tmp_path))


def test_threads_do_not_disturb_one_another():
    kinds = list(PLAIN) * 8
    files = {kind: make() for kind, make in PLAIN.items()}
    with ThreadPoolExecutor(8) as pool:
        images = list(pool.map(lambda kind: decode_image(files[kind], kind), kinds))
    for kind, image in zip(kinds, images, strict=True):
        np.testing.assert_array_equal(image, as_original(files[kind]))
