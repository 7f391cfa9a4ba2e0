"""The notebooks of examples/ run, and hold what they put out when they were run whole."""

from pathlib import Path

import notebooks
import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
ALL = sorted(EXAMPLES.glob("*.ipynb"))
MOST_BYTES = 500_000


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_the_outputs_are_there_and_small(path):
    assert path.stat().st_size < MOST_BYTES
    cells = [cell for cell in notebooks.cells_of(path) if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} == {"stream", "display_data"}
    for cell in cells:
        compile("".join(cell["source"]), path.name, "exec")


def test_pictures_and_loss_of_the_negatives():
    """The cells that train nothing put out what they did before."""
    path = EXAMPLES / "what-the-negatives-do.ipynb"
    names, outputs = notebooks.run(path, lambda cell: notebooks.SLOW not in notebooks.tags_of(cell))
    assert len(outputs) == len(notebooks.cells_of(path)) and len(names["negatives"]) == 3
    before = [cell.get("outputs", []) for cell in notebooks.cells_of(path)]
    (table,) = [each[0]["text"] for each in outputs if each and "text" in each[0]]
    (kept,) = [
        each[0]["text"] for each in before if each and "similarity   no" in each[0].get("text", "")
    ]
    numbers = [[float(word) for word in line.split()] for line in table[1:]]
    np.testing.assert_allclose(numbers, [list(map(float, line.split())) for line in kept[1:]])
    assert all(row[1] <= row[2] <= row[3] <= row[4] for row in numbers)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_code")
@pytest.mark.parametrize(
    ("name", "steps"), [("what-the-negatives-do", "600"), ("a-robustness-table", "250")]
)
def test_whole_notebooks(name, steps):
    """With few steps."""
    shorter = {f"STEPS = {steps}": "STEPS = 3"}
    _, outputs = notebooks.run(EXAMPLES / f"{name}.ipynb", replaced=shorter)
    lines = "".join(outputs[-2][0]["text"]).splitlines()
    assert len(lines) == (10 if name == "a-robustness-table" else 3)
