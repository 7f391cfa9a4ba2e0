"""File names that are no UTF-8, as archives of other systems have them, are names like others."""

import io
import json
import os
import sys

import numpy as np
import pytest
from bad_images import encoded, picture
from safetensors.numpy import load_file, safe_open

from data import arrayrecord, texture
from nsneg_jax import command_line
from nsneg_jax.errors import UsageError, escape_output, paragraph, printable
from nsneg_jax.features.table import Table, read_table, write_table
from nsneg_jax.files import write_json
from nsneg_jax.input.decode import UnreadableImage
from nsneg_jax.input.sources.folders.folder import Folder
from nsneg_jax.input.sources.identity import fingerprint
from nsneg_jax.input.sources.lists.class_list import class_names
from nsneg_jax.input.sources.packed import ArrayRecord
from nsneg_jax.textures.synthesis import random_generator

LATIN, CLASS = os.fsdecode(b"caf\xe9.JPEG"), os.fsdecode(b"\xe9t\xe9")
PATHS = ["a/b.JPEG", f"a/{LATIN}", "a/é.JPEG", f"{CLASS}/{LATIN}", f"{CLASS}/c.JPEG"]


@pytest.fixture
def root(tmp_path):
    root = tmp_path / os.fsdecode(b"d\xe9")
    for i, path in enumerate(PATHS):
        (root / "train" / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "train" / path).write_bytes(encoded(picture(40 + i, 40), "PNG"))
    return root


def paths(source):
    return sorted(source.path(i) for i in range(len(source)))


def test_packed_sets_keep_the_bytes_of_names(root, tmp_path):
    folder = Folder(str(root), "train")
    assert paths(folder) == sorted(PATHS) and folder.classes == ("a", CLASS)
    out = tmp_path / "packed"
    arguments = ["--source", str(root), "--out", str(out), "--splits", "train"]
    for _ in range(2):  # again, on what is there
        assert arrayrecord.main(arguments) == 0
    assert arrayrecord.main([*arguments, "--verify"]) == 0
    packed = ArrayRecord(str(out), "train")
    assert packed.classes == folder.classes
    assert [packed.path(i) for i in range(5)] == [folder.path(i) for i in range(5)]
    np.testing.assert_array_equal(packed.image(3), folder.image(3))
    assert fingerprint(packed) == fingerprint(folder)
    names = (out / "train" / "names.txt").read_bytes().splitlines()
    assert sorted(names) == sorted(map(os.fsencode, PATHS))
    index = json.loads((out / "train" / "index.json").read_text("utf-8"))  # valid JSON
    assert index["classes"] == ["a", CLASS]


def test_textures_get_the_same_names(root, tmp_path):
    source = Folder(str(root), "train")
    jobs = texture.list_jobs(source, "train", tmp_path, "png")
    targets = {os.fsencode(job.target.relative_to(tmp_path)) for job in jobs}
    assert targets == {os.fsencode(f"train/{path[:-5]}.png") for path in PATHS}
    draws = {random_generator(0, job.name).integers(2**60) for job in jobs}
    assert len(draws) == len(jobs)


def test_lists_of_classes_may_name_them(root, tmp_path):
    (tmp_path / "list.txt").write_bytes(b"# comment \xe9\n\xe9t\xe9 summer\n")
    assert class_names(str(tmp_path / "list.txt")) == (CLASS,)
    assert len(Folder(str(root), "train", (CLASS,))) == 2


def test_results_are_valid_files(tmp_path):
    write_json(tmp_path / "a.json", {"classes": [CLASS, "é"]})
    assert json.loads((tmp_path / "a.json").read_text("ascii"))["classes"] == [CLASS, "é"]
    table = Table(
        features=np.zeros((1, 2), np.float32),
        labels=np.ones(1, np.int32),
        indices=np.zeros(1, np.int32),
        names=[LATIN],
        splits=["train"],
        classes=("a", CLASS, "é"),
        about={"source": f"folder:/{LATIN}"},
    )
    for form in ("npz", "safetensors", "parquet"):
        write_table(tmp_path / f"a.{form}", table, form)
        assert read_table(tmp_path / f"a.{form}").about == table.about
    assert np.load(tmp_path / "a.npz")["classes"].tolist() == ["a", CLASS, "é"]
    assert np.load(tmp_path / "a.npz")["names"].tolist() == [LATIN]
    assert load_file(tmp_path / "a.safetensors")["labels"].shape == (1,)
    with safe_open(tmp_path / "a.safetensors", "numpy") as kept:
        assert kept.metadata()["classes"].split("\n") == ["a", r"\udce9t\udce9", "é"]


def test_messages_escape_what_no_terminal_shows():
    assert printable("a é 日 b\\c") == "a é 日 b\\c"
    assert printable(LATIN) == r"caf\xe9.JPEG"
    assert printable("new\nline\t\x1b[31m\u202e.jpg") == r"new\nline\t\x1b[31m\u202e.jpg"
    error = UnreadableImage(f"/x/new\nline/{LATIN}", "it is empty")
    assert error.path == f"/x/new\nline/{LATIN}"
    assert r"/x/new\nline/caf\xe9.JPEG cannot" in " ".join(paragraph(error).split())


def test_output_escapes_what_its_encoding_lacks(monkeypatch):
    for encoding, expected in (("ascii", rb"\xe9 \udce9"), ("utf-8", "é \\udce9".encode())):
        stream = io.TextIOWrapper(io.BytesIO(), encoding)
        monkeypatch.setattr(sys, "stdout", stream)
        escape_output()
        print("é \udce9", end="", flush=True)
        assert stream.buffer.getvalue() == expected


def test_a_workdir_that_checkpoints_cannot_have_is_named_early(tmp_path):
    workdir = os.fsdecode(os.fsencode(tmp_path) + b"/\xe9")
    with pytest.raises(UsageError, match=r"\\xe9, which is no UTF-8"):
        command_line.parse(["main.py", "--config=patch:tiny", f"--workdir={workdir}"], "pretrain")
