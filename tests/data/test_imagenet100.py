"""The 100-class subset from folders and from archives like the official ones, made small."""

import io
import os
import shutil
import tarfile

import numpy as np
import pytest
from devkits import WNIDS, devkit, meta
from PIL import Image

from data import imagenet100
from nsneg_jax.input.sources.folders.folder import Folder
from nsneg_jax.input.sources.lists.class_list import class_names

CLASSES = WNIDS[:3]


def jpeg(seed):
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def write_class_list(tmp_path):
    path = tmp_path / "classes.tsv"
    path.write_text("# three of them\n" + "".join(f"{wnid}\t1\tname\n" for wnid in CLASSES))
    return str(path)


@pytest.fixture
def small_counts(monkeypatch):
    monkeypatch.setattr(imagenet100, "TRAIN_RANGE", (2, 4))
    monkeypatch.setattr(imagenet100, "VAL_PER_CLASS", 2)


@pytest.fixture
def folders(tmp_path, small_counts):
    """ImageNet of four classes in folders, of which three are wanted."""
    root = tmp_path / "imagenet"
    for c, wnid in enumerate(WNIDS):
        for i in range(2 + c % 2):
            (root / "train" / wnid).mkdir(parents=True, exist_ok=True)
            (root / "train" / wnid / f"{wnid}_{i}.JPEG").write_bytes(jpeg(10 * c + i))
        for i in range(2):
            (root / "val" / wnid).mkdir(parents=True, exist_ok=True)
            name = f"ILSVRC2012_val_{1 + c + 4 * i:08d}.JPEG"
            (root / "val" / wnid / name).write_bytes(jpeg(100 + c + 4 * i))
    (root / "train" / CLASSES[0] / "notes.txt").write_text("no image")
    return root


