"""The wheel has all files, and what it installs runs from any folder, without the checkout."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nsneg_jax.input.sources.lists.class_list import class_names

ROOT = Path(__file__).parents[1]
# folders of the checkout by their names in the wheel
FOLDERS = {"nsneg_jax": "nsneg_jax", "configs": "nsneg_jax/configs", "data": "nsneg_jax/prepare"}
# of ImageNet-100: two birds, a cat and a chair, categories of the cue conflicts
WNIDS = ("n01558993", "n02018207", "n02123045", "n04099969")
EXTRAS = "cv2 tensorflow_datasets matplotlib torch gcsfs"


def tracked():
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        found = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git checkout")
    return [name for name in found.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy with what an earlier version left: none of that may be taken up."""
    copy, out = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("dist")
    for name in tracked():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    stale = copy / "build" / "lib" / "nsneg_jax" / "removed.py"
    stale.parent.mkdir(parents=True)
    stale.touch()
    pip = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--no-index", "-q", "-w", str(out)], cwd=copy, check=True, timeout=120)
    (built,) = out.glob("*.whl")
    return built


def test_every_file_is_in_the_wheel(wheel):
    expected = set()
    for name in tracked():
        folder, _, rest = name.partition("/")
        if rest and folder in FOLDERS:
            expected.add(f"{FOLDERS[folder]}/{rest}")
    assert "nsneg_jax/py.typed" in expected and "nsneg_jax/prepare/imagenet100.tsv" in expected
    with zipfile.ZipFile(wheel) as opened:
        found = {name for name in opened.namelist() if ".dist-info/" not in name}
    assert found == expected


class Installed:
    """Installs the wheel in a separate environment that sees the packages of this one."""

    def __init__(self, wheel, folder):
        self.folder = folder / "work"
        self.folder.mkdir()
        venv.create(folder / "venv", with_pip=False, symlinks=True)
        self.python = folder / "venv" / "bin" / "python"
        pip = [sys.executable, "-m", "pip", "--python", str(self.python), "install", "--no-deps"]
        subprocess.run([*pip, "--no-index", "-q", str(wheel)], check=True, timeout=120)
        self.site = Path(self.run("-c", "import sysconfig; print(sysconfig.get_path('purelib'))"))
        paths = sysconfig.get_paths()
        lines = [paths["purelib"], paths["platlib"]]
        # packages to be taken for missing
        hide = "sys.modules.update({name: None for name in os.environ.get('HIDDEN', '').split()})"
        lines.append(f"import os, sys; {hide}")
        (self.site / "tests.pth").write_text("\n".join(lines) + "\n")

    def run(self, *arguments, hidden="", status=0):
        outside = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "NSNEG_DATA")}
        done = subprocess.run(
            [str(self.python), *map(str, arguments)],
            cwd=self.folder,
            env=outside | {"JAX_PLATFORMS": "cpu", "HIDDEN": hidden},
            capture_output=True,
            text=True,
            timeout=400,
        )
        assert done.returncode == status, done.stderr[-3000:]
        return done.stdout.strip()

    def nsneg(self, *arguments, **more):
        return self.run("-m", "nsneg_jax", *arguments, **more)

    def job(self, name, config, workdir, *flags, **more):
        self.nsneg(name, f"--config={config}", f"--workdir={workdir}", *flags, **more)
        return self.folder / workdir


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    return Installed(wheel, tmp_path_factory.mktemp("installed"))


def write_images(folder, names):
    rng = np.random.default_rng(len(names))
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((48, 40)).save(folder / name)


@pytest.fixture(scope="module")
def prepared(installed):
    """Four classes of ImageNet-100 and its textures, made where the configs look for them."""
    imagenet = [
        f"{split}/{wnid}/{wnid}_{i}.JPEG"
        for split, count in (("train", 6), ("val", 2))
        for wnid in WNIDS
        for i in range(count)
    ]
    write_images(installed.folder / "imagenet", imagenet)
    (installed.folder / "classes.txt").write_text("".join(f"{wnid}\n" for wnid in WNIDS))
    subset = ("--source", "imagenet", "--classes", "classes.txt", "--link", "copy")
    # the full list would have more images, which the exit status says
    installed.nsneg("prepare", "imagenet100", *subset, hidden=EXTRAS, status=1)
    sizes = ("--size", "64", "--batch", "1")
    installed.nsneg("prepare", "texture", *sizes, hidden=EXTRAS)
    sets = installed.folder / "datasets"
    order = sorted(class_names(str(ROOT / "nsneg_jax/evaluation/protocols/imagenet1k.txt")))
    v2 = [f"{order.index(wnid)}/{i}.jpeg" for wnid in WNIDS for i in range(2)]
    write_images(sets / "imagenetv2-matched-frequency-format-val", v2)
    write_images(sets / "cue-conflict", ["bird/bird1-chair2.png", "cat/cat1-bird1.png"])
    return sets


