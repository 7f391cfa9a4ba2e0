"""README, its neighbours and docs/: snippets of library.md run, links and named files are there."""

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

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
LIBRARY = ROOT / "docs" / "library.md"
BESIDE = tuple(ROOT / f"{name}.md" for name in ("CHANGELOG", "CONTRIBUTING", "SECURITY"))
PAGES = (README, *BESIDE, *sorted((ROOT / "docs").glob("*.md")))
MOST_LINES_OF_README = 100
LINK = re.compile(r"\]\(([^()\s]+)\)")
FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
# a file of the checkout, as prose names it
FILE = re.compile(
    r"(?<![\w/.])(?:nsneg_jax|configs|data|tests|benchmarks|experiments|docs)/[\w./-]*\.\w+\b"
)


def anchors(page: Path) -> set[str]:
    """The names under which GitHub links to a page's headings."""
    headings = re.findall(r"^#+ (.*)", FENCED.sub("", page.read_text()), re.MULTILINE)
    words = (re.sub(r"[^\w\- ]", "", heading).strip().lower() for heading in headings)
    return {each.replace(" ", "-") for each in words}


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
    export(tmp_path / "runs" / "patch", tmp_path / "encoder")
    (tmp_path / "photographs").mkdir()
    rng = np.random.default_rng(1)
    for index in range(4):
        pixels = rng.integers(0, 256, (40 + index, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photographs" / f"{index}.jpg")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("quick_code")
def test_snippets_of_the_library_page(folder, capsys):
    text = LIBRARY.read_text()
    names: dict = {}
    for block in re.finditer(r"```python\n(.*?)```", text, re.DOTALL):
        first_line = text.count("\n", 0, block.start(1))
        exec(compile("\n" * first_line + block[1], LIBRARY.name, "exec"), names)
    printed = capsys.readouterr().out
    assert "(4, 16) float32" in printed
    assert "(4, 32, 32, 3) (4, 2, 32, 32, 3)" in printed
    assert names["projections"].shape == (3, 8)
    assert names["converted"].shape == (4, 16) and names["closer"].shape == (4, 16)
    assert names["answers"].probabilities.shape == (4, 3)
    assert names["gradient"].shape == (4, 16) and np.abs(names["gradient"]).max() > 0
    assert names["foggy"].dtype == np.uint8
    assert int(names["state"].step) == 1 and np.isfinite(float(names["metrics"]["loss"]))


def test_readme_is_short():
    assert README.read_text().count("\n") <= MOST_LINES_OF_README


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_resolve(page):
    broken = []
    for link in LINK.findall(page.read_text()):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if re.match(r"\w+:", link):
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files_exist(page):
    named = set(FILE.findall(page.read_text()))
    assert {name for name in named if not (ROOT / name).exists()} == set()


def test_the_index_names_every_page():
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / link).resolve() for link in LINK.findall(index.read_text())}
    assert {page for page in PAGES if page not in linked} <= {index}
