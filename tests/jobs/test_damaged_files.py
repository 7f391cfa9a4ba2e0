"""Every file beside the checkpoints of every job, damaged in every way: repaired, or reported."""

import random
import shutil

import pytest
from answering import CLASSES, answering_probe, write_image
from photo_folder import write_photos
from tiny import tiny_config, tiny_linear_config

from configs import texture as texture_config
from data import arrayrecord, texture
from nsneg_jax import cli
from nsneg_jax.training.workdir import CHECKPOINTS, TENSORBOARD, flatten

pytestmark = pytest.mark.usefixtures("quick_code")
SEED, FAST = 7, 5  # damages per job in the fast tests


def truncate(path, rng):
    path.write_bytes(path.read_bytes()[: rng.randrange(1, max(2, path.stat().st_size))])


def replace_by_folder(path, rng):
    path.unlink()
    path.mkdir()
    (path / "file").touch()


DAMAGES = {
    "empty": lambda path, rng: path.write_bytes(b""),
    "truncated": truncate,
    "garbage": lambda path, rng: path.write_bytes(rng.randbytes(200)),
    "zeros": lambda path, rng: path.write_bytes(bytes(path.stat().st_size)),
    "another type": lambda path, rng: path.write_text("[3]\n"),
    "a folder": replace_by_folder,
}


def command(name, config, workdir):
    fields = [f"--config.{field}={v}" for field, v in flatten(config.to_dict()).items() if v != ""]
    recipe = {"pretrain": "texture", "evaluate": "evaluate"}.get(name, "linear")
    return [name, f"--config={recipe}:tiny", f"--workdir={workdir}", *fields]


def job(name, folder, monkeypatch):
    """The function that starts a job once more, and the folder that it writes."""
    workdir = folder / "run"
    if name == "arrayrecord":
        write_photos(folder / "photos", ["ant/1.jpg", "bee/2.jpg"])
        paths = ["--source", str(folder / "photos"), "--out", str(workdir), "--splits", "train"]
        return lambda: arrayrecord.main([*paths, "--shards", "2"]), workdir
    if name == "texture":
        write_photos(folder / "photos", ["ant/1.jpg"])
        paths = ["--source", str(folder / "photos"), "--out", str(workdir), "--size", "128"]
        return lambda: texture.main([*paths, "--compilation_cache=off"]), workdir
    if name == "pretrain":
        config = tiny_config(
            texture_config, total_steps=2, pictures=True, knn_every_epochs=0, epochs=1,
            **{"data.source": "shapes:32", "data.workers": 0, "moco.queue_size": 32},
        )  # fmt: skip
    else:
        probe = answering_probe(monkeypatch, folder)
        config = tiny_linear_config(probe / "pretraining", epochs=1, **{"data.source": "shapes:32"})
        config.job = name
        if name == "evaluate":
            write_image(folder / "a" / CLASSES[4] / "x.png", 4)
            values = {"only": "a", "sets.a.source": f"folder:{folder / 'a'}"}
            fields = {"pretrained": str(probe), "batch_size": 8, "data.image_size": 16}
            workers = {"data.workers": 0, "data.threads": 2}
            flags = (f"--config.{k}={v}" for k, v in (values | fields | workers).items())
            start = ["evaluate", "--config=evaluate", f"--workdir={workdir}", *flags]
            return lambda: cli.main(start), workdir
    return lambda: cli.main(command(name, config, workdir)), workdir


def files(workdir):
    """The files that a start reads or writes; each start has an event file of its own."""
    found = (path.relative_to(workdir) for path in sorted(workdir.rglob("*")) if path.is_file())
    return [path for path in found if path.parts[0] not in (CHECKPOINTS, TENSORBOARD)]


def drill(name, count, tmp_path, monkeypatch, capsys):
    """Damages `count` files, one at a time; None is all of them in all ways."""
    start, workdir = job(name, tmp_path, monkeypatch)
    assert start() == 0, capsys.readouterr().err
    whole = shutil.copytree(workdir, tmp_path / "whole")
    names = files(workdir)
    rng = random.Random(SEED)
    chosen = [(file, damage) for file in names for damage in DAMAGES]
    if count is not None:
        chosen = rng.sample(chosen, min(count, len(chosen)))
    statuses = []
    for file, damage in chosen:
        shutil.rmtree(workdir)
        shutil.copytree(whole, workdir)
        DAMAGES[damage](workdir / file, rng)
        capsys.readouterr()
        status = start()
        said = capsys.readouterr().err
        statuses.append(status)
        assert status in (0, 2) and "Traceback" not in said, (file, damage, said)
        if status:  # what the message asks for mends it
            assert said.count("error:") == 1 and file.name in said.replace("\n", " "), said
            shutil.rmtree(workdir / file) if damage == "a folder" else (workdir / file).unlink()
            assert start() == 0, (file, damage, capsys.readouterr().err)
        else:
            assert all((workdir / name).exists() for name in names), (file, damage)
    with capsys.disabled():
        repaired = statuses.count(0)
        print(
            f"{name}: seed {SEED}, {len(names)} files, {len(chosen)} damages: {repaired} repaired "
            f"or harmless, {len(chosen) - repaired} reported"
        )


QUICK = ("evaluate", "arrayrecord")


@pytest.mark.parametrize("name", QUICK)
def test_a_damaged_file_is_no_traceback(name, tmp_path, monkeypatch, capsys):
    drill(name, FAST, tmp_path, monkeypatch, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("name", (*QUICK, "pretrain", "linear", "knn", "features", "texture"))
def test_no_damaged_file_is_a_traceback(name, tmp_path, monkeypatch, capsys):
    drill(name, None, tmp_path, monkeypatch, capsys)
