"""The command line of a job: a config with a variant, overrides of its fields, a workdir."""

import re
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from nsneg_jax.errors import UsageError, printable
from nsneg_jax.files import check_writable, expand, user_path
from nsneg_jax.jobs.fields.config_files import load_config
from nsneg_jax.jobs.fields.field import shown, wrong
from nsneg_jax.jobs.fields.table import check_fields, field_of, nearest_of
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
    if command not in ("", "plan") and isinstance(config.get("job"), str):
        is_set = "job" in config_flags.get_override_values(values["config"])
        _settle_job(config, command, is_set)
    if command == "evaluate" and _value(values, "csv"):
        config.csv = expand(_value(values, "csv"))
    check_fields(config)
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
    path = user_path(given)
    check_writable(path, "--workdir", is_folder=True)
    return path


def read_config(argv: list[str], command: str = "") -> ConfigDict | None:
    """Reads the config of a command line that may lack the rest; None if it names no config."""
    return _values(argv, command)["config"].value


def _values(argv: list[str], command: str) -> flags.FlagValues:
    # --plan may have no value, which absl allows only for booleans.
    argv = [f"{word}={_CPU}" if re.fullmatch("--?plan", word) else word for word in argv]
    given = given_config(argv)
    config = None if given is None else load_config(given)
    words = argv if config is None else _overrides(_without_config(argv), config)
    values = flags.FlagValues()
    for flag in flags_of(command):
        if isinstance(flag.kind, tuple):
            flags.DEFINE_enum(flag.name, flag.default, flag.kind, "", flag_values=values)
        elif flag != CONFIG or config is None:
            define = getattr(flags, f"DEFINE_{flag.kind}")
            define(flag.name, flag.default, "", flag_values=values)
    try:
        if config is not None:
            config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=words)
        rest = values(words)
    except flags.UnrecognizedFlagError as error:
        if config is None and "config." in str(error):
            raise UsageError(f"--config is missing. {usage(command)}") from error
        meant = nearest_of(error.flagname, flatten(config.to_dict())) if config else ""
        such = f" Fields have the prefix config: --config.{meant}=VALUE." if meant else ""
        raise UsageError(f"{_one_line(error)}.{such} {usage(command)}") from error
    except flags.IllegalFlagValueError as error:
        text = _wrong_value(error, config)
        raise UsageError(f"{text} {_where_fields_are(command)}") from error
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
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


def _without_config(argv: list[str]) -> list[str]:
    """Returns a command line without --config."""
    places = set(_places_of_config(argv))
    taken = {place - 1 for place in places if re.fullmatch("--?config", argv[place - 1])} | places
    return [word for place, word in enumerate(argv) if place not in taken]


def _overrides(argv: list[str], config: ConfigDict) -> list[str]:
    """Checks the names of the fields that a command line sets, and leaves the last of each.

    A tuple given twice would be joined else.

    Raises:
        UsageError: the config has no such field.
    """
    fields = flatten(config.to_dict())
    sections = {name[: match.start()] for name in fields for match in re.finditer(r"\.", name)}
    last: dict[str, int] = {}
    words: list[list[str]] = []
    for word in argv:
        match = re.match(r"--?(?:no)?config\.([^=]*)", word)
        if match is None:
            # a value apart from its flag
            apart = words and re.match(r"--?config\.[^=]+\Z", words[-1][0]) and len(words[-1]) == 1
            if apart and not word.startswith("-"):
                words[-1].append(word)
            else:
                words.append([word])
            continue
        name = re.sub(r"\[['\"]?(\w+)['\"]?\]", r".\1", match[1])
        if name not in fields and name not in sections:
            nearest = nearest_of(name, fields)
            such = f" {nearest!r} is {shown(fields[nearest])} here." if nearest else ""
            raise UsageError(
                f"The config has no field {printable(repr(name))}.{such} Correct the name; "
                f"{_where_fields_are('')}"
            )
        if name in last:
            words[last[name]] = []
        last[name] = len(words)
        words.append([word])
    return [word for group in words for word in group]


def _where_fields_are(command: str) -> str:
    program = f"nsneg {command}" if command else "python main.py"
    return f"`{program} --config=... --help` lists the fields with their values and meanings."


def _wrong_value(error: flags.IllegalFlagValueError, config: ConfigDict | None) -> str:
    """Returns the message for a value that is not of its flag's type."""
    match = re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error), re.DOTALL)
    row = field_of(config.get("job", ""), match[1]) if match and config is not None else None
    if match is None or row is None:
        return f"{_one_line(error)}."
    return str(wrong(match[1], match[2], row.kind.expected, repr(row.value)))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
