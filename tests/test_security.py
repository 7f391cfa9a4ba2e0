"""What SECURITY.md promises: writes stay below the folders given, and no input runs."""

import ast
import functools
import hashlib
import io
import json
import pickle
import subprocess
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from devkits import WNIDS
from photo_folder import write_photos
from PIL import Image
from tiny import tiny_config

import main
from data import arrayrecord, imagenet100, texture
from nsneg_jax.errors import UsageError
from nsneg_jax.files import check_writable, inside, is_plain
from nsneg_jax.input.decode import FORMATS, UnreadableImage, decode_image
from nsneg_jax.input.sources.packed import ArrayRecord
from nsneg_jax.jobs.evaluating.kept_parts import read_whole
from nsneg_jax.jobs.opening import open_run
from nsneg_jax.jobs.pretraining.validation import validate_pretraining
from nsneg_jax.report.pictures import save_views
from nsneg_jax.training.workdir import WRITTEN, refuse_links

ROOT = Path(main.__file__).parent
CODE = [
    path
    for folder in ("nsneg_jax", "data", "benchmarks", "examples", "experiments", "configs")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
OUTSIDE = ("../x", "a/../../x", "/x", "a/..", "..", ".", "a//b", "", "a/./b", "a\0b", "a/b\\..\\c")


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_that_lead_out_of_a_folder(name, tmp_path):
    with pytest.raises(UsageError, match="'\\.\\.'"):
        inside(tmp_path, name)
    assert not is_plain(name)


def test_names_that_do_not(tmp_path):
    for name in ("x", "a/b.png", "..a", "a..", "a/...", "é", " "):
        assert inside(tmp_path, name) == tmp_path / name


def everything_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def packed(tmp_path):
    """A packed set whose list of names can be changed, below a folder of nothing else."""
    source = write_photos(tmp_path / "source")
    out = tmp_path / "deep" / "er" / "packed"
    arguments = ["--source", str(source), "--out", str(out), "--splits", "train"]
    assert arrayrecord.main(arguments) == 0
    folder = out / "train"

    def rename(change):
        names = (folder / "names.txt").read_text().splitlines()
        names[0] = change(names[0])
        data = "".join(f"{name}\n" for name in names).encode()
        index = json.loads((folder / "index.json").read_text())
        index["names_sha256"] = hashlib.sha256(data).hexdigest()
        (folder / "names.txt").write_bytes(data)
        (folder / "index.json").write_text(json.dumps(index))

    return out, rename


@pytest.mark.parametrize(
    "change",
    [
        lambda name: f"{name.partition('/')[0]}/../../../../ESCAPED.jpg",
        lambda name: f"{name.partition('/')[0]}/..",
        lambda name: f"{name.partition('/')[0]}/./x.jpg",
        lambda name: "/tmp/ESCAPED.jpg",
    ],
)
def test_packed_names_that_lead_out(packed, change, tmp_path, capsys):
    out, rename = packed
    rename(change)
    with pytest.raises(UsageError, match=r"names\.txt has the name"):
        ArrayRecord(str(out), "train")
    before = everything_below(tmp_path)
    made = tmp_path / "deep" / "er" / "textures"
    arguments = ["--source", f"arrayrecord:{out}", "--out", str(made), "--compilation_cache=off"]
    assert texture.main(arguments) == 2
    assert everything_below(tmp_path) == before
    assert "names.txt" in capsys.readouterr().err


def test_textures_stay_below_their_folder(tmp_path):
    """Also of sources that check no names themselves."""

    class Source:
        name = "odd"

        def __len__(self):
            return 1

        def path(self, index):
            return "a/../../x.jpg"

    with pytest.raises(UsageError, match=r"a/\.\./\.\./x"):
        texture.list_jobs(Source(), "train", tmp_path, "png")
    Source.path = lambda self, index: "a/x.jpg"
    (job,) = texture.list_jobs(Source(), ".", tmp_path, "png")
    assert (job.name, job.target) == ("./a/x.jpg", tmp_path / "a" / "x.png")


def test_a_shard_elsewhere(packed):
    out, _ = packed
    index = json.loads((out / "train" / "index.json").read_text())
    index["shards"][0]["file"] = "../../secret"
    (out / "train" / "index.json").write_text(json.dumps(index))
    with pytest.raises(UsageError, match="not in its folder"):
        ArrayRecord(str(out), "train")


@pytest.mark.parametrize("name", ["../../evil", "/evil", "..", "a/b"])
@pytest.mark.parametrize("flag", ["--classes", "--splits"])
def test_class_lists_and_splits_that_lead_out(name, flag, tmp_path, capsys):
    (tmp_path / "classes.txt").write_text(f"{name if flag == '--classes' else 'n01440764'}\n")
    (tmp_path / "source" / "train").mkdir(parents=True)
    before = everything_below(tmp_path)
    arguments = ["--source", str(tmp_path / "source"), "--out", str(tmp_path / "o" / "out")]
    arguments += ["--classes", str(tmp_path / "classes.txt")]
    arguments += ["--splits", name] if flag == "--splits" else []
    assert imagenet100.main(arguments) == 2
    assert flag in capsys.readouterr().err
    assert everything_below(tmp_path) == before


@pytest.mark.parametrize("splits", ["../x", "/x", "", ","])
def test_splits_of_packing(splits, tmp_path, capsys):
    source = write_photos(tmp_path / "source")
    before = everything_below(tmp_path)
    arguments = ["--source", str(source), "--out", str(tmp_path / "out"), "--splits", splits]
    assert arrayrecord.main(arguments) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert everything_below(tmp_path) == before


def jpeg():
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize("odd", ["x/..", "../../x.JPEG", "/x.JPEG", "link", "device"])
def test_members_of_archives(odd, tmp_path):
    """Names are cut to their last part; links and devices are left out."""
    wnid, inner = WNIDS[0], io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as archive:
        member = tarfile.TarInfo(odd)
        if odd == "link":
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        elif odd == "device":
            member.type = tarfile.CHRTYPE
        else:
            member.size = len(jpeg())
        archive.addfile(member, io.BytesIO(jpeg()))
    source = tmp_path / "s"
    source.mkdir()
    with tarfile.open(source / "ILSVRC2012_img_train.tar", "w") as archive:
        member = tarfile.TarInfo(f"{wnid}.tar")
        member.size = len(inner.getvalue())
        archive.addfile(member, io.BytesIO(inner.getvalue()))
    (tmp_path / "classes.txt").write_text(f"{wnid}\n")
    out = tmp_path / "o" / "out"
    (out / "train" / wnid).mkdir(parents=True)
    target = tmp_path / "target"
    target.write_text("kept")
    (out / "train" / wnid / ".x.JPEG.partial").symlink_to(target)
    arguments = ["--source", str(source), "--out", str(out), "--splits", "train"]
    status = imagenet100.main([*arguments, "--classes", str(tmp_path / "classes.txt")])
    assert status == (2 if odd == "x/.." else 1)  # 1: the counts are not ImageNet's
    names = {path.name for path in (out / "train" / wnid).iterdir()} - {".x.JPEG.partial"}
    assert names == ({"x.JPEG"} if "JPEG" in odd else set())
    assert target.read_text() == "kept"
    assert not (tmp_path / "x.JPEG").exists() and not Path("/x.JPEG").exists()


@pytest.mark.parametrize("name", [pattern.replace("*", "x") for pattern in WRITTEN])
def test_links_in_a_workdir(name, tmp_path):
    workdir, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    workdir.mkdir()
    (workdir / name).symlink_to(elsewhere)
    config = tiny_config()
    with pytest.raises(UsageError, match=f"{name} is a link to"):
        open_run(config, workdir, None, validate_pretraining, dtype="float32", precision="float32")
    assert not elsewhere.exists()
    (tmp_path / "link").symlink_to(elsewhere)
    elsewhere.mkdir()
    refuse_links(tmp_path / "link")  # the workdir itself may be one


@pytest.mark.parametrize("name", ["run.lock", "stacks-host-0.txt", "metrics.jsonl"])
def test_a_command_makes_nothing_through_a_link(name, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "elsewhere")
    argv = ["main.py", f"--config={ROOT / 'configs' / 'patch.py'}:tiny"]
    assert main.main([*argv, f"--workdir={tmp_path / 'run'}"]) == 2
    assert f"{name}isalink" in "".join(capsys.readouterr().err.split())
    assert everything_below(tmp_path) == ["run", f"run/{name}"]


def test_a_picture_replaces_a_link(tmp_path):
    from types import SimpleNamespace

    (tmp_path / "pictures").mkdir()
    (tmp_path / "foreign").write_text("kept")
    (tmp_path / "pictures" / "views.png").symlink_to(tmp_path / "foreign")
    view = np.zeros((1, 8, 8, 3), np.float32)
    views = SimpleNamespace(query=view, key=view, negatives=np.zeros((1, 0, 8, 8, 3), np.float32))
    save_views(views, tmp_path / "pictures" / "views.png")
    assert (tmp_path / "foreign").read_text() == "kept"
    assert not (tmp_path / "pictures" / "views.png").is_symlink()


def test_names_of_sets_are_no_paths(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(
        "from configs import evaluate\n"
        "from nsneg_jax.jobs.defaults import test_set\n"
        "def get_config(variant=''):\n"
        "    config = evaluate.get_config('tiny').unlock()\n"
        "    config.pretrained = 'x'\n"
        "    config.sets['/tmp/out'] = test_set('shapes:100', 'test')\n"
        "    return config\n"
    )
    argv = ["main.py", f"--config={tmp_path / 'mine.py'}", f"--workdir={tmp_path / 'run'}"]
    assert main.main(argv) == 2
    assert "sets./tmp/out" in "".join(capsys.readouterr().err.split())


def test_what_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "x", Path("/proc/x"), tmp_path, tmp_path / ("x" * 300)):
        with pytest.raises(UsageError, match=r"--out is .*cannot be written"):
            check_writable(path, "--out")
    check_writable(tmp_path / "new" / "x", "--out")
    check_writable(tmp_path / "file", "--out")
    assert everything_below(tmp_path) == ["file"]


@pytest.mark.parametrize(
    "data",
    [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", b"\xd7\xcd\xc6\x9a" + b"\0" * 40],
    ids=["postscript", "wmf"],
)  # fmt: skip
def test_no_program_is_started_for_a_picture(data, monkeypatch):
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **named: started.append(args))
    with pytest.raises(UnreadableImage):
        decode_image(data, "x.JPEG")
    assert not started
    assert not {"EPS", "WMF", "PDF", "MPEG", "FITS", "TGA"} & set(FORMATS)


@functools.cache
def calls():
    """File, dotted name and call of every call in the code."""
    return [
        (str(path.relative_to(ROOT)), ast.unparse(node.func), node)
        for path in CODE
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call)
    ]


