"""Runs the cells of notebooks, without Jupyter.

    python tests/helpers/notebooks.py examples/NAME.ipynb

runs a notebook in a temporary folder and writes what its cells put out into the file.
"""

import ast
import base64
import contextlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path


def cells_of(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def run(
    path: Path,
    wanted: Callable[[Mapping], bool] = lambda cell: True,
    replaced: Mapping[str, str] | None = None,
) -> tuple[dict, list[list[dict]]]:
    """Runs the code cells that are wanted; returns their names, and the outputs per cell.

    Args:
        path: a notebook.
        wanted: which cells to run.
        replaced: texts in the cells, each of which must be there, and what replaces them.
    """
    names: dict = {"__name__": "__main__"}
    outputs: list[list[dict]] = []
    missing = set(replaced or {})
    for number, cell in enumerate(cells_of(path)):
        outputs.append([])
        if cell["cell_type"] != "code" or not wanted(cell):
            continue
        source = "".join(cell["source"])
        for before, after in (replaced or {}).items():
            missing -= {before} if before in source else set()
            source = source.replace(before, after)
        outputs[-1] = _run_cell(source, f"{path.name}, cell {number}", names)
    assert not missing, f"not in {path.name}: {missing}"
    return names, outputs


def _run_cell(source: str, where: str, names: dict) -> list[dict]:
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, where, "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), where, "eval"), names)
    outputs = []
    if printed.getvalue():
        text = printed.getvalue().splitlines(keepends=True)
        outputs.append({"output_type": "stream", "name": "stdout", "text": text})
    if hasattr(value, "_repr_png_"):
        png = base64.b64encode(value._repr_png_()).decode()
        picture = {"image/png": png, "text/plain": ["<picture>"]}
        outputs.append({"output_type": "display_data", "metadata": {}, "data": picture})
    elif value is not None:
        shown = {"text/plain": repr(value).splitlines(keepends=True)}
        outputs.append({"output_type": "display_data", "metadata": {}, "data": shown})
    return outputs


def write_outputs(path: Path) -> None:
    """Runs all cells in an empty folder and keeps their outputs."""
    path, before = path.resolve(), Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        _, outputs = run(path)
        os.chdir(before)
    notebook = json.loads(path.read_text(encoding="utf-8"))
    code = 0
    for cell, found in zip(notebook["cells"], outputs, strict=True):
        if cell["cell_type"] == "code":
            code += 1
            cell |= {"outputs": found, "execution_count": code}
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        write_outputs(Path(name))
