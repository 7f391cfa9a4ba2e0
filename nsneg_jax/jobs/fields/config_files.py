"""Config files: found by name or path, executed, and their faults said in one paragraph."""

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from ml_collections import ConfigDict

from nsneg_jax.errors import RunError, UsageError, printable
from nsneg_jax.files import user_path
from nsneg_jax.jobs.fields.field import shown

_LONGEST = 200  # characters of another error in a message
_MODULE = "config_config"  # its name while it is executed, as ml_collections has it


def configs_folder() -> Path:
    """Returns the folder of the named configs: installed with the package, or in the checkout."""
    installed = importlib.util.find_spec("nsneg_jax.configs")
    if installed is not None and installed.submodule_search_locations:
        return Path(next(iter(installed.submodule_search_locations)))
    return Path(__file__).parents[3] / "configs"


def config_names() -> list[str]:
    """Returns the names of the configs in `configs_folder`, sorted."""
    paths = configs_folder().glob("*.py")
    return sorted(path.stem for path in paths if not path.stem.startswith("_"))


def config_file(given: str) -> tuple[Path, str]:
    """Returns file and variant, with its colon, of a config given by name or path.

    Raises:
        UsageError: there is no such config.
    """
    name, colon, variant = given.partition(":")
    is_path = name.endswith(".py") or "/" in name
    path = user_path(name) if is_path else configs_folder() / f"{name}.py"
    if not name or not _is_file(path):
        raise UsageError(
            f"--config is {shown(given)}, but there is no "
            f"{'file' if is_path else 'config'} {shown(name)}. Give the path of a file "
            f"that ends in .py, or one of {', '.join(config_names())}."
        )
    if path.suffix != ".py":
        raise UsageError(
            f"--config is {shown(given)}, which is no Python file. Give the path of a "
            f"file that ends in .py, or one of {', '.join(config_names())}."
        )
    return path, colon + variant


def load_config(given: str) -> ConfigDict:
    """Executes a config file and returns the locked config of its variant.

    Args:
        given: name or path of a config, and its variant after a colon.

    Raises:
        UsageError: there is no such config or variant, or the file has a fault.
    """
    path, variant = config_file(given)
    module = load_module(path)
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        raise _fault(
            path, "has no function get_config", "Define `def get_config(variant: str = '')`"
        )
    arguments = [variant[1:]] if variant else []
    try:
        inspect.signature(get_config).bind(*arguments)
    except TypeError as error:
        if variant:
            text = f"has no variants, but {variant[1:]!r} is given"
            raise _fault(path, text, "Leave out the colon and what follows it") from error
        raise _fault(path, "needs a variant", "Give one as --config=FILE.py:VARIANT") from error
    config = _guarded(path, lambda: get_config(*arguments))
    if not isinstance(config, ConfigDict):
        raise _fault(
            path,
            f"returns {type(config).__name__} from get_config, not a ConfigDict",
            "Return one that nsneg_jax.jobs.defaults makes, as configs/patch.py does",
        )
    _check_values(path, config)
    return config.lock()


def _check_values(path: Path, config: ConfigDict, section: str = "") -> None:
    """Checks that every field has a value; placeholders have none."""
    for name in config:
        try:
            value = config[name]
        except Exception as error:
            text = f"gives no value to {section}{name}"
            raise _fault(path, text, "Give it one, in place of a placeholder") from error
        if isinstance(value, ConfigDict):
            _check_values(path, value, f"{section}{name}.")


def load_module(path: Path) -> ModuleType:
    """Executes a Python file.

    Raises:
        UsageError: the file cannot be read or executed; the message says in which line.
    """
    spec = importlib.util.spec_from_file_location(_MODULE, path)
    if spec is None or spec.loader is None:
        raise _fault(path, "cannot be loaded", "Give a file that ends in .py")
    module = importlib.util.module_from_spec(spec)
    loader = spec.loader
    before = sys.modules.get(_MODULE)
    sys.modules[_MODULE] = module  # dataclasses look themselves up there
    try:
        _guarded(path, lambda: loader.exec_module(module))
    except UsageError:
        if before is None:
            del sys.modules[_MODULE]
        else:
            sys.modules[_MODULE] = before
        raise
    return module


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long a name, or a null in it
        return False


def _guarded(path: Path, function: Callable[[], object]) -> object:
    """Calls a function of a config file; turns what it raises into UsageError."""
    try:
        return function()
    except (UsageError, RunError):
        raise
    except SyntaxError as error:
        text = f": `{error.text.strip()}`" if error.text else ""
        place = f"line {error.lineno}" if error.lineno else "some line"
        file = Path(error.filename) if error.filename else path
        raise _fault(file, f"is no Python in {place}, {error.msg}{text}", "Correct it") from error
    except (Exception, SystemExit) as error:
        lines = [each.lineno for each in traceback.extract_tb(error.__traceback__)
                 if each.filename == str(path)]  # fmt: skip
        place = f" in line {lines[-1]}" if lines else ""
        text = " ".join(str(error).split())
        text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
        what = f"{type(error).__name__}: {text}".rstrip(": .")
        raise _fault(path, f"failed{place} with {what}", "Correct the file") from error


def _fault(path: Path, what: str, mend: str) -> UsageError:
    return UsageError(f"The config file {printable(str(path))} {what}. {mend}.")
