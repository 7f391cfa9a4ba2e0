"""docs/reliability.md: each promise names the tests that hold it, and they are there."""

import ast
import re
from functools import cache
from pathlib import Path

from nsneg_jax.training import health

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reliability.md"
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def promises() -> list[list[str]]:
    """The cells of each row of the first table, without its head."""
    table = re.search(r"^\| promise .*?\n\n", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    rows = [line.strip("|").split(" | ") for line in table[0].strip().splitlines()]
    return [[cell.strip() for cell in row] for row in rows[2:]]


@cache
def functions_of(file: str) -> set[str]:
    return {
        node.name for node in ast.walk(ast.parse((ROOT / file).read_text()))
        if isinstance(node, ast.FunctionDef)
    }  # fmt: skip


def test_each_promise_has_tests_that_exist_and_a_figure():
    assert len(promises()) > 20
    for promise, tests, figure in promises():
        named = TEST.findall(tests)
        assert promise and figure and named and TEST.sub("", tests).strip(", ") == "", promise
        for file, function in named:
            assert function.startswith("test_") and function in functions_of(file), function


def test_the_page_states_the_thresholds_in_use():
    stated = PAGE.read_text().partition("## A collapse")[2].partition("\n## ")[0]
    for threshold in (health.GAP, health.CHANCE, health.SPREAD):
        assert f"below {threshold:g}" in stated
