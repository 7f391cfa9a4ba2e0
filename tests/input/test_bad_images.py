"""Every kind of bad or odd image file, and many damaged ones: an image or one error each."""

import io
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from bad_images import jpeg, jpeg_of_scans, write_bad_images
from PIL import Image

from nsneg_jax.input import decode
from nsneg_jax.input.decode import UnreadableImage, decode_image, header_of, read_image
from nsneg_jax.input.sources import storage
from nsneg_jax.input.sources.folders.folder import Folder

APART = Path(__file__).parents[1] / "helpers" / "decode_apart.py"
MOST_SECONDS, MOST_MEGABYTES = 1, 300


def run_apart(*arguments):
    """Reads files in a process of its own, since memory is counted by process."""
    process = subprocess.run(
        [sys.executable, str(APART), *map(str, arguments)],
        capture_output=True,
        timeout=100,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": ".", "JAX_PLATFORMS": "cpu"},
    )
    assert process.returncode == 0, process.stderr.decode(errors="replace")[-2000:]
    return [json.loads(line) for line in process.stdout.splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("bad")
    return root, write_bad_images(root / "train" / "c")


def test_each_kind_of_file_is_an_image_or_one_error(folder):
    root, readable = folder
    *results, last = run_apart("folder", root / "train" / "c")
    assert len(readable) > 100 and {False, True} == set(readable.values())
    found = {os.fsdecode(bytes.fromhex(result["name"])): result for result in results}
    assert {name: "shape" in result for name, result in found.items()} == {
        f"c/{name}": good for name, good in readable.items()
    }
    for name, result in found.items():
        assert result["seconds"] < MOST_SECONDS, name
        if "message" in result:
            assert os.fsdecode(bytes.fromhex(result["path"])) == f"{root}/train/{name}"
            assert result["message"].isprintable() and result["reason"] in result["message"]
    assert last["peak"] < MOST_MEGABYTES
    kinds = {name: found[f"c/{name}"]["fault"] for name, good in readable.items() if not good}
    expected = {
        "missing": {"broken_link.JPEG"},
        "no file": {"fifo.JPEG", "socket.JPEG", "zeros.JPEG", "link_loop.JPEG"},
        "too large": {"bomb_60000.JPEG", "bomb.webp", "bomb.tiff", "sparse.JPEG"},
        "no image": {"empty.JPEG", "page.JPEG", "postscript.JPEG", "float.tiff"},
        "damaged": {"cut.png", "bomb_10000.JPEG", "bomb_of_scans.JPEG"},
    }
    assert {kinds[name] for name in kinds} == expected.keys()
    for kind, names in expected.items():
        assert {kinds[name] for name in names} == {kind}


@pytest.mark.parametrize(
    "number", [300, pytest.param(10_000, marks=pytest.mark.slow)], ids=["some", "many"]
)
def test_damaged_files_are_images_or_errors(number):
    (result,) = run_apart("fuzz", number, 7)
    assert sum(result["counts"].values()) == number
    decoded = sum(n for kind, n in result["counts"].items() if kind.endswith("decoded"))
    assert number / 5 < decoded < number * 4 / 5
    assert result["slowest"] < MOST_SECONDS and result["peak"] < MOST_MEGABYTES


def test_no_program_is_started_for_an_image(monkeypatch):
    def started(*arguments, **options):
        raise AssertionError(f"started {arguments}")

    monkeypatch.setattr(subprocess, "Popen", started)
    monkeypatch.setattr(os, "system", started)
    with pytest.raises(UnreadableImage, match="no image format known here"):
        decode_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "x.JPEG")


def test_the_limits_are_of_pixels_and_bytes(tmp_path, monkeypatch):
    path = tmp_path / "a.JPEG"
    path.write_bytes(jpeg())
    monkeypatch.setattr(decode, "MAX_PIXELS", 64 * 48)
    assert read_image(str(path)).shape == (48, 64, 3)
    monkeypatch.setattr(decode, "MAX_PIXELS", 64 * 48 - 1)
    with pytest.raises(UnreadableImage, match="64 x 48 pixels, more than 3,071") as caught:
        read_image(str(path))
    assert (caught.value.path, caught.value.kind) == (str(path), "too large")
    monkeypatch.undo()
    monkeypatch.setattr(decode, "MAX_BYTES", len(jpeg()))
    assert read_image(str(path)).shape == (48, 64, 3)
    monkeypatch.setattr(decode, "MAX_BYTES", len(jpeg()) - 1)
    for read in (read_image, lambda path: decode_image(jpeg(), path)):
        with pytest.raises(UnreadableImage, match="larger than") as caught:
            read(str(path))
        assert caught.value.kind == "too large"


