"""The command line of a job: a config with a variant, overrides of its fields, a workdir."""

import difflib
import importlib.util
import re
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from nsneg_jax.errors import UsageError, printable
from nsneg_jax.files import expand, user_path
from nsneg_jax.parallel.launch import Launch
from nsneg_jax.planning import PlanOptions
from nsneg_jax.training.workdir import flatten

_CPU = "cpu"  # value of a bare --plan
# Jobs that share their fields, so that a config of one suits each.
_OF_PROBES = ("linear", "knn", "features")


class Flag(NamedTuple):
    """A flag that is no field of a config.

    Attributes:
        name: name without dashes.
        value: placeholder of the value, for the help.
        meaning: meaning, for the help.
        kind: 'string', 'boolean', 'integer', 'float', or the choices.
        default: default value.
    """

    name: str
    value: str
    meaning: str
    kind: str | tuple[str, ...] = "string"
    default: Any = None


CONFIG = Flag("config", "NAME[:VARIANT]", "a config by name, or FILE.py[:VARIANT]")
WORKDIR = Flag("workdir", "DIR", "folder for all that the run writes; give it again to resume")
CACHE = Flag(
    "compilation_cache",
    "DIR",
    "folder for compiled programs, or 'off'; by default the user's cache folder",
    default="",
)
# Fields of Launch.
LAUNCH = (
    Flag(
        "distributed",
        "auto|on|off",
        "auto: join other processes if a TPU pod, SLURM or Open MPI started several; on: join by "
        "JAX's own detection, or fail; off: run alone",
        ("auto", "on", "off"),
        "auto",
    ),
    Flag("coordinator", "HOST:PORT", "where process 0 listens", default=""),
    Flag("num_processes", "P", "number of processes", "integer"),
    Flag("process_id", "I", "number of this process, from 0", "integer"),
    Flag(
        "cpu_devices", "N", "compute on N virtual CPU devices; 0: the real devices", "integer",
        0,
    ),
)  # fmt: skip
# Of `nsneg evaluate`.
EVALUATE = (
    Flag("csv", "FILE", "rows like timm's, a file FILE-SET.csv per set; same as --config.csv"),
    Flag(
        "self-test", "", "only test the evaluation on pictures of known answers; needs no config",
        "boolean", False,
    ),
)  # fmt: skip
# Fields of PlanOptions, as in `nsneg plan`; main.py puts plan_ before the names.
PLAN = (
    Flag("devices", "N", "devices to plan for, by default 1", "integer"),
    Flag("images", "N", "images in the data set; by default from its name", "integer"),
    Flag("hosts", "N", "hosts of the devices; by default one per 8", "integer"),
    Flag("step_seconds", "S", "measured seconds per step; by default from its FLOPs", "float"),
)
TARGET = Flag("target", "CHIP:NUMBER", "accelerators to compile for, such as h100:8 or v5e:2x4")
MAIN_TARGET = Flag(
    "plan", "[CHIP:NUMBER]", "say what a pre-training will need, here or on accelerators"
)


class Command(NamedTuple):
    """A parsed command line."""

    config: ConfigDict
    workdir: Path | None  # None for a plan
    launch: Launch = Launch()
    plan: PlanOptions | None = None
    compilation_cache: str = ""  # a folder or 'off'; '' for the user's cache folder


def flags_of(command: str) -> tuple[Flag, ...]:
    """Returns the flags of 'plan', of a job, or, with '', of main.py."""
    if command == "plan":
        return (CONFIG, TARGET, *PLAN, CACHE)
    if command == "evaluate":
        return (CONFIG, WORKDIR, *EVALUATE, CACHE, *LAUNCH)
    if command:
        return (CONFIG, WORKDIR, CACHE, *LAUNCH)
    plan = (flag._replace(name=f"plan_{flag.name}") for flag in PLAN)
    return (CONFIG, WORKDIR, CACHE, *LAUNCH, MAIN_TARGET, *plan)


