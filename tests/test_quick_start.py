"""docs/quick-start.md: its commands run one after another, on 100 photographs of a user's home."""

import shlex
from pathlib import Path

import doc_commands
import numpy as np
import pytest
from PIL import Image

from nsneg_jax import cli, load_pretrained
from nsneg_jax.features.table import read_table

PAGE = doc_commands.ROOT / "docs" / "quick-start.md"
# so that a command takes seconds: last, so these hold
SMALL = {
    "pretrain": "--config.total_steps=2 --config.model.arch=resnet8 --config.model.width=8",
    "linear": "--config.epochs=2",
}
PICTURES, CLASSES = 100, 4


def write_photographs(folder: Path, rng: np.random.Generator) -> None:
    """Writes smooth pictures with a bright square each, in folders of any depth."""
    for index in range(PICTURES):
        small = rng.integers(0, 200, (6, 8, 3), dtype=np.uint8)
        picture = Image.fromarray(small).resize((160, 120), Image.Resampling.BICUBIC)
        picture.paste((240, 230, 220), (index, 40, index + 40, 80))
        path = folder / f"year{index % CLASSES}" / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_code")
def test_every_command_of_the_page(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    for name in ("Pictures", "Birds"):
        write_photographs(tmp_path / "home" / name, rng)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    ran = []
    for command in doc_commands.commands(PAGE):
        program, job, *words = command.words
        if program != "nsneg" or not words or job in ("plan", "compare"):
            continue
        words = [word.replace("~/", f"{Path.home()}/") for word in words]  # as a shell does
        status = cli.main([job, *words, *shlex.split(SMALL.get(job, ""))])
        assert status == 0, (command.text, capsys.readouterr().err)
        ran.append(job)
    assert ran.count("pretrain") == 3 and {"knn", "linear", "evaluate", "report"} <= set(ran)
    assert Path("runs/look/pictures/views.png").exists()
    assert Path("encoder/model.safetensors").exists()
    photographs = sorted((tmp_path / "home" / "Pictures").rglob("*.jpg"))
    features = load_pretrained("runs/mine").embed(photographs)
    assert len(features) == PICTURES
    np.testing.assert_array_equal(load_pretrained("encoder").embed(photographs), features)
    assert len(read_table(Path("features.parquet")).names) == PICTURES
    assert Path("report.html").stat().st_size < 5_000_000
