"""The check of a data set, on every kind of bad and odd image."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from bad_images import encoded, picture, write_bad_images
from PIL import Image

from data import arrayrecord, check
from nsneg_jax.errors import printable
from nsneg_jax.input.decode import MAX_PIXELS


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    root = tmp_path_factory.mktemp("bad")
    return root, write_bad_images(root / "train" / "c")


def write(root, names, form="JPEG", size=(48, 64)):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(*size), form))
    return root


def listed(out):
    """By path: the reasons."""
    found = {}
    for line in out.splitlines():
        path, tab, reason = line.partition("\t")
        assert tab and "\t" not in reason
        found.setdefault(path, []).append(reason)
    return found


def test_lists_every_unreadable_image_and_no_other(bad, capsys):
    root, readable = bad
    assert check.main([str(root)]) == 2
    out, err = capsys.readouterr()
    found = listed(out)
    assert found.keys() == {
        printable(f"{root}/train/c/{name}") for name, good in readable.items() if not good
    }
    assert all(len(reasons) == 1 for reasons in found.values())
    assert found[f"{root}/train/c/empty.JPEG"] == ["it is empty"]
    assert f"{MAX_PIXELS:,}" in found[f"{root}/train/c/bomb_60000.JPEG"][0]
    bad_count = sum(not good for good in readable.values())
    assert f"{len(readable)} images, {bad_count} unreadable" in err


def test_odd_images_are_counted_and_listed_if_asked(bad, capsys):
    root, _ = bad
    assert check.main([str(root), "--odd", "--split", "train"]) == 2
    found = listed(capsys.readouterr().out)
    odd = {
        os.path.basename(path)
        for path, reasons in found.items()
        if any(reason.startswith("odd: ") for reason in reasons)
    }
    assert {"cmyk.JPEG", "ycck.JPEG", "one_pixel.JPEG", "thin.png", "png_inside.JPEG"} < odd
    assert {"jpeg_inside.png", "jpeg2000.JPEG", "animated.png", "animated.webp"} < odd
    assert not odd & {"good.JPEG", "grey.JPEG", "animated.gif", "motion.JPEG", "portable.pgm"}
    assert found[f"{root}/train/c/one_pixel.png"] == [
        "odd: it has 1 x 1 pixels",
        "odd: its name differs from c/one_pixel.JPEG in the ending only",
    ]


def test_good_splits_pass_with_a_summary(tmp_path, capsys):
    write(tmp_path, ("train/a/1.JPEG", "train/b/2.JPEG", "val/a/3.jpg", "val/b/4.jpg"))
    write(tmp_path, ("val/b/5.png",), "PNG", (300, 40))
    write(tmp_path, ("val/a/6.JPEG",), "PNG", (10, 40))
    assert check.main([str(tmp_path), "--threads", "3"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    for part in (
        f"{tmp_path}/train: 2 images, 0 unreadable",
        f"{tmp_path}/val: 4 images, 0 unreadable",
        *("formats    JPEG 2, PNG 2", "wrong ending 1", "under 32 pixels 1"),
        "shorter side 10 to 48 pixels, median 44; largest 40 x 300",
    ):
        assert part in err


def test_what_is_checked(tmp_path, capsys):
    write(tmp_path, ("sets/train/a/1.JPEG", "sets/train/b/2.JPEG", "sets/val/a/3.jpg"))
    (tmp_path / "sets" / "val" / "a" / "4.jpg").write_bytes(b"")
    bad = f"{tmp_path}/sets/val/a/4.jpg"

    def run(*arguments):
        status = check.main(list(arguments))
        out, err = capsys.readouterr()
        return status, listed(out).keys(), err.count(" images, ")

    sets = str(tmp_path / "sets")
    assert run(sets) == (2, {bad}, 2)
    assert run(f"folder:{sets}", "--split", "train") == (0, set(), 1)
    assert run(sets, "--split", "train,val") == (2, {bad}, 2)
    # a folder of classes
    assert run(f"{sets}/train") == (0, set(), 1)
    assert run(f"{sets}/train", "--classes", "b") == (0, set(), 1)
    # a split that cannot be opened does not hide what is in the others
    (tmp_path / "sets" / "test" / "empty").mkdir(parents=True)
    assert run(sets) == (2, {bad}, 2)
    assert run(sets, "--split", "test")[0] == 2
    assert run(f"{tmp_path}/none")[0] == 2
    assert run("tfds:mnist")[0] == 2
    assert run(sets, "--threads", "0")[0] == 2


def test_packed_images(tmp_path, capsys):
    write(tmp_path, ("p/train/a/1.JPEG", "p/train/b/2.JPEG"))
    (tmp_path / "p" / "train" / "b" / "3.JPEG").write_bytes(b"no image")
    packed = str(tmp_path / "packed")
    pack = ["--source", str(tmp_path / "p"), "--out", packed, "--splits", "train"]
    assert arrayrecord.main(pack) == 0
    capsys.readouterr()
    for arguments in ([f"arrayrecord:{packed}"], [f"arrayrecord:{packed}/train"]):
        assert check.main(arguments) == 2
        assert listed(capsys.readouterr().out).keys() == {f"{packed}/train/b/3.JPEG"}


def test_folders_without_splits_or_classes(tmp_path, capsys):
    """Every image is read, and named by where it is."""
    write(tmp_path, ("photos/a.JPEG", "photos/x/b.JPEG", "photos/x/y/c.JPEG"))
    write(tmp_path, ("classes/cat/a.JPEG", "classes/cat/more/b.JPEG", "classes/dog/c.JPEG"))
    for bad in ("photos/x/y/c.JPEG", "classes/cat/more/b.JPEG"):
        (tmp_path / bad).write_bytes(b"no image")
        assert check.main([str(tmp_path / bad.partition("/")[0])]) == 2
        assert listed(capsys.readouterr().out).keys() == {str(tmp_path / bad)}


def test_as_a_program_where_output_has_no_such_letters(tmp_path):
    root = tmp_path / os.fsdecode(b"caf\xe9-\xc3\xa9")
    write(root, ("train/a/1.JPEG", "train/a/2.JPEG"))
    for name in (b"caf\xe9.JPEG", "é\n.JPEG".encode()):
        (root / "train" / "a" / os.fsdecode(name)).write_bytes(b"")
    process = subprocess.run(
        [sys.executable, "-m", "nsneg_jax", "prepare", "check", str(root)],
        capture_output=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        timeout=100,
    )
    assert process.returncode == 2 and b"Traceback" not in process.stderr
    ends = [line.split(b"\t")[0].rpartition(b"/")[2] for line in process.stdout.splitlines()]
    assert sorted(ends) == [rb"\xe9\n.JPEG", rb"caf\xe9.JPEG"]


def test_large_sets_are_read_ahead_by_a_few_only(tmp_path, monkeypatch):
    """Not all at once: findings come while images are read, and in order."""

    class Many:
        name, labels = "many", [0] * 5000
        read = 0

        def __len__(self):
            return 5000

        def path(self, index):
            return f"c/{index:05}.png"

        def location(self, index):
            return f"there/{self.path(index)}"

        def encoded(self, index):
            Many.read += 1
            return encoded(Image.new("L", (40, 40)), "PNG") if index % 2 else b""

    found = check._examined(Many(), threads=2)
    first = [next(found) for _ in range(3)]
    assert [header is None for header, _ in first] == [True, False, True]
    assert [finding.path for _, each in first for finding in each] == [
        "there/c/00000.png",
        "there/c/00002.png",
    ]
    assert Many.read < 1000
    found.close()