SMALL = (
    *("--config.batch_size=8", "--config.data.image_size=16", "--config.epochs=2"),
    "--config.data.source=folder:datasets/imagenet100",
)
ENCODER = ("--config.model.width=4", "--config.model.dim=8", "--config.moco.queue_size=24")


@pytest.fixture(scope="module")
def probe(installed, prepared):
    """Pre-trained with both kinds of negatives, then probed; without the extras' packages."""
    textures = "--config.negatives.texture_source=folder:datasets/imagenet100-texture"
    both = ("--config.negatives.kind=patch+texture", textures)
    # by the path of its file, and below by names
    path = installed.site / "nsneg_jax" / "configs" / "texture.py"
    installed.job("pretrain", f"{path}:tiny", "pre", *SMALL, *ENCODER, *both, hidden=EXTRAS)
    flags = (*SMALL, "--config.pretrained=pre")
    return installed.job("linear", "linear:tiny", "lin", *flags, hidden=EXTRAS)


def results(workdir):
    return json.loads((workdir / "results.json").read_text())


slow = pytest.mark.slow


@slow
def test_nothing_of_the_checkout_is_seen(installed):
    where = "import nsneg_jax, os, sys; print(os.path.dirname(nsneg_jax.__file__)); print(sys.path)"
    place, path = installed.run("-c", where).splitlines()
    assert place == str(installed.site / "nsneg_jax")
    assert str(ROOT) not in json.loads(path.replace("'", '"'))


@slow
def test_commands_and_help(installed):
    assert "pretrain" in installed.nsneg("--help")
    assert "negatives.alpha = 2.0" in installed.nsneg("pretrain", "--config=patch", "--help")
    named = subprocess.run([installed.python.with_name("nsneg"), "--version"], capture_output=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert named.stdout.decode().split() == ["nsneg_jax", project["version"]]


@slow
def test_preparation(installed, prepared):
    images = sorted((prepared / "imagenet100" / "train").rglob("*.JPEG"))
    textures = sorted((prepared / "imagenet100-texture" / "train").rglob("*.png"))
    assert [path.stem for path in textures] == [path.stem for path in images]
    assert len(images) == 6 * len(WNIDS)
    packing = ("prepare", "arrayrecord", "--splits", "train")
    installed.nsneg(*packing, hidden=EXTRAS)
    # the same script as a module
    module = ("-m", "nsneg_jax.prepare.arrayrecord", *packing[2:])
    installed.run(*module, "--verify", hidden=EXTRAS)
    index = json.loads((prepared / "imagenet100-packed" / "train" / "index.json").read_text())
    assert index["images"] == len(images)


@slow
def test_pretraining_probe_neighbours_and_features(installed, probe):
    lines = (installed.folder / "pre" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 6
    assert (installed.folder / "pre" / "pictures" / "views.png").is_file()
    assert results(probe)["job"] == "linear"
    flags = (*SMALL, "--config.pretrained=pre", "--config.knn.k=(3,)")
    knn = installed.job("knn", "linear:tiny", "knn", *flags, hidden=EXTRAS)
    assert results(knn)["job"] == "knn"
    written = installed.job("features", "linear", "feat", *flags, hidden=EXTRAS)
    with np.load(written / "features.npz") as features:
        assert len(features["labels"]) == 2 * len(WNIDS)


@slow
def test_evaluation_reads_its_tables(installed, probe):
    """ImageNet-V2's folders are numbered, and cue conflicts have categories, by files inside."""
    flags = ("--config.pretrained=lin", "--config.batch_size=8", "--config.data.image_size=16")
    found = results(installed.job("evaluate", "evaluate", "eval", *flags, hidden=EXTRAS))
    assert {name: each["images"] for name, each in found["sets"].items()} == {
        "clean": 2 * len(WNIDS),
        "v2": 2 * len(WNIDS),
        "cue_conflict": 2,
    }
    assert "sketch" in found["missing"]
    table = installed.nsneg("report", "eval", "lin", hidden=EXTRAS)
    assert "|" in table


@slow
def test_torch_and_back(installed, probe):
    pytest.importorskip("torch")
    installed.nsneg("convert", "export", "lin", "lin.pth.tar")
    installed.nsneg("convert", "import", "lin.pth.tar", "back")
    flags = ("--config.batch_size=8", "--config.data.image_size=16", "--config.only=clean")
    names = "--config.classes=classes.txt"  # which a file of PyTorch does not know
    installed.job("evaluate", "evaluate", "eval-lin", "--config.pretrained=lin", *flags)
    installed.job("evaluate", "evaluate", "eval-back", "--config.pretrained=back", names, *flags)
    one, other = (
        results(installed.folder / name)["sets"]["clean"] for name in ("eval-lin", "eval-back")
    )
    assert one["accuracy_top1"] == other["accuracy_top1"]
    assert one["calibration_rms"] == other["calibration_rms"]


@slow
def test_built_in_pictures_need_their_extra(installed):
    config = ("pretrain", "patch:tiny", "shapes", "--config.batch_size=8", "--config.total_steps=1")
    installed.job(*config, hidden="cv2", status=2)
    assert not (installed.folder / "shapes").exists()
