"""The package's commands: `nsneg COMMAND` or `python -m nsneg_jax COMMAND`; main.py runs jobs.

Commands import what they need when they run, so that neither help nor a mistake waits for JAX.
"""

import ast
import functools
import importlib.util
import os
import runpy
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nsneg_jax
from nsneg_jax.errors import (
    EXPLAINED,
    STOPPED,
    UsageError,
    escape_output,
    tell,
)
from nsneg_jax.training import signals

if TYPE_CHECKING:
    from nsneg_jax.command_line import Command

JOBS = {
    "pretrain": "nsneg_jax.jobs.pretrain:pretrain",
    "linear": "nsneg_jax.jobs.linear:linear",
    "finetune": "nsneg_jax.jobs.finetune:finetune",
    "knn": "nsneg_jax.jobs.knn:knn",
    "features": "nsneg_jax.jobs.features:write_features",
    "evaluate": "nsneg_jax.jobs.evaluate:evaluate",
}
_STOPPABLE = ("pretrain", "linear", "finetune", "evaluate")  # these save and stop on a signal
PROGRAMS = {
    "report": "nsneg_jax.report.command:main",
    "compare": "nsneg_jax.comparison.command:main",
    "convert": "nsneg_jax.pytorch.command:program",
    "verify": "nsneg_jax.training.checkpoints.verify:main",
}
# One line per command, in the order of use.
ABOUT = {
    "prepare": "make data sets (ImageNet-100, textures, packed images) and check them",
    "plan": "say what a pre-training will need: memory, FLOPs, exchanges between devices",
    "pretrain": "train an encoder without labels, with or without non-semantic negatives",
    "linear": "train a linear probe on a frozen encoder",
    "finetune": "train an encoder and a classifier together, on all labels or a part of them",
    "knn": "classify images by their nearest neighbours in an encoder's features",
    "features": "embed a folder of images, or splits with their labels, into one file",
    "evaluate": "fill a row of the robustness table: a trained probe on many test sets",
    "report": "make tables, pictures and a page from what these jobs left",
    "compare": "say whether patch negatives help on your pictures: yes, no or undecided",
    "convert": "import PyTorch checkpoints; export ours for PyTorch, timm, the hub and plain JAX",
    "verify": "check that the values in checkpoints are those that were saved",
}
# Scripts of `nsneg prepare`, in data/.
PREPARE = ("imagenet100", "texture", "arrayrecord", "check")
_HELP = ("--help", "-h", "-help")


def entry() -> int | str:
    """Runs the program `nsneg`; returns the exit status."""
    signals.begin()
    arguments = sys.argv[1:]
    if arguments[:1] == ["report"] or set(arguments) & set(_HELP):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends a command that only prints
    return main(arguments)


def main(arguments: Sequence[str]) -> int | str:
    """Runs `nsneg` with its arguments.

    Returns:
        The exit status: 0 done, 75 stopped and can go on, 2 a user's mistake, 1 otherwise.
    """
    return _status(_dispatch, list(arguments))


def run_main(argv: Sequence[str]) -> int | str:
    """Runs main.py, whose config names the job; returns as `main`. `argv` begins with its name."""
    return _status(_run_job, list(argv[1:]), "")


def _status(function: Callable[..., int | str], *arguments: Any) -> int | str:
    escape_output()
    try:
        with signals.ended_by_signals("run the same command again"):
            return function(*arguments)
    except EXPLAINED as error:
        return tell(error)


def _dispatch(arguments: list[str]) -> int | str:
    name, *rest = arguments or [""]
    if name in ("help", *_HELP):
        print(overview())
        return 0
    if name in ("--version", "-version", "-V"):
        print(f"nsneg_jax {nsneg_jax.__version__}")
        return 0
    if name not in ABOUT:
        what = f"{name!r} is no command of nsneg" if name else "nsneg needs a command"
        raise UsageError(f"{what}. Give one of {', '.join(ABOUT)}; `nsneg --help` describes them.")
    if name == "prepare":
        return _prepare(rest)
    if name == "report":
        return _function(PROGRAMS[name])(rest, _measures())
    if name in PROGRAMS:
        return _function(PROGRAMS[name])(rest)
    if name == "features" and _function("nsneg_jax.features.command:is_asked")(rest):
        return _function("nsneg_jax.features.command:main")(rest)
    return _run_job(rest, name)


def _measures() -> Any:
    """Returns what measures runs for a report, imported when it is called."""

    def late(name: str) -> Callable:
        return lambda *arguments: _function(f"nsneg_jax.analysis.{name}")(*arguments)

    return _function("nsneg_jax.report.page.build:Measures")(
        similarities=late("similarities:measure"),
        gallery=late("gallery:of_encoder"),
        features=late("gallery:of_features"),
        conflicts=late("gallery:conflicts"),
    )