def test_blank_pictures_are_not_taken_for_lies():
    """The smallest files that encoders write for a size."""
    blank = Image.new("L", (4000, 4000))
    for options in ({"optimize": True}, {"progressive": True}):
        file = io.BytesIO()
        blank.save(file, "JPEG", **options)
        assert decode_image(file.getvalue(), "blank").shape == (4000, 4000, 3)
    assert decode_image(jpeg_of_scans(100, 50), "scans").shape == (100, 100, 3)


def test_large_pictures_are_converted_in_parts(monkeypatch):
    rng = np.random.default_rng(0)
    colours = Image.fromarray(rng.integers(0, 256, (50, 40, 3), dtype=np.uint8))
    deep = Image.fromarray(rng.integers(0, 65536, (50, 40), dtype=np.uint16))
    pictures = [deep, *(colours.convert(mode) for mode in ("RGB", "L", "CMYK", "RGBA", "1", "P"))]
    whole = [decode.rgb_of(picture) for picture in pictures]
    monkeypatch.setattr(decode, "_PART_PIXELS", 40 * 7)
    for picture, expected in zip(pictures, whole, strict=True):
        np.testing.assert_array_equal(decode.rgb_of(picture), expected)


def test_headers_tell_formats_without_decoding(folder):
    root, _ = folder
    files = root / "train" / "c"
    expected = {
        "good.JPEG": ("JPEG", "RGB", 48, 64),
        "grey.JPEG": ("JPEG", "L", 48, 64),
        "cmyk.JPEG": ("JPEG", "CMYK", 48, 64),
        "png_inside.JPEG": ("PNG", "RGB", 48, 64),
        "cut.png": ("PNG", "RGB", 48, 64),
        "palette.png": ("PNG", "P", 48, 64),
        "thin.png": ("PNG", "RGB", 1, 5000),
    }
    assert {name: header_of((files / name).read_bytes(), name) for name in expected} == expected
    with pytest.raises(UnreadableImage, match="60000 x 60000"):
        header_of((files / "bomb_60000.JPEG").read_bytes(), "bomb")


def test_opening_does_not_wait(tmp_path):
    fifo = tmp_path / "a.JPEG"
    os.mkfifo(fifo)
    begin = time.perf_counter()
    with pytest.raises(OSError, match="a FIFO, not a regular file"):
        storage.read_bytes(str(fifo))
    # nor where a program is about to write to it
    writer = threading.Thread(target=lambda: os.close(os.open(fifo, os.O_WRONLY)), daemon=True)
    writer.start()
    with pytest.raises(UnreadableImage, match="a FIFO, not a regular file"):
        read_image(str(fifo))
    assert time.perf_counter() - begin < 1
    os.close(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK))
    writer.join(0.5)


def test_files_without_a_size_are_read_whole(tmp_path):
    """As in /proc, and files that grow while they are read."""
    assert storage.read_bytes("/proc/self/status").startswith(b"Name:")
    with pytest.raises(OSError, match="larger than 10 bytes"):
        storage.read_bytes("/proc/self/status", 10)
    path = tmp_path / "a"
    path.write_bytes(os.urandom(300_000))
    assert storage.read_bytes(str(path), 300_000) == path.read_bytes()
    (tmp_path / "empty").write_bytes(b"")
    assert storage.read_bytes(str(tmp_path / "empty"), 0) == b""


def test_bytes_of_a_folder_are_read_with_the_same_care(folder):
    root, readable = folder
    source = Folder(str(root), "train")
    assert {source.path(i) for i in range(len(source))} == {f"c/{name}" for name in readable}
    place = [source.path(i) for i in range(len(source))].index
    for name in ("fifo.JPEG", "zeros.JPEG", "sparse.JPEG", "broken_link.JPEG"):
        with pytest.raises(UnreadableImage):
            source.encoded(place(f"c/{name}"))
    assert source.encoded(place("c/good.JPEG")) == jpeg()