def add(archive, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


@pytest.fixture
def archives(folders, tmp_path):
    """The same as the official archives have it."""
    root = tmp_path / "archives"
    root.mkdir()
    with tarfile.open(root / "ILSVRC2012_img_train.tar", "w") as train:
        for wnid in WNIDS:
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as images:
                for path in sorted((folders / "train" / wnid).glob("*.JPEG")):
                    add(images, path.name, path.read_bytes())
            add(train, f"{wnid}.tar", inner.getvalue())
    with tarfile.open(root / "ILSVRC2012_img_val.tar", "w") as val:
        for path in sorted((folders / "val").glob("*/*.JPEG"), key=lambda path: path.name):
            add(val, path.name, path.read_bytes())
    labels = [1 + i % 4 for i in range(8)]
    devkit(root / "ILSVRC2012_devkit_t12.tar.gz", labels, meta(do_compression=True))
    return root


def run(source, tmp_path, *more, out="out"):
    classes = write_class_list(tmp_path)
    arguments = ["--source", str(source), "--out", str(tmp_path / out), "--classes", classes]
    return imagenet100.main([*arguments, *more])


def contents(root):
    """Bytes of every file below `root` by its path."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if not path.is_dir()
    }


def wanted(folders):
    found = contents(folders)
    return {name: found[name] for name in found if name.endswith("G") and WNIDS[3] not in name}


@pytest.mark.parametrize("link", ["symlink", "hard", "copy"])
def test_from_folders(folders, tmp_path, link, capsys):
    assert run(folders, tmp_path, "--link", link) == 0
    out = tmp_path / "out"
    assert contents(out) == wanted(folders)
    assert "train: 7 images of 3 classes" in capsys.readouterr().out
    one = out / "train" / CLASSES[0] / f"{CLASSES[0]}_0.JPEG"
    original = folders / "train" / CLASSES[0] / one.name
    assert one.is_symlink() == (link == "symlink")
    assert one.samefile(original) == (link != "copy")
    assert Folder(str(out), "train").classes == tuple(sorted(CLASSES))
    # again: nothing is touched, also with other links
    before = os.lstat(one).st_mtime_ns
    assert run(folders, tmp_path, "--link", "copy") == 0
    assert os.lstat(one).st_mtime_ns == before


def test_from_kaggles_folders(folders, tmp_path):
    """Its validation images lie in one folder, and a table far above it has the labels."""
    wnids = {path.stem: path.parent.name for path in (folders / "val").glob("*/*.JPEG")}
    flat = tmp_path / "kaggle" / "ILSVRC" / "Data" / "CLS-LOC"
    shutil.copytree(folders / "train", flat / "train")
    (flat / "val").mkdir()
    for path in (folders / "val").glob("*/*.JPEG"):
        shutil.copy(path, flat / "val")
    assert run(flat, tmp_path) == 2
    rows = ["ImageId,PredictionString", *(f"{name},{wnids[name]} 1 2 3 4" for name in wnids)]
    (tmp_path / "kaggle" / "LOC_val_solution.csv").write_text("\n".join(rows))
    assert run(flat, tmp_path) == 0
    assert contents(tmp_path / "out") == wanted(folders)


def test_relative_sources_can_be_linked(folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("imagenet", tmp_path) == 0
    assert contents(tmp_path / "out") == wanted(folders)


def test_from_archives(archives, folders, tmp_path):
    assert run(archives, tmp_path) == 0
    assert contents(tmp_path / "out") == wanted(folders)


def test_labels_as_text(archives, folders, tmp_path, capsys):
    (archives / "ILSVRC2012_devkit_t12.tar.gz").rename(tmp_path / "kit")
    assert run(archives, tmp_path) == 2
    assert "--val-labels" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert run(archives, tmp_path, "--devkit", str(tmp_path / "kit")) == 0
    labels = tmp_path / "labels.txt"
    labels.write_text("".join(f"{WNIDS[i % 4]}\n" for i in range(8)))
    assert run(archives, tmp_path, "--val-labels", str(labels), out="other") == 0
    assert contents(tmp_path / "other") == contents(tmp_path / "out") == wanted(folders)
    labels.write_text("1\n2\n")
    assert run(archives, tmp_path, "--val-labels", str(labels)) == 2
    assert "must hold one wnid per line" in capsys.readouterr().err.replace("\n", " ")
    labels.write_text(WNIDS[0])
    assert run(archives, tmp_path, "--val-labels", str(labels)) == 2
    assert "00000002.JPEG has no label in" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize("kind", ["folders", "archives"])
def test_a_run_that_was_stopped_is_completed(kind, request, folders, tmp_path, monkeypatch):
    source = request.getfixturevalue(kind)

    class Stop(BaseException):
        pass

    replaced = 0

    def stop_before_the_fifth(*paths):
        nonlocal replaced
        replaced += 1
        if replaced == 5:
            raise Stop
        os.rename(*paths)

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(imagenet100.os, "replace", stop_before_the_fifth)
        run(source, tmp_path, "--link", "copy")
    out = tmp_path / "out"
    half = {name: data for name, data in contents(out).items() if not name.endswith(".partial")}
    assert len(half) == 4 and half.items() <= wanted(folders).items()
    assert len(contents(out)) == 5
    assert run(source, tmp_path, "--link", "copy") == 0
    assert contents(out) == wanted(folders)


def test_cut_files_are_mended(folders, tmp_path):
    assert run(folders, tmp_path, "--link", "copy") == 0
    victim = tmp_path / "out" / "val" / CLASSES[1] / "ILSVRC2012_val_00000002.JPEG"
    victim.write_bytes(victim.read_bytes()[:50])
    assert run(folders, tmp_path, "--link", "copy") == 0
    assert contents(tmp_path / "out") == wanted(folders)


def test_wrong_counts_are_told_by_class(folders, tmp_path, capsys):
    (folders / "train" / CLASSES[1] / f"{CLASSES[1]}_0.JPEG").unlink()
    (folders / "train" / CLASSES[1] / f"{CLASSES[1]}_1.JPEG").unlink()
    (folders / "val" / CLASSES[2] / "ILSVRC2012_val_00000003.JPEG").unlink()
    assert run(folders, tmp_path) == 1
    assert capsys.readouterr().err.splitlines()[-2:] == [
        f"train/{CLASSES[1]} has 1 images, expected 2 to 4",
        f"val/{CLASSES[2]} has 1 images, expected 2",
    ]


def test_the_papers_counts():
    names = class_names(str(imagenet100.CLASS_LIST))
    right = dict.fromkeys(names, 1267) | {names[0]: 1256}
    assert sum(right.values()) == 126_689
    assert imagenet100.check("train", right, names, 126_689) == []
    assert imagenet100.check("val", dict.fromkeys(names, 50), names, 126_689) == []
    right[names[1]] -= 1
    wrong = imagenet100.check("train", right, names, 126_689)
    assert wrong == ["train has 126688 images, expected 126689"]
    right[names[1]] = 1301
    assert "has 1301 images, expected 732 to 1300" in imagenet100.check("train", right, names, 0)[0]


def test_what_cannot_be_used_is_named(folders, archives, tmp_path, capsys):
    def says(*parts):
        text = capsys.readouterr().err.replace("\n", " ")
        assert all(part in text for part in parts), text

    assert run(tmp_path / "nowhere", tmp_path) == 2
    says("neither a folder", "nowhere/train", "--source")
    assert run(folders, tmp_path, "--splits", "test") == 2
    says("imagenet/test")
    assert run(folders, tmp_path, out="imagenet") == 2
    says("which is the source")
    train = archives / "ILSVRC2012_img_train.tar"
    train.write_bytes(train.read_bytes()[:9000])
    assert run(archives, tmp_path) == 2
    says("ILSVRC2012_img_train.tar cannot be unpacked", "download it again")
    os.rename(folders / "train" / CLASSES[2], tmp_path / "moved")
    assert run(folders, tmp_path) == 2
    says("1 of the 3 classes have no image", CLASSES[2])


def test_a_broken_link_in_the_source_is_named(folders, tmp_path, capsys):
    broken = folders / "train" / CLASSES[1] / "broken.JPEG"
    broken.symlink_to("gone.JPEG")
    arguments = ["--source", str(folders), "--out", str(tmp_path / "out")]
    assert imagenet100.main([*arguments, "--classes", write_class_list(tmp_path)]) == 2
    assert str(broken) in "".join(capsys.readouterr().err.split("\n"))