def _run_job(arguments: list[str], command: str) -> int:
    """Runs a job or makes a plan; `command` is the job, 'plan', or '' for main.py."""
    argv = ["main.py" if not command else f"nsneg {command}", *arguments]
    if any(word in _HELP for word in arguments):
        asked = [word for word in argv if word not in _HELP]
        _show(_function("nsneg_jax.help_text:of_job")(asked, command))
        return 0
    if command == "evaluate" and "--self-test" in arguments:
        if len(arguments) > 1:
            raise UsageError(
                "`nsneg evaluate --self-test` takes no other arguments. Every evaluation runs the "
                "test, so leave out --self-test to evaluate."
            )
        _function("nsneg_jax.jobs.evaluate:test_itself")()
        return 0
    parsed: Command = import_module("nsneg_jax.command_line").parse(argv, command)
    if parsed.config.get("job") not in JOBS:
        jobs = ", ".join(JOBS)
        raise UsageError(f"job is {parsed.config.get('job')!r}, but must be one of {jobs}.")
    if parsed.config.get("deterministic", False):
        _function("nsneg_jax.parallel.determinism:use_deterministic_operations")()
    if parsed.plan is not None:
        _function("nsneg_jax.parallel.compilation_cache:keep_programs")(parsed.compilation_cache)
        _function("nsneg_jax.planning.plan:show")(parsed.config, parsed.plan)
        return 0
    return _run(parsed)


def _run(parsed: "Command") -> int:
    """Runs the job of a command line; returns the exit status."""
    job = parsed.config.job
    stops: list[str] = []

    def on_stop(text: str) -> None:
        print(text, flush=True)
        stops.append(text)

    _function("nsneg_jax.training.workdir:refuse_links")(parsed.workdir)
    minutes = parsed.config.get("watchdog_minutes", 0)
    stacks = import_module("nsneg_jax.training.workdir").STACKS
    watching = _function("nsneg_jax.parallel.watchdog:watching")
    with (
        watching(minutes, parsed.workdir, stacks),
        _function("nsneg_jax.parallel.hosts:joined")(
            parsed.launch,
            _function("nsneg_jax.training.workdir:flatten")(parsed.config.to_dict()),
            parsed.workdir,
            parsed.compilation_cache,
            stoppable=job in _STOPPABLE,
        ),
    ):
        function = _function(JOBS[job])
        if job in _STOPPABLE:
            function = functools.partial(function, on_stop=on_stop)
        with _function("nsneg_jax.parallel.owner:owned_by_first")(parsed.workdir):
            function(parsed.config, parsed.workdir)
    return STOPPED if stops else 0


def _show(text: str) -> None:
    """Prints help, of which `| head` may take only the first lines."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python would flush the rest at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _prepare(arguments: list[str]) -> int | str:
    name, *rest = arguments or [""]
    package = _prepare_package()
    if name in _HELP:
        lines = (f"  {each.ljust(13)}{_first_line(f'{package}.{each}')}" for each in PREPARE)
        print("\n".join(("Usage: nsneg prepare SCRIPT ...; SCRIPT --help for each.", "", *lines)))
        return 0
    if name not in PREPARE:
        what = f"{name!r} is no script of `nsneg prepare`" if name else "It needs a script"
        raise UsageError(f"{what}. Give one of {', '.join(PREPARE)}.")
    before = sys.argv
    sys.argv = [f"nsneg prepare {name}", *rest]
    try:  # like `python -m`, because the scripts choose their devices only as programs
        runpy.run_module(f"{package}.{name}", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        return ended.code or 0
    finally:
        sys.argv = before
    return 0


def _prepare_package() -> str:
    """Returns the package with the scripts of `nsneg prepare`: installed, or in a checkout."""
    installed = "nsneg_jax.prepare"
    return installed if importlib.util.find_spec(installed) else "data"


def _first_line(module: str) -> str:
    """Returns the first line of a module's docstring, without importing the module."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(module)
    text = Path(spec.origin).read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]


def _function(name: str) -> Callable:
    module, function = name.split(":")
    return getattr(import_module(module), function)


def overview() -> str:
    """Returns the help of `nsneg`."""
    lines = [f"  {name.ljust(10)}{about}" for name, about in ABOUT.items()]
    return "\n".join(
        (
            "Robust contrastive pre-training with non-semantic negatives, in JAX/Flax.",
            "",
            "Usage: nsneg COMMAND ...",
            "",
            *lines,
            "",
            "  nsneg COMMAND --help                    its flags and configs",
            "  nsneg pretrain --config=patch --help    every field of a config",
            "  nsneg --version",
            "",
            "Exit status: 0 done; 75 stopped by a signal, give the same command again; 2 a mistake",
            "in the command or the data; 1 anything else.",
        )
    )
