"""The shell commands of README, CONTRIBUTING and docs/, and what reads their command lines."""

import argparse
import contextlib
import re
import shlex
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from nsneg_jax import cli, command_line
from nsneg_jax.features import command as features_of_folder
from nsneg_jax.jobs import validation
from nsneg_jax.jobs.pretraining.validation import validate_pretraining

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
SHELLS = ("bash", "sh", "shell", "console")
# What a command of ours or of another program begins with. A block without a language is one of
# commands if its first line begins so.
OURS = re.compile(
    r"nsneg (?!\.\.\.)|make\b|python main\.py|\.venv/bin/|"
    r"python -m (nsneg_jax|data|benchmarks|experiments|examples|pytest)\b"
)
OTHERS = re.compile(
    r"pip |python3? -[mc] |export |sbatch |mpirun |gcloud |tfds |scontrol |"
    r"for |git |cd |source |\. "
)
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
INDENTED = re.compile(r"(?<=\n\n)((?: {4}.*\n)+)")
INLINE = re.compile(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)")
# modules whose command line begins with the program's name
_NAMED = {"benchmarks.program": ("program",), "benchmarks.scaling": ("scaling",)}


class Command(NamedTuple):
    """A command, its words, and where it stands."""

    page: str
    words: tuple[str, ...]

    @property
    def text(self) -> str:
        return " ".join(self.words)


def commands(page: Path) -> list[Command]:
    """Returns the commands of a page: of its blocks, and those of ours within lines."""
    text = page.read_text(encoding="utf-8")
    name = page.relative_to(ROOT).as_posix()
    found = []
    for _, language, block in FENCE.findall(text):
        if language in SHELLS or (not language and _of_shell(block)):
            found += _split(block)
    rest = FENCE.sub("", text)
    for block in INDENTED.findall(rest):
        if _of_shell(block):
            found += _split(block)
    for code in INLINE.findall(INDENTED.sub("", rest)):
        if OURS.match(code) and " " in code:
            found += _split(code.replace("\n", " "))
    # what a loop puts into its variable first
    values = dict(re.findall(r"\bfor (\w+) in (\w+)", text))
    return [
        Command(name, tuple(re.sub(r"\$(\w+)", lambda v: values.get(v[1], v[0]), w) for w in words))
        for words in found
    ]


def _of_shell(block: str) -> bool:
    first = block.strip().partition("\n")[0]
    return bool(OURS.match(first) or OTHERS.match(first))


def _split(block: str) -> Iterator[tuple[str, ...]]:
    """Yields the simple commands of a block, without comments, redirections and `...`."""
    block = re.sub(r"\\\n\s*|\n\s*(?=--)", " ", block)
    line = ""
    for part in block.splitlines():
        line += part
        try:
            words = _words(line)
        except ValueError:  # a quotation goes on in the next line
            line += "\n"
            continue
        yield from _simple(words)
        line = ""
    assert not line, f"no closing quotation: {line}"