def usage(command: str) -> str:
    """Returns a line that shows how to call a command; '' is main.py."""
    if not command:
        return (
            "Usage: python main.py --config=FILE[:variant] --workdir=DIR [--config.field=value ...]"
        )
    where = "[--target=h100:8 ...]" if command == "plan" else "--workdir=DIR"
    return f"Usage: nsneg {command} --config=NAME[:VARIANT] {where} [--config.FIELD=VALUE ...]"


def parse(argv: list[str], command: str = "") -> Command:
    """Parses the command line of a job or a plan.

    Args:
        argv: the program's name, then its arguments.
        command: the job, or 'plan'; '' is main.py, whose config names the job.

    Raises:
        UsageError: a flag, config, variant or field is unknown, a value has the wrong type, the
            config belongs to another job, or config or workdir is missing.
    """
    values = _values(argv, command)
    if not values["config"].value:
        raise UsageError(f"--config is missing. {usage(command)}")
    config = values["config"].value
    plan = _plan(values, command)
    workdir = None
    if command != "plan" and values["workdir"].value:
        workdir = _workdir(values["workdir"].value)
    if workdir is None and plan is None:
        raise UsageError(f"--workdir is missing. {usage(command)}")
    if command not in ("", "plan"):
        is_set = "job" in config_flags.get_override_values(values["config"])
        _settle_job(config, command, is_set)
    if command == "evaluate" and _value(values, "csv"):
        config.csv = expand(_value(values, "csv"))
    launch = Launch()
    if command != "plan":
        launch = Launch(**{name: _value(values, name) for name in Launch._fields})
    return Command(config, workdir, launch, plan, _value(values, "compilation_cache"))


def _workdir(given: str) -> Path:
    try:
        given.encode("utf-8")
    except UnicodeEncodeError as error:  # checkpoints cannot be written there
        raise UsageError(
            f"--workdir is {printable(given)}, which is no UTF-8. Rename the folder, or give "
            "another."
        ) from error
    return user_path(given)


def read_config(argv: list[str], command: str = "") -> ConfigDict | None:
    """Reads the config of a command line that may lack the rest; None if it names no config."""
    return _values(argv, command)["config"].value


def _values(argv: list[str], command: str) -> flags.FlagValues:
    # --plan may have no value, which absl allows only for booleans.
    argv = [f"{word}={_CPU}" if re.fullmatch("--?plan", word) else word for word in argv]
    argv = _with_path(argv)
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, flag_values=values, sys_argv=argv)
    for flag in flags_of(command):
        if isinstance(flag.kind, tuple):
            flags.DEFINE_enum(flag.name, flag.default, flag.kind, "", flag_values=values)
        elif flag != CONFIG:
            define = getattr(flags, f"DEFINE_{flag.kind}")
            define(flag.name, flag.default, "", flag_values=values)
    try:
        rest = values(argv)
        config = values["config"].value
        if config is not None:
            config.lock()  # raises the OSError of a missing file
    except (AttributeError, KeyError) as error:  # ml_collections' errors for unknown fields
        raise UsageError(_unknown_field(argv, command)) from error
    except flags.UnrecognizedFlagError as error:
        raise UsageError(f"{_one_line(error)}. {usage(command)}") from error
    except (flags.Error, OSError) as error:
        raise UsageError(f"{_one_line(error)}. {_where_fields_are(command)}") from error
    if len(rest) > 1:
        raise UsageError(f"{rest[1]!r} is not a flag. {usage(command)}")
    if config is not None:
        texts = {name: v for name, v in flatten(config.to_dict()).items() if isinstance(v, str)}
        config.update_from_flattened_dict({name: expand(text) for name, text in texts.items()})
    return values


def _value(values: flags.FlagValues, name: str) -> Any:
    """Of a flag; each has a type of its own."""
    return values[name].value


