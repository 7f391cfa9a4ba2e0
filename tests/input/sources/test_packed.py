"""Packed images equal their source folder in every respect."""

import json
import os
import pickle
import shutil

import numpy as np
import pytest
from photo_folder import NAMES, write_photos

from configs import texture
from data import arrayrecord as tool
from nsneg_jax.errors import UsageError
from nsneg_jax.input.decode import UnreadableImage
from nsneg_jax.input.loading import Loaders, Steps
from nsneg_jax.input.pipeline import pretrain_batches
from nsneg_jax.input.sources.folders.folder import Folder
from nsneg_jax.input.sources.identity import file_state
from nsneg_jax.input.sources.packed import ArrayRecord
from nsneg_jax.input.sources.source import open_source
from nsneg_jax.input.texture_pairs import pair_folders
from nsneg_jax.jobs.build import open_textures
from nsneg_jax.jobs.pretraining.validation import validate_pretraining


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def made(folder):
    arguments = ["--source", str(folder), "--out", str(folder / "packed"), "--splits", "train"]
    assert tool.main([*arguments, "--shards", "3"]) == 0
    return folder / "packed"


@pytest.fixture
def copy(made, tmp_path):
    """A copy to be damaged."""
    return shutil.copytree(made, tmp_path / "copy")


def batches(source):
    options = {"image_size": 16, "crop_scale": (0.2, 1.0), "seed": 3}
    return list(pretrain_batches(source, Steps(8, 0, 6), Loaders(2), **options))


def assert_same(ours, theirs):
    assert ours.classes == theirs.classes and ours.labels.dtype == np.int32
    assert ours.labels.tolist() == theirs.labels.tolist()
    assert ours.present.tolist() == theirs.present.tolist()
    paths = [[source.path(i) for i in range(len(source))] for source in (ours, theirs)]
    assert paths[0] == paths[1]
    for i in range(len(ours)):
        assert ours.encoded(i) == theirs.encoded(i)


def test_batches_are_the_folders(folder, made):
    ours = open_source(f"arrayrecord:{made}", "train", image_size=16)
    theirs = Folder(str(folder), "train")
    assert len(ours) == len(NAMES) == 18
    assert_same(ours, theirs)
    for ours_batch, theirs_batch in zip(batches(ours), batches(theirs), strict=True):
        for name in theirs_batch:
            np.testing.assert_array_equal(ours_batch[name], theirs_batch[name])
    with pytest.raises(IndexError):
        ours.image(18)
    copied = pickle.loads(pickle.dumps(ours))  # as workers get it
    np.testing.assert_array_equal(copied.image(7), theirs.image(7))


def test_the_files_are_index_names_and_shards(folder, copy):
    source = open_source(f"arrayrecord:{copy}", "train", image_size=16)
    assert sorted(source.files()) == sorted(map(str, (copy / "train").iterdir()))
    before = file_state(source)
    assert before == file_state(source) and before.newest > 0
    shard = next((copy / "train").glob("*.array_record"))
    os.utime(shard, (2e9, 2e9))
    assert file_state(source).newest == 2 * 10**18 and file_state(source) != before
    assert len(Folder(str(folder), "train").files()) == 18


def test_classes_are_chosen_as_of_a_folder(folder, made):
    for classes, partial in ((("n03", "n01"), False), (("n9", "n03", "n01"), True)):
        ours, theirs = (
            kind(str(root), "train", classes, partial)
            for kind, root in ((ArrayRecord, made), (Folder, folder))
        )
        assert_same(ours, theirs)
    with pytest.raises(UsageError, match=r"1 of the 2 classes .*: n9\. Classes there: n01, n02"):
        open_source(f"arrayrecord:{made}", "train", image_size=16, classes="n01,n9")
    with pytest.raises(UsageError, match=r"None of the 1 classes"):
        ArrayRecord(str(made), "train", ("n9",), partial=True)


def test_a_split_may_be_the_root(folder, made):
    assert_same(ArrayRecord(str(made / "train"), "."), Folder(str(folder), "train"))


def test_textures_belong_to_packed_images(folder, made, tmp_path):
    """Both ways: textures in a folder, and packed ones."""
    pngs = [name.rsplit(".", 1)[0] + ".png" for name in NAMES]
    # two images that differ in their endings only could not have a texture each
    assert len(set(pngs)) == len(pngs)
    textures = Folder(str(write_photos(tmp_path, pngs)), "train")
    images = ArrayRecord(str(made), "train")
    _, paired = pair_folders(images, textures)
    out = tmp_path / "packed"
    assert tool.main(["--source", str(tmp_path), "--out", str(out), "--splits", "train"]) == 0
    config = texture.get_config()
    config.data.source = f"folder:{folder}"
    config.negatives.texture_source = f"arrayrecord:{out}"
    validate_pretraining(config, 1)
    _, packed = open_textures(config, Folder(str(folder), "train"), tmp_path)
    config.negatives.texture_source = "tfds:textures"
    with pytest.raises(UsageError, match="'arrayrecord:PATH' for image files"):
        validate_pretraining(config, 1)
    for i in range(len(images)):
        stem = images.path(i).rsplit(".", 1)[0]
        own = textures.image([textures.path(k) for k in range(18)].index(f"{stem}.png"))
        np.testing.assert_array_equal(paired.image(i), own)
        np.testing.assert_array_equal(packed.image(i), own)


def test_a_place_without_packed_images(folder, made, tmp_path):
    with pytest.raises(UsageError, match=r"no packed images at .*nowhere.*--out .*nowhere`"):
        ArrayRecord(str(tmp_path / "nowhere"), "train")
    with pytest.raises(UsageError, match=r"no index\.json in .*/val\. Splits .*: train\."):
        ArrayRecord(str(made), "val")
    with pytest.raises(UsageError, match=r"Splits of packed images in \S+: none\."):
        ArrayRecord(str(folder), "train")


def test_sets_that_are_not_whole(copy):
    train = copy / "train"
    index = json.loads((train / "index.json").read_text())

    def refused(message):
        with pytest.raises(UsageError, match=message):
            ArrayRecord(str(copy), "train")

    (train / "index.json").write_text(json.dumps(index | {"shards": []}))
    refused("are not finished")
    (train / "index.json").write_text(json.dumps(index | {"format": "version 7"}))
    refused(r"index\.json is no index .*'version 7'")
    (train / "index.json").write_text("{")
    refused(r"index\.json is no index")
    (train / "index.json").write_text(json.dumps(index))
    names = (train / "names.txt").read_text()
    (train / "names.txt").write_text(names.replace("n03/7", "n03/8"))
    refused(r"names\.txt .*index\.json")
    (train / "names.txt").write_text(names)
    shard = train / "00001-of-00003.array_record"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    refused(rf"has {len(content) - 1:,} bytes\b.*\b{len(content):,} ")
    shard.unlink()
    refused(r"00001-of-00003\.array_record is missing")


def test_a_damaged_record_is_named(copy):
    source = ArrayRecord(str(copy), "train")
    shard = copy / "train" / "00001-of-00003.array_record"
    damaged = bytearray(shard.read_bytes())
    place = damaged.index(source.encoded(7)[-60:])  # they begin alike
    damaged[place : place + 40] = bytes(40)
    shard.write_bytes(damaged)
    source = ArrayRecord(str(copy), "train")
    with pytest.raises(UnreadableImage, match=source.path(7)):
        source.image(7)
    assert source.image(6).ndim == source.image(8).ndim == 3