def test_pillow_opens_named_formats_only():
    found = [(file, node) for file, name, node in calls() if name.endswith("Image.open")]
    assert found
    for file, node in found:
        assert "formats" in [keyword.arg for keyword in node.keywords], file


# Both read what a process of ours, which they started or which started them, has sent.
PICKLES = {"nsneg_jax/input/loaders/worker.py", "nsneg_jax/planning/apart.py"}


def test_no_untrusted_pickle_is_read():
    readers = {"pickle.load", "pickle.loads", "pickle.Unpickler", "dill.load", "joblib.load"}
    assert {file for file, name, _ in calls() if name in readers} <= PICKLES
    # the reader that calls nothing, see tests/input/sources/arrays/test_pickles.py
    own = {path.name for path in CODE if "Unpickler)" in path.read_text("utf-8")}
    assert own == {"pickles.py"}
    for file, name, node in calls():
        options = {each.arg: ast.unparse(each.value) for each in node.keywords}
        assert options.get("allow_pickle", "False") == "False", file
        if name.endswith("torch.load"):
            assert options.get("weights_only") == "True", file
        assert name not in ("eval", "exec", "yaml.load", "os.system", "yaml.unsafe_load"), file
        assert options.get("shell", "False") == "False", file


class Runs:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_kept_part_with_a_pickle_is_made_again(tmp_path):
    part = SimpleNamespace(protocol="top1", source=[0])
    array = np.array([Runs(tmp_path / "ran")], object)
    np.savez(tmp_path / "part.npz", valid=array)
    with np.load(tmp_path / "part.npz", allow_pickle=True) as file:
        file["valid"]
    assert (tmp_path / "ran").exists()  # it would run
    (tmp_path / "ran").unlink()
    assert read_whole(tmp_path / "part.npz", part) is None
    (tmp_path / "part.npz").write_bytes(pickle.dumps(Runs(tmp_path / "ran")))
    assert read_whole(tmp_path / "part.npz", part) is None
    assert not (tmp_path / "ran").exists()