def _plan(values: flags.FlagValues, command: str) -> PlanOptions | None:
    if command not in ("", "plan"):
        return None
    prefix, target = ("", "target") if command else ("plan_", "plan")
    given = {flag.name: _value(values, prefix + flag.name) for flag in PLAN}
    given = {name: value for name, value in given.items() if value is not None}
    chips = _value(values, target)
    if not command and not given and chips is None:
        return None
    options = PlanOptions(**given, target="" if chips in (None, _CPU) else chips)
    return options._replace(command=command) if command else options


def is_for(command: str, job: str) -> bool:
    """Returns whether a command takes the config of a job; linear, knn and features share one."""
    if command == "plan":
        return job == "pretrain"
    return command == job or {command, job} <= set(_OF_PROBES)


def _settle_job(config: ConfigDict, command: str, is_set: bool) -> None:
    """Sets the job of the command; raises UsageError if the config, or --config.job, differs.

    Args:
        config: locked config; its job may change among linear, knn and features.
        command: a job.
        is_set: whether --config.job is given.
    """
    job = config.get("job")
    if job != command and is_set:
        raise UsageError(
            f"`nsneg {command}` and --config.job={job} contradict each other. Leave out "
            f"--config.job, or run `nsneg {job}`."
        )
    if not is_for(command, job):
        raise UsageError(
            f"The config belongs to the job {job!r}, but `nsneg {command}` runs {command!r}. Run "
            f"`nsneg {job}`, or give another --config; `nsneg {command} --help` lists them."
        )
    config.job = command


def configs_folder() -> Path:
    """Returns the folder of the named configs: installed with the package, or in the checkout."""
    installed = importlib.util.find_spec("nsneg_jax.configs")
    if installed is not None and installed.submodule_search_locations:
        return Path(next(iter(installed.submodule_search_locations)))
    return Path(__file__).parents[1] / "configs"


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
    if not name or not path.is_file():
        raise UsageError(
            f"--config is {given!r}, but there is no {'file' if is_path else 'config'} {name!r}. "
            f"Give the path of a file that ends in .py, or one of {', '.join(config_names())}."
        )
    return path, colon + variant


def given_config(argv: list[str]) -> str | None:
    """Returns the value of --config in a command line; None without one."""
    places = _places_of_config(argv)
    return re.sub("^--?config=", "", argv[places[-1]]) if places else None


def _places_of_config(argv: list[str]) -> list[int]:
    """Returns the places in `argv` of --config=VALUE, or of VALUE after --config."""
    places = []
    for place, word in enumerate(argv):
        if re.match("--?config=", word):
            places.append(place)
        elif re.fullmatch("--?config", word) and place + 1 < len(argv):
            places.append(place + 1)
    return places


def _with_path(argv: list[str]) -> list[str]:
    """Replaces the name of a config in `argv` by the path of its file."""
    words = list(argv)
    for place in _places_of_config(argv):
        given = re.sub(r"\A--?config=", "", words[place])
        words[place] = words[place].removesuffix(given) + "".join(map(str, config_file(given)))
    return words


def _where_fields_are(command: str) -> str:
    program = f"nsneg {command}" if command else "python main.py"
    return f"`{program} --config=... --help` lists the fields with their values and meanings."


def _unknown_field(argv: list[str], command: str) -> str:
    """Returns the message for the first override in `argv` that the config does not have."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, flag_values=values, sys_argv=[])
    values([word for word in argv if not re.match(r"--?config\.", word)], known_only=True)
    fields = flatten(_value(values, "config").to_dict())
    for argument in argv:
        match = re.match(r"--?config\.([\w.]+)", argument)
        if match and match[1] not in fields:
            # The mistake is either in the letters or in the section.
            leaf = match[1].rpartition(".")[2]
            same_leaf = [field for field in fields if field.rpartition(".")[2] == leaf]
            nearest = (same_leaf or difflib.get_close_matches(match[1], fields, 1, cutoff=0))[0]
            return (
                f"The config has no field {match[1]!r}. The nearest is {nearest!r}, "
                f"which is {fields[nearest]!r} here. Correct the name; {_where_fields_are(command)}"
            )
    return f"A flag of the config names no field. {usage(command)}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
