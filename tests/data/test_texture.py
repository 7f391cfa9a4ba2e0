"""data.texture: the tree it makes, that it can be interrupted anywhere, and that shards add up."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data as samples

from data import texture
from nsneg_jax.input.decode import read_image
from nsneg_jax.textures.recipe import RECIPES, TextureRecipe
from nsneg_jax.textures.synthesis import (
    cut_exemplars,
    mosaic,
    random_generator,
    synthesise,
)

ROOT = Path(texture.__file__).parents[1]
# one pass at two levels: what is tested here is not the synthesis
QUICK = TextureRecipe(output_size=32, passes=(1, 1), jump_cost=1, use_cost=0, cell=4)
EARLIER = dataclasses.replace(QUICK, cell=8)
SIZES = ["--size", "32", "--exemplar-size", "32", "--batch", "1"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(texture, "RECIPES", {"coherent": QUICK, "patchwork": EARLIER})


@pytest.fixture
def source(tmp_path):
    """Eleven photographs of many sizes in three classes, and in several formats."""
    astronaut = samples.astronaut()
    root = tmp_path / "source"
    for i, name in enumerate("abcdefghijk"):
        folder = root / "train" / f"n{i % 3}" / ("deep" if i == 4 else ".")
        folder.mkdir(parents=True, exist_ok=True)
        cut = astronaut[40 * i : 40 * i + 20 + 11 * i, 30 * i : 30 * i + 100]
        form = ("JPEG", "PNG", "WEBP")[i % 3]
        Image.fromarray(cut).save(folder / f"{name}.{form}", form)
    return root


def run(source, out, *more):
    return texture.main(["--source", str(source), "--out", str(out), *SIZES, *more])


def contents(out):
    """Bytes of every file below `out` by its path."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(Path(out).rglob("*"))
        if path.is_file()
    }


