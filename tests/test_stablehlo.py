"""Encoders as StableHLO programs: features, platforms, any batch, and the loader of the docs."""

import dataclasses
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny import checkpoint_of_untrained

from nsneg_jax import load_pretrained
from nsneg_jax.errors import RunError, UsageError
from nsneg_jax.pytorch.exporting import export
from nsneg_jax.stablehlo import program

pytest.importorskip("flatbuffers")
pytestmark = pytest.mark.usefixtures("quick_code")
PAGE = Path(__file__).parents[1] / "docs" / "checkpoints.md"
VIEWS = {"image_size": 16, "resize": 0}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return checkpoint_of_untrained(tmp_path_factory.mktemp("run"))


def test_the_loader_of_the_docs(run, tmp_path, monkeypatch):
    export(run, tmp_path / "encoder.stablehlo", **VIEWS)
    loader = next(
        block
        for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
        if "encoder.stablehlo" in block
    )
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    monkeypatch.chdir(tmp_path)
    names = {"images": images}
    exec(loader, names)
    expected = load_pretrained(run, **VIEWS).embed(images)
    assert names["features"].dtype == np.float32
    np.testing.assert_allclose(names["features"], expected, atol=1e-5 * np.abs(expected).max())
    exported = jax.export.deserialize(bytearray((tmp_path / "encoder.stablehlo").read_bytes()))
    assert set(exported.platforms) >= {"cpu", "cuda", "tpu"}


def test_a_program_that_differs_is_not_left(run, tmp_path, monkeypatch):
    source = load_pretrained(run, **VIEWS)
    other = dataclasses.replace(source, stats=jax.tree.map(lambda x: x + 1, source.stats))
    read = program._difference
    monkeypatch.setattr(program, "_difference", lambda path, _: read(path, other))
    with pytest.raises(RunError, match="differ"):
        program.write(source, tmp_path / "encoder.stablehlo")
    assert list(tmp_path.iterdir()) == []


def test_the_size_must_be_known(run, tmp_path):
    with pytest.raises(UsageError, match="image_size"):
        export(run, tmp_path / "encoder.stablehlo")
    assert list(tmp_path.iterdir()) == []
