"""Every command of README and docs is run by a test, or tests/doc_commands.toml says why not."""

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

import doc_commands
import pytest

ROOT = Path(__file__).parents[1]
RULES = tomllib.loads((ROOT / "tests" / "doc_commands.toml").read_text())["rule"]
COMMANDS = [command for page in doc_commands.PAGES for command in doc_commands.commands(page)]


def rule_of(command: doc_commands.Command) -> dict | None:
    """The first rule for a command."""
    for rule in RULES:
        page_fits = rule.get("page", command.page) == command.page
        if page_fits and re.fullmatch(rule["command"], command.text, re.DOTALL):
            return rule
    return None


@cache
def functions_of(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_commands_are_found():
    by_page = {command.page for command in COMMANDS}
    assert {"README.md", "docs/quick-start.md", "docs/data.md", "docs/recipes.md"} <= by_page
    texts = {command.text for command in COMMANDS}
    assert "make demo" in texts  # of a block without a language
    assert "nsneg verify runs/patch" in texts  # of an indented one
    (split,) = (each.words for each in COMMANDS if "runs/mine-linear" in each.text)
    assert split[:2] == ("nsneg", "linear")
    (quoted,) = (each.words for each in COMMANDS if "official-r1-eval --config" in each.text)
    assert "--config.label=official, patch" in quoted


def test_every_command_is_run_or_says_why_not():
    unknown = [f"{each.page}: {each.text}" for each in COMMANDS if rule_of(each) is None]
    assert unknown == [], "Add a test that runs it, and a rule in tests/doc_commands.toml"


def test_every_rule_is_used_and_names_tests_that_exist():
    used = [rule_of(command) for command in COMMANDS]
    for rule in RULES:
        assert rule in used, rule
        assert rule.keys() <= {"command", "page", "run_by", "like", "not_run"}, rule
        assert rule.get("run_by") or rule.get("not_run"), rule
        for test in rule.get("run_by", []) + rule.get("like", []):
            file, _, function = test.partition("::")
            assert function in functions_of(file), test


@pytest.mark.parametrize("page", sorted({command.page for command in COMMANDS}))
def test_command_lines_are_valid(page, tmp_path, monkeypatch):
    for command in (each for each in COMMANDS if each.page == page):
        try:
            doc_commands.check(command, tmp_path, monkeypatch)
        except (Exception, SystemExit) as error:
            pytest.fail(f"{command.text}\n{type(error).__name__}: {error}")
