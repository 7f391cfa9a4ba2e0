"""The snippets of docs/library.md run one after another, as a reader would type them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from answering import probe_checkpoint
from PIL import Image
from tiny import checkpoint_of_untrained, tiny_config

from nsneg_jax.files import write_json
from nsneg_jax.pytorch.exporting import export

PAGE = Path(__file__).parents[1] / "docs" / "library.md"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What the snippets take for granted: two runs, a converted encoder and photographs."""
    checkpoint_of_untrained(tmp_path / "runs" / "patch")
    kernel = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    probe_checkpoint(tmp_path / "runs" / "linear", kernel, ("circle", "square", "star"))
    for name in ("patch", "linear"):
        fields = json.loads(tiny_config(**{"data.resize": 256}).to_json())
        write_json(tmp_path / "runs" / name / "config.json", fields)
    large = checkpoint_of_untrained(tmp_path / "runs" / "large", **{"model.stem": "imagenet"})
    export(large, tmp_path / "encoder.safetensors")
    (tmp_path / "photographs").mkdir()
    rng = np.random.default_rng(1)
    for index in range(4):
        pixels = rng.integers(0, 256, (40 + index, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photographs" / f"{index}.jpg")
    monkeypatch.chdir(tmp_path)


def test_snippets_of_the_library_page(folder, capsys):
    text = PAGE.read_text()
    names: dict = {}
    for block in re.finditer(r"```python\n(.*?)```", text, re.DOTALL):
        first_line = text.count("\n", 0, block.start(1))
        exec(compile("\n" * first_line + block[1], PAGE.name, "exec"), names)
    printed = capsys.readouterr().out
    assert "(4, 16) float32" in printed
    assert "(4, 32, 32, 3) (4, 2, 32, 32, 3)" in printed
    assert names["projections"].shape == (3, 8)
    assert names["converted"].shape == (4, 16) and names["closer"].shape == (4, 16)
    assert names["answers"].probabilities.shape == (4, 3)
    assert names["gradient"].shape == (4, 16) and np.abs(names["gradient"]).max() > 0
    assert names["foggy"].dtype == np.uint8
    assert int(names["state"].step) == 1 and np.isfinite(float(names["metrics"]["loss"]))