def _words(line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|<>")
    lexer.whitespace_split = True
    return list(lexer)


def _simple(line: list[str]) -> Iterator[tuple[str, ...]]:
    words: list[str] = []
    into_file = False
    for word in [*line, ";"]:
        if into_file:
            into_file = False
        elif set(word) <= set("<>"):
            into_file = True
        elif not set(word) <= set(";&|"):
            words += [] if word == "..." else [word]
        else:
            words = words[1:] if words[:1] == ["do"] else words
            if words and words[0] not in ("for", "done", "wait"):
                yield tuple(words)
            words = []


class _Read(Exception):
    """Raised once a program has read its command line."""


def check(command: Command, folder: Path, monkeypatch) -> bool:
    """Reads a command line as its program does; returns whether the program is ours.

    The config of a job is validated too. Nothing is run.

    Raises:
        Exception: the program would refuse the command line.
    """
    words = [word.replace("python3", "python") for word in command.words]
    if "COMMAND" in words or words[-1] == "--source":
        return False  # a form, no command
    if words[0] == "make":
        _check_make(words[1:])
    elif words[:3] == ["python", "-m", "pytest"] or words[0].endswith("/pytest"):
        files = [word for word in words if word.startswith("tests")]
        assert all((ROOT / word.partition("::")[0]).exists() for word in files), files
    elif words[:2] == ["python", "main.py"]:
        _check_job(words[2:], "", folder, monkeypatch)
    elif words[0] == "nsneg":
        _check_nsneg(words[1:], folder, monkeypatch)
    elif words[:3] == ["python", "-m", "nsneg_jax"] and words[3:]:
        _check_nsneg(words[3:], folder, monkeypatch)
    elif words[:2] == ["python", "-m"] and OURS.match(command.text):
        _check_module(words[2], words[3:], monkeypatch)
    elif words[0] == "pip" and any("[" in word for word in words):
        _check_extras(words)
    else:
        return False
    return True


def _check_nsneg(words: list[str], folder: Path, monkeypatch) -> None:
    name, *rest = words
    if name in ("--help", "--version"):
        return
    assert name in cli.ABOUT, f"nsneg {name} is no command"
    if name == "prepare":
        assert not rest or rest[0] in cli.PREPARE, rest
        if rest:
            _check_module(f"data.{rest[0]}", rest[1:], monkeypatch)
    elif name == "features" and rest and features_of_folder.is_asked(rest):
        features_of_folder.parse(rest)
    elif name in cli.PROGRAMS:
        named_only = rest in ([], ["import"], ["export"]) or all(w.startswith("-") for w in rest)
        if not named_only:
            module, _, function = cli.PROGRAMS[name].partition(":")
            _with_words(getattr(import_module(module), function), rest, monkeypatch)
    elif rest:
        _check_job(rest, name, folder, monkeypatch)


def _check_job(words: list[str], name: str, folder: Path, monkeypatch) -> None:
    """Parses a job's command line and validates its config."""
    if "--self-test" in words:
        return
    helped = "--help" in words
    # paths of the page's machine, and what stands for a path
    kept = [word for word in words if not word.startswith("--workdir") and word != "--help"]
    kept = [word.replace("--config=configs/", f"--config={ROOT}/configs/") for word in kept]
    kept = [word for word in kept if not word.endswith("=...")]
    if kept in ([], ["--config=FILE"]) or (helped and kept == ["--config=linear"]):
        return
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(folder)
    planned = name == "plan"
    if not any(re.match("--config[= ]", word) for word in kept):
        return  # a part of a command, such as its last flags
    workdir = [] if planned else [f"--workdir={folder / 'run'}"]
    parsed = command_line.parse(["nsneg", *kept, *workdir], name)
    config = parsed.config
    if helped:
        return
    if config.job != "pretrain" and not config.pretrained:
        config.pretrained = "runs/patch"
    validate = {
        "pretrain": validate_pretraining,
        "linear": validation.validate_linear,
        "finetune": validation.validate_finetune,
        "knn": validation.validate_knn,
        "features": validation.validate_features,
        "evaluate": validation.validate_evaluate,
    }[config.job]
    validate(config, 1)


def _check_module(module: str, words: list[str], monkeypatch) -> None:
    """Reads the command line of a script that has a `main`."""
    if not (ROOT / Path(*module.split("."))).with_suffix(".py").exists():
        module = f"{module}.__main__"
    assert (ROOT / Path(*module.split("."))).with_suffix(".py").exists(), module
    if not words or module.startswith(("examples", "nsneg_jax")):
        return
    if module == "experiments.claim.__main__":
        module = "experiments.claim.command"
    module_object = import_module(module)
    function = getattr(module_object, "parse", module_object.main)
    monkeypatch.chdir(ROOT)
    _with_words(function, [*_NAMED.get(module, ()), *words], monkeypatch)


def _with_words(function, words: list[str], monkeypatch) -> None:
    """Calls a program's function until its arguments are parsed."""
    real = argparse.ArgumentParser.parse_args

    def stop(self, args=None, namespace=None):
        real(self, args, namespace)
        raise _Read

    with monkeypatch.context() as patched:
        patched.setattr(argparse.ArgumentParser, "parse_args", stop)
        patched.setattr(sys, "argv", ["program", *words])
        with contextlib.suppress(_Read):
            function(list(words))


def _check_make(words: list[str]) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    variables = set(re.findall(r"\b([A-Z][A-Z0-9_]*)\b", (ROOT / "Makefile").read_text()))
    for word in words:
        name, assigned, _ = word.partition("=")
        assert name in (variables if assigned else targets), f"make {word}"


def _check_extras(words: list[str]) -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for word in words:
        match = re.fullmatch(r"(?:\.|nsneg_jax)\[([\w,]+)\]", word)
        for extra in match[1].split(",") if match else ():
            assert extra in project["optional-dependencies"], word
