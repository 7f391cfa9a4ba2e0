"""The meanings of config fields, read from the comments in `nsneg_jax.jobs.defaults`."""

import ast
import inspect
import io
import tokenize
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import cache

from nsneg_jax.jobs import defaults

# Functions of `defaults` that hold the fields of a job, each with the prefix of its field names.
_TABLES = {
    "pretrain": {"pretraining": ""},
    "linear": {"probing": ""},
    "knn": {"probing": ""},
    "features": {"probing": ""},
    "evaluate": {"evaluation": "", "test_set": "sets.*."},
}


@cache
def meanings(job: str) -> dict[str, str]:
    """Returns the meaning of every default field of a job's config.

    Args:
        job: `config.job`; an unknown job has no fields.

    Returns:
        Texts by dotted name, in the order of the defaults; '*' stands for the name of a test set.
    """
    source = inspect.getsource(defaults)
    comments = _Comments(source)
    functions = {node.name: node for node in ast.parse(source).body if hasattr(node, "name")}
    found: dict[str, str] = {}
    for function, prefix in _TABLES.get(job, {}).items():
        table = next(node for node in ast.walk(functions[function]) if isinstance(node, ast.Dict))
        found |= {prefix + name: comments.of(*lines) for name, lines in _entries(table)}
    return found


def pattern_of(job: str, field: str) -> str:
    """Returns the name of a config's field in `meanings`; '' if it is unknown there."""
    return next((name for name in meanings(job) if fnmatchcase(field, name)), "")


def _entries(table: ast.Dict) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yields the dotted name, and first and last line, of each entry of a nested literal."""
    for key, value in zip(table.keys, table.values, strict=True):
        if not (isinstance(key, ast.Constant) and isinstance(key.value, str)):
            raise TypeError(f"A field's name in line {value.lineno} of defaults.py is no text.")
        if isinstance(value, ast.Dict):
            for name, lines in _entries(value):
                yield f"{key.value}.{name}", lines
        else:
            yield key.value, (key.lineno, value.end_lineno or value.lineno)


class _Comments:
    """The comments of a source text by line, either alone or beside code."""

    def __init__(self, source: str) -> None:
        self._alone: dict[int, str] = {}
        self._beside: dict[int, str] = {}
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                is_alone = token.line.lstrip().startswith("#")
                where = self._alone if is_alone else self._beside
                where[token.start[0]] = token.string.removeprefix("#").strip()

    def of(self, first: int, last: int) -> str:
        """Joins the comments right above the lines `first` to `last` and beside them."""
        start = first
        while start - 1 in self._alone:
            start -= 1
        lines = [self._alone[line] for line in range(start, first)]
        return " ".join(
            lines + [self._beside[i] for i in range(first, last + 1) if i in self._beside]
        )
