"""The `--help` of a job or a plan: flags, named configs, the fields of one config."""

import ast
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ml_collections import ConfigDict

from nsneg_jax import command_line
from nsneg_jax.features import command as folder_command
from nsneg_jax.jobs.fields.config_files import (
    config_file,
    config_names,
    configs_folder,
    load_module,
)
from nsneg_jax.jobs.fields.table import meanings, pattern_of
from nsneg_jax.training.workdir import flatten

_WIDTH = 100
_COLUMN = 40  # first column of the meanings


def of_job(argv: list[str], command: str) -> str:
    """Returns the help of a command, or, if `argv` has a config, of the config's fields.

    Args:
        argv: the program's name, then its arguments.
        command: a job or 'plan'; '' is main.py.

    Raises:
        UsageError: the command line has a mistake.
    """
    given = command_line.given_config(argv)
    if given is None:
        parts = [
            *_of_folder(command),
            command_line.usage(command),
            _titled("flags", _flags(command)),
            _titled("configs, by name", _configs(command)),
            f"Fields of a config: {_program(command)} --config=NAME --help",
        ]
    else:
        config = command_line.read_config(argv, command)
        file, variant = config_file(given)
        parts = [
            command_line.usage(command),
            _titled(f"{file.stem}{variant}", [textwrap.indent(_docstring(file), "  ")]),
            _titled("fields, set by --config.FIELD=VALUE", fields_of(config)),
        ]
    return "\n\n".join(parts)


def _of_folder(command: str) -> Iterator[str]:
    """Yields the help of the other form of `nsneg features`, which takes a folder."""
    if command != "features":
        return
    yield f"Usage: {folder_command.USAGE}"
    yield (
        "embeds all images below FOLDER, without labels or a config. FILE gets a row per image,\n"
        "with its name; files that cannot be read are named and left out."
    )
    actions = folder_command.parser()._actions
    rows = (
        _row("=".join((*each.option_strings, str(each.metavar or ""))).strip("="), each.help or "")
        for each in actions
    )
    yield _titled("arguments", (line for row in rows for line in row))
    yield "The features of a data set's splits, with their labels, come from a config:"


def fields_of(config: ConfigDict) -> Iterator[str]:
    """Yields lines 'name = value' with the meaning of each field; shows a repeated one once."""
    job = config.get("job")
    known = meanings(job)
    shown, section = set(), ""
    values = flatten(config.to_dict())
    for name in sorted(values, key=_order_of_defaults(job)):
        pattern, value = pattern_of(job, name), values[name]
        if name.rpartition(".")[0] != section:
            section = name.rpartition(".")[0]
            yield ""
        meaning = "" if pattern in shown else known.get(pattern, "")
        shown.add(pattern)
        yield from _row(f"{name} = {value!r}", meaning)


def _order_of_defaults(job: str) -> Callable[[str], tuple]:
    """Returns a sort key: fields without a section first, then sections in their order."""
    patterns = list(meanings(job))
    sections = list(dict.fromkeys(name.rpartition(".")[0] for name in patterns))

    def key(name: str) -> tuple:
        section, pattern = name.rpartition(".")[0], pattern_of(job, name)
        if pattern not in patterns:
            return bool(section), len(sections), section, 0
        place = sections.index(pattern.rpartition(".")[0])
        return bool(section), place, section, patterns.index(pattern)

    return key


def _flags(command: str) -> Iterator[str]:
    for flag in command_line.flags_of(command):
        if flag.value.startswith("["):
            yield from _row(f"--{flag.name}[={flag.value[1:]}", flag.meaning)
        else:
            value = f"={flag.value}" if flag.value else ""
            yield from _row(f"--{flag.name}{value}", flag.meaning)
    yield from _row("--config.FIELD=VALUE", "another value for a field of the config")


def _configs(command: str) -> Iterator[str]:
    for name in config_names():
        module = load_module(configs_folder() / f"{name}.py")
        if not command or command_line.is_for(command, module.get_config().job):
            variants = [f"{name}:{v}" if v else name for v in getattr(module, "VARIANTS", ())]
            yield from _row(name, (module.__doc__ or "").partition("\n")[0])
            yield from _row("", ", ".join(variants) or name)


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def _row(left: str, right: str) -> list[str]:
    """Puts `right` into a column beside `left`, or below it if `left` is too long."""
    lines = textwrap.wrap(right, _WIDTH - _COLUMN, break_on_hyphens=False) if right else []
    first = f"  {left}"
    if len(first) <= _COLUMN - 2 and lines:
        first = first.ljust(_COLUMN) + lines.pop(0)
    return [first.rstrip(), *(" " * _COLUMN + line for line in lines)]


def _titled(title: str, lines: Iterable[str]) -> str:
    return "\n".join((f"{title}:", *lines))


def _program(command: str) -> str:
    return f"nsneg {command}" if command else "python main.py"
