"""Image sets in an object store: here a local one that speaks the protocols of gs://."""

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from etils.epath import backend
from fsspec.implementations.local import LocalFileSystem
from photo_folder import NAMES, write_photos
from tfds_sets import jpeg, prepare

from data import arrayrecord as tool
from nsneg_jax.errors import UsageError
from nsneg_jax.input.decode import UnreadableImage
from nsneg_jax.input.sources.folders.folder import Folder
from nsneg_jax.input.sources.packed import ArrayRecord
from nsneg_jax.input.sources.tfds import Tfds


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A folder whose folders are the buckets of gs://, as its client and ArrayRecord's see them."""
    root = tmp_path / "store"

    class Client(LocalFileSystem):
        protocol = ("gs", "gcs")
        cachable = False

        def __init__(self, **options):
            super().__init__(auto_mkdir=True)  # a bucket has no folders to make

        @classmethod
        def _strip_protocol(cls, path):
            path = str(path)
            return str(root / path.removeprefix("gs://")) if path.startswith("gs://") else path

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            # .../b/BUCKET/o/OBJECT?alt=media or /BUCKET/OBJECT
            parts = [unquote(part) for part in urlsplit(self.path).path.split("/")]
            if "b" in parts and "o" in parts:
                place = parts.index("b")
                parts = [parts[place + 1], *parts[place + 3 :]]
            try:
                data = root.joinpath(*parts).read_bytes()
            except OSError:
                self.send_error(404)
                return
            wanted = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
            first = int(wanted[0]) if wanted[0] else max(len(data) - int(wanted[2]), 0)
            last = min(int(wanted[2]), len(data) - 1) if wanted[0] and wanted[2] else len(data) - 1
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
            self.send_header("Content-Length", str(last + 1 - first))
            self.end_headers()
            self.wfile.write(data[first : last + 1])

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    # the module is hidden behind a table of the same name
    monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, "gcs", Client)
    backend._FileSystemSpecBackend._get_filesystem.cache_clear()
    yield root
    backend._FileSystemSpecBackend._get_filesystem.cache_clear()
    server.shutdown()


def test_a_folder_in_a_store(store, tmp_path):
    local = Folder(str(write_photos(tmp_path)), "train")
    write_photos(store / "bucket" / "photos")
    train = store / "bucket" / "photos" / "train"
    (train / "n01" / ".hidden.jpg").write_bytes(b"")
    (train / "n01" / "notes.txt").write_text("no image")
    for source in (Folder("gs://bucket/photos", "train"), Folder("gs://bucket/photos/train/", ".")):
        assert source.classes == local.classes == ("n01", "n02", "n03")
        assert [source.path(i) for i in range(18)] == [local.path(i) for i in range(18)]
        assert source.labels.tolist() == local.labels.tolist()
        assert (source.image(4) == local.image(4)).all()
    (train / source.path(4)).unlink()
    with pytest.raises(UnreadableImage, match=r"gs://bucket/\S+/n02/b\.JPEG cannot"):
        source.image(4)
    with pytest.raises(UsageError, match="The data folder gs://bucket/none is missing"):
        Folder("gs://bucket/none", "train")
    with pytest.raises(UsageError, match=r"no split 'val'\. Folders there: train"):
        Folder("gs://bucket/photos", "val")


def test_other_layouts_in_a_store(store, tmp_path):
    """Images without classes, and with classes from a table above them."""
    root = store / "bucket" / "set"
    names = ["ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00000002.JPEG"]
    for split in ("train", "val"):
        write_photos(root, names, split)
    for given, split in (("", "train"), ("/val", "val"), ("/train", "train"), ("/val/", ".")):
        source = Folder(f"gs://bucket/set{given}", split)
        assert [source.path(i) for i in range(2)] == names and source.classes == ("",)
        assert (source.image(1) == Folder(str(root), "val").image(1)).all()
    table = "ImageId,PredictionString\n" + "".join(
        f"{name[:-5]},n0{2 - i} 1 2 3 4\n" for i, name in enumerate(names)
    )
    (store / "bucket" / "LOC_val_solution.csv").write_text(table)
    source = Folder("gs://bucket/set", "val")
    assert [source.path(i) for i in range(2)] == [f"n01/{names[1]}", f"n02/{names[0]}"]
    given = Folder("gs://bucket/set", "val", labels="gs://bucket/LOC_val_solution.csv")
    assert given.labels.tolist() == source.labels.tolist() == [0, 1]
    with pytest.raises(UsageError, match=r"no split 'val', but gs://bucket/set has"):
        Folder("gs://bucket/set/train", "val")


def test_packed_images_in_a_store(store, tmp_path, capsys):
    """Packed there by the tool, from there, and read from there."""
    local = Folder(str(write_photos(store / "bucket" / "photos")), "train")
    arguments = ["--out", "gs://bucket/packed", "--splits", "train"]
    pack = [*arguments, "--source", "gs://bucket/photos", "--shards", "3"]
    assert tool.main(pack) == 0
    written = {path: path.stat().st_mtime_ns for path in Path(store).rglob("*.array_record")}
    assert len(written) == 3
    (store / "bucket" / "packed" / "train" / "00001-of-00003.array_record").unlink()
    assert tool.main(pack) == 0
    changed = [path.name for path, time in written.items() if path.stat().st_mtime_ns != time]
    assert changed == ["00001-of-00003.array_record"]
    assert tool.main([*arguments, "--verify"]) == 0
    assert "18 images in 3 shards are as written" in capsys.readouterr().out
    source = ArrayRecord("gs://bucket/packed", "train")
    assert [source.path(i) for i in range(18)] == sorted(NAMES)
    assert [source.encoded(i) for i in range(18)] == [local.encoded(i) for i in range(18)]


def test_without_a_client_the_message_says_what_to_install(monkeypatch):
    backend._FileSystemSpecBackend._get_filesystem.cache_clear()
    for scheme, kind in (("gs", "gcsfs"), ("s3", "s3fs")):
        monkeypatch.setitem(sys.modules, kind, None)
        with pytest.raises(UsageError, match=rf"{scheme}://bucket\S+ needs .*client: .*{kind}"):
            Folder(f"{scheme}://bucket/photos", "train")
    with pytest.raises(UsageError, match=r"ftp://host/\S+ is in no store known here.* gs://"):
        ArrayRecord("ftp://host/photos", "train")


def test_a_data_set_of_tfds_in_a_store(store, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    examples = [(f"n0{i % 2}", f"{i}.JPEG", jpeg((20 * i, 9, 9))) for i in range(9)]
    prepare(store / "bucket" / "tfds", "photographs", {"train": examples}, ["n01", "n00"])
    source = Tfds("photographs", "train", data_dir="gs://bucket/tfds")
    assert [source.path(i) for i in (0, 5)] == ["n00/0.JPEG", "n01/1.JPEG"]
    assert source.encoded(5) == jpeg((20, 9, 9))