def test_the_tree_is_mirrored(source, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(source, out) == 0
    assert "11 images: 11 textures made, 0 were there" in capsys.readouterr().out
    originals = [p.relative_to(source) for p in source.rglob("*") if p.is_file()]
    expected = {str(p.with_suffix(".png")) for p in originals}
    assert set(contents(out)) == expected | {"texture.json"}
    for path in originals:
        name = str(path)
        rng = random_generator(0, name)
        exemplars = cut_exemplars(rng, read_image(str(source / path)), 2, 32)
        first = mosaic(rng, exemplars.shape[:3], QUICK)
        want = synthesise(exemplars[None], first[None], QUICK).image[0]
        got = Image.open(out / path.with_suffix(".png"))
        assert got.format == "PNG"
        np.testing.assert_array_equal(got, want)
    recipe = json.loads((out / "texture.json").read_text())["recipe"]
    assert recipe == json.loads(json.dumps(dataclasses.asdict(QUICK)))


def test_what_is_there_is_left_alone(source, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(source, out) == 0
    whole = contents(out)
    (out / "train" / "n0" / "a.png").unlink()
    (out / "train" / "n1" / "deep" / "e.png").write_bytes(b"")
    kept = (out / "train" / "n2" / "c.png").stat().st_mtime_ns
    assert run(source, out) == 0
    assert "2 textures made, 9 were there" in capsys.readouterr().out
    assert contents(out) == whole
    assert (out / "train" / "n2" / "c.png").stat().st_mtime_ns == kept


def test_shards_batches_and_threads_make_the_same(source, tmp_path, capsys):
    assert run(source, tmp_path / "whole") == 0
    for shard in ("1/2", "0/2"):
        assert run(source, tmp_path / "parts", "--shard", shard, "--threads", "1") == 0
    printed = capsys.readouterr().out
    assert "5 images of 11 in this shard: 5 textures made" in printed
    assert "6 images of 11 in this shard: 6 textures made" in printed
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert run(source, tmp_path / "one", "--classes", "n1") == 0
    one = contents(tmp_path / "one")
    assert len(one) == 5 and one.items() <= contents(tmp_path / "whole").items()


def test_processes_of_a_pod_are_shards(source, tmp_path, monkeypatch):
    assert run(source, tmp_path / "whole") == 0
    monkeypatch.setattr(texture.jax, "process_count", lambda: 2)
    made = set()
    for process in range(2):
        for shard in ("0/2", "1/2"):
            monkeypatch.setattr(texture.jax, "process_index", lambda process=process: process)
            assert run(source, tmp_path / "pod", "--shard", shard) == 0
            now = set(contents(tmp_path / "pod"))
            assert len(now - made) >= 2
            made = now
    assert contents(tmp_path / "pod") == contents(tmp_path / "whole")


def test_bad_images_are_named_and_left_out(source, tmp_path, capsys):
    (source / "train" / "n1" / "bad.jpg").write_bytes(b"\xff\xd8\xffno picture")
    (source / "train" / "n2" / "gone.jpg").symlink_to("nowhere.jpg")
    out = tmp_path / "out"
    assert run(source, out) == 1
    printed = capsys.readouterr()
    assert "13 images: 11 textures made, 0 were there, 2 images could not be read" in printed.out
    assert "bad.jpg cannot be read" in printed.err and "gone.jpg cannot be read" in printed.err
    assert len(contents(out)) == 12
    Image.fromarray(samples.chelsea()).save(source / "train" / "n1" / "bad.jpg")
    (source / "train" / "n2" / "gone.jpg").unlink()
    assert run(source, out) == 0
    assert (out / "train" / "n1" / "bad.png").exists()


@pytest.mark.parametrize(("form", "kind"), [("webp", "WEBP"), ("jpg", "JPEG")])
def test_formats(source, tmp_path, form, kind):
    assert run(source, tmp_path / "png") == 0
    assert run(source, tmp_path / "out", "--format", form) == 0
    for name in contents(tmp_path / "out"):
        if name != "texture.json":
            image = Image.open(tmp_path / "out" / name)
            png = Image.open((tmp_path / "png" / name).with_suffix(".png"))
            assert image.format == kind and name.endswith(form)
            difference = np.abs(np.asarray(image, int) - np.asarray(png, int))
            assert difference.max() == 0 if form == "webp" else 0 < difference.mean() < 6


def test_other_settings_in_the_same_folder_are_refused(source, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(source, out) == 0
    before = contents(out)
    for more in (["--seed", "1"], ["--format", "jpg"], ["--exemplars", "1"]):
        assert run(source, out, *more) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert "texture.json" in said and ("damaged" in said or "other settings" in said)
    assert contents(out) == before
    assert run(source, tmp_path / "other", "--seed", "1") == 0
    other = contents(tmp_path / "other")
    assert all(other[name] != before[name] for name in before)


def test_a_folder_keeps_its_recipe(source, tmp_path, capsys):
    earlier, later = tmp_path / "earlier", tmp_path / "later"
    assert run(source, earlier, "--recipe", "patchwork") == 0
    assert run(source, later) == 0
    whole = contents(earlier)
    assert whole["train/n0/a.png"] != contents(later)["train/n0/a.png"]
    (earlier / "train" / "n0" / "a.png").unlink()
    assert run(source, earlier) == 0  # without --recipe: the folder's
    assert contents(earlier) == whole
    assert run(source, earlier, "--recipe", "coherent") == 2
    assert run(source, earlier, "--size", "40") == 2
    assert run(source, later, "--recipe", "coherent") == 0
    assert contents(earlier) == whole
    for damaged in ("", "[]", '{"recipe": 3}', "\xff"):
        (earlier / "texture.json").write_text(damaged, "latin-1")
        capsys.readouterr()
        assert run(source, earlier) == 2
        assert str(earlier / "texture.json") in capsys.readouterr().err.replace("\n", " ")


def test_settings_of_the_first_recipe_are_those_of_earlier_folders(tmp_path, monkeypatch):
    monkeypatch.setattr(texture, "RECIPES", RECIPES)
    text = """{
  "seed": 0,
  "format": "png",
  "exemplars": 2,
  "exemplar_size": 96,
  "recipe": {
    "output_size": 224,
    "passes": [
      3,
      2,
      2
    ],
    "neighbourhood": 5,
    "frequencies": [
      6,
      2
    ],
    "similar": 2,
    "jump_cost": 1,
    "use_cost": 2,
    "cell": 10
  }
}
"""
    (tmp_path / "texture.json").write_text(text)
    options = texture.parse(["--out", str(tmp_path)])
    assert options.recipe == RECIPES["patchwork"]
    texture.claim(tmp_path, texture.settings(options))
    assert texture.parse(["--out", str(tmp_path / "new")]).recipe == TextureRecipe()


def test_two_images_of_one_name_are_refused(source, tmp_path, capsys):
    (source / "train" / "n0" / "a.png").write_bytes(b"")
    assert run(source, tmp_path / "out") == 2
    assert "n0/a.JPEG and n0/a.png" in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--shard", "2/2"], "--shard is '2/2'"),
        (["--shard", "half"], "--shard is 'half'"),
        (["--threads", "0"], "--threads is 0"),
        (["--batch", "-1"], "--batch is -1"),
        (["--exemplar-size", "33"], "33 x 33, but must be a multiple of 2"),
        (["--exemplars", "0"], "number of exemplars is 0"),
        (["--size", "0"], "output_size is 0"),
        (["--split", "test"], "no split 'test'"),
        (["--classes", "n7"], "n7"),
    ],
)
def test_impossible_options(source, tmp_path, capsys, more, says):
    assert run(source, tmp_path / "out", *more) == 2
    assert says in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written(source, tmp_path, capsys):
    (tmp_path / "out").write_text("a file")
    assert run(source, tmp_path / "out") == 2
    assert "cannot be written" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.slow
def test_killed_anywhere_and_run_again(source, tmp_path):
    """The command as it is, at the sizes of the default, killed at random moments."""
    command = [sys.executable, "-m", "data.texture", "--source", str(source), "--batch", "1"]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    subprocess.run(
        [*command, "--out", str(tmp_path / "whole")], cwd=ROOT, env=environment, check=True
    )
    whole = contents(tmp_path / "whole")
    assert len(whole) == 12
    out = tmp_path / "killed"
    rng = np.random.default_rng(0)
    kills = 0
    for kill in range(60):
        process = subprocess.Popen([*command, "--out", str(out)], cwd=ROOT, env=environment)
        # as soon as one more file begins, and then at any moment of its being written
        before = len(contents(out)) if out.exists() else 0
        while process.poll() is None:
            if out.exists() and len(contents(out)) > before:
                time.sleep(rng.uniform(0, 0.02))
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.001)
        if process.wait() == 0:
            break
        finished = {n: d for n, d in contents(out).items() if not n.endswith(".partial")}
        assert finished.items() <= whole.items(), kill
    assert kills >= 3
    assert process.returncode == 0
    assert contents(out) == whole
