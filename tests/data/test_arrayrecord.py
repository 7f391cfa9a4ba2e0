"""data.arrayrecord: what it writes, that it can be killed anywhere, and that it notices damage."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from photo_folder import NAMES, write_photos
from PIL import Image
from tfds_sets import jpeg, prepare

from data import arrayrecord as tool
from nsneg_jax.errors import UsageError
from nsneg_jax.input.sources.folder import Folder
from nsneg_jax.input.sources.packed import ArrayRecord
from nsneg_jax.input.sources.source import open_source
from nsneg_jax.input.sources.tfds import Tfds

ROOT = Path(tool.__file__).parents[1]


@pytest.fixture
def source(tmp_path):
    return write_photos(tmp_path / "source")


def run(source, out, *more):
    return tool.main(["--source", str(source), "--out", str(out), "--splits", "train", *more])


def contents(out):
    """Bytes of every file below `out` by its path."""
    files = sorted(path for path in Path(out).rglob("*") if path.is_file())
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def test_what_is_written(source, tmp_path, capsys):
    assert run(source, tmp_path / "out", "--shards", "4") == 0
    assert "18 images in 4 shards" in capsys.readouterr().out
    shards = [f"train/{i:05}-of-00004.array_record" for i in range(4)]
    assert list(contents(tmp_path / "out")) == [*shards, "train/index.json", "train/names.txt"]
    names = (tmp_path / "out" / "train" / "names.txt").read_text().splitlines()
    assert names == sorted(NAMES)
    # one shard for so few images, and no more shards than images
    assert run(source, tmp_path / "one") == run(source, tmp_path / "most", "--shards", "99") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert "in 1 shards" in first and "in 18 shards" in second


def test_a_killed_run_is_completed(source, tmp_path):
    """After a kill while writing a shard, the files equal those of an uninterrupted run."""
    assert run(source, tmp_path / "alone", "--shards", "6") == 0
    out = tmp_path / "killed"
    stuck = (
        "import sys, time; from data import arrayrecord as tool\n"
        "add, added = tool.add_record, []\n"
        "def add_some(*given):\n"
        "    if len(added) == 14:\n"  # six per shard, because each is read back: in the third
        "        print('stuck', flush=True)\n"
        "        time.sleep(600)\n"
        "    added.append(add(*given))\n"
        "tool.add_record = add_some\n"
        "tool.main(sys.argv[1:])"
    )
    arguments = ["--source", str(source), "--out", str(out), "--splits", "train", "--shards", "6"]
    path = {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", stuck, *arguments],
        env=os.environ | path,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert any(line == "stuck\n" for line in process.stdout)
        process.kill()
    assert (out / "train" / "00001-of-00006.array_record").exists()
    assert not (out / "train" / "00005-of-00006.array_record").exists()
    before = (out / "train" / "00000-of-00006.array_record").stat().st_mtime_ns
    assert run(source, out, "--shards", "6") == 0
    assert contents(out) == contents(tmp_path / "alone")
    assert (out / "train" / "00000-of-00006.array_record").stat().st_mtime_ns == before


def test_a_finished_run_changes_nothing(source, tmp_path):
    out = tmp_path / "out"
    assert run(source, out) == 0
    before = contents(out)
    assert run(source, out) == 0 and contents(out) == before
    # a shard that is removed is made again, from what is packed too
    (out / "train" / "00000-of-00001.array_record").unlink()
    assert run(source, out) == 0 and contents(out) == before
    assert run(f"arrayrecord:{out}", tmp_path / "again") == 0
    assert ArrayRecord(str(tmp_path / "again"), "train").encoded(3) == ArrayRecord(
        str(out), "train"
    ).encoded(3)


def test_reduced_images(source, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(source, out, "--resize_short", "36", "--quality", "90") == 0
    packed = ArrayRecord(str(out), "train")
    reduced = 0
    for i in range(len(packed)):
        original = source / "train" / packed.path(i)
        before, after = (
            Image.open(io.BytesIO(data)) for data in (original.read_bytes(), packed.encoded(i))
        )
        if min(before.size) <= 36:
            assert packed.encoded(i) == original.read_bytes()
            continue
        reduced += 1
        assert after.format == "JPEG" and min(after.size) == 36
        scale = 36 / min(before.size)
        assert after.size == tuple(int(side * scale + 1e-9) for side in before.size)
        # quantisation tables as of Pillow's quality 90, colours halved
        reference = io.BytesIO()
        before.convert("RGB").resize(after.size, Image.Resampling.BILINEAR).save(
            reference, "JPEG", quality=90, subsampling="4:2:0"
        )
        same = Image.open(reference)
        assert after.quantization == same.quantization
        assert np.abs(np.asarray(after, int) - np.asarray(same, int)).mean() < 1.5
    assert reduced >= 8
    assert run(source, out, "--resize_short", "36") == 2
    assert "quality was 90 and is 95" in " ".join(capsys.readouterr().err.split())


def test_other_images_are_refused(source, tmp_path, capsys):
    assert run(source, tmp_path / "out") == 0
    write_photos(source, ["n01/new.jpg"])
    assert run(source, tmp_path / "out") == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "images was 18 and is 19; names_sha256 has changed" in message


def test_damage_is_found(source, tmp_path, capsys):
    out = tmp_path / "out"
    check = ["--out", str(out), "--splits", "train", "--verify"]
    assert tool.main(check) == 2
    assert run(source, out, "--shards", "3") == 0 and tool.main(check) == 0
    assert "18 images in 3 shards are as written" in capsys.readouterr().out
    shard = out / "train" / "00001-of-00003.array_record"
    good = shard.read_bytes()
    place = good.index(b"\xff\xd8\xff") + 200
    # the pixels of an image, which ArrayRecord has a checksum of
    shard.write_bytes(good[:place] + b"damage" + good[place + 6 :])
    assert tool.main(check) == 1
    assert "00001-of-00003.array_record: Corrupted" in capsys.readouterr().out
    # a good file of other records
    shard.write_bytes((out / "train" / "00000-of-00003.array_record").read_bytes())
    assert tool.main(check) == 1
    assert "00001-of-00003.array_record: " in capsys.readouterr().out
    shard.write_bytes(good)
    assert tool.main(check) == 0


def test_a_set_of_tfds_is_packed(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    examples = [(f"n0{i % 2}", f"n0{i % 2}_{i}.JPEG", jpeg((20 * i, 9, 9))) for i in range(9)]
    prepare(tmp_path, "photographs", {"train": examples}, ["n01", "n00"])
    assert run("tfds:photographs", tmp_path / "out", "--tfds_dir", str(tmp_path)) == 0
    packed = ArrayRecord(str(tmp_path / "out"), "train")
    original = Tfds("photographs", "train", data_dir=str(tmp_path))
    assert packed.classes == ("n00", "n01")
    assert packed.labels.tolist() == original.labels.tolist() == [0] * 5 + [1] * 4
    assert packed.path(5) == "n01/n01_1.JPEG" and packed.encoded(5) == jpeg((20, 9, 9))


def test_images_without_classes_are_packed(tmp_path):
    names = ["b.jpg", "a.png", "2019/x.jpg", os.fsdecode(b"\xff.jpg")]
    write_photos(tmp_path / "photos", names, split="")
    assert run(tmp_path / "photos", tmp_path / "out") == 0
    packed = ArrayRecord(str(tmp_path / "out"), "train")
    folder = Folder(str(tmp_path / "photos"), "train")
    assert packed.classes == folder.classes == ("",) and packed.labels.tolist() == [0] * 4
    assert [packed.path(i) for i in range(4)] == [folder.path(i) for i in range(4)]
    assert [packed.encoded(i) for i in range(4)] == [folder.encoded(i) for i in range(4)]
    with pytest.raises(UsageError, match="has no classes"):
        ArrayRecord(str(tmp_path / "out"), "train", ["2019"])


def test_a_set_of_hugging_face_is_packed_in_its_own_order(tmp_path):
    pytest.importorskip("pyarrow", reason='needs pyarrow: pip install "nsneg_jax[hf]"')
    from hf_sets import table, write_parquet

    rows = [(i % 2, f"{(7 * i) % 9}.JPEG", jpeg((20 * i, 9, 9))) for i in range(9)]
    write_parquet(tmp_path / "hf", "train", table(rows, ["n01", "n00"]), compression="snappy")
    assert run(f"hf:{tmp_path}/hf", tmp_path / "out") == 0
    written = (tmp_path / "out" / "train" / "names.txt").read_text().split()
    assert written == [f"n0{1 - label}/{name}" for label, name, _ in rows]
    packed = ArrayRecord(str(tmp_path / "out"), "train")
    original = open_source(f"hf:{tmp_path}/hf", "train", image_size=8)
    assert packed.labels.tolist() == original.labels.tolist() == [0] * 4 + [1] * 5
    assert [packed.path(i) for i in range(9)] == [original.path(i) for i in range(9)]
    assert [packed.encoded(i) for i in range(9)] == [original.encoded(i) for i in range(9)]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--resize_short", "0"], "--resize_short is 0, but must be from 8"),
        (["--resize_short", "small"], "--resize_short is 'small'"),
        (["--quality", "101"], "--quality is 101, but must be from 1 to 100"),
        (["--shards", "-1"], "--shards is -1"),
        (["--splits", "train,val"], "has no split 'val'"),
        (["--classes", "n77"], "n77"),
        (["--source", "tfds:photographs"], "tfds build photographs"),
    ],
)
def test_mistakes_are_named(source, tmp_path, capsys, more, words):
    assert run(source, tmp_path / "out", "--tfds_dir", str(tmp_path), *more) == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_a_broken_link_is_named(source, tmp_path, capsys):
    (source / "train" / "n01" / "gone.jpg").symlink_to(tmp_path / "gone")
    assert run(source, tmp_path / "out") == 2
    assert "n01/gone.jpg cannot be read" in " ".join(capsys.readouterr().err.split())
