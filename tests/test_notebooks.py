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


@pytest.mark.usefixtures("quick_code")
def test_the_loss_of_the_negatives():
    """The cell with the loss puts out what it did before: it grows with alpha and similarity."""
    path = EXAMPLES / "what-the-negatives-do.ipynb"
    cells = notebooks.cells_of(path)
    (place,) = [i for i, cell in enumerate(cells) if "alpha=alpha" in "".join(cell["source"])]
    imports = next(cell for cell in cells if cell["cell_type"] == "code")
    _, outputs = notebooks.run(path, lambda cell: cell in (imports, cells[place]))
    tables = [
        np.array([line.split() for line in each[0]["text"][1:]], float)
        for each in (outputs[place], cells[place]["outputs"])
    ]
    np.testing.assert_allclose(*tables, atol=2e-3)
    assert (np.diff(tables[0][:, 1:]) >= 0).all() and (np.diff(tables[0][:, 4]) > 0).all()


@pytest.mark.slow
@pytest.mark.usefixtures("quick_code")
@pytest.mark.parametrize(
    ("name", "steps"), [("what-the-negatives-do", "300"), ("a-robustness-table", "1000")]
)
def test_whole_notebooks(name, steps):
    """With few steps."""
    shorter = {f"STEPS = {steps}": "STEPS = 3"}
    _, outputs = notebooks.run(EXAMPLES / f"{name}.ipynb", replaced=shorter)
    lines = "".join(outputs[-2][0]["text"]).splitlines()
    assert len(lines) == (10 if name == "a-robustness-table" else 3)
