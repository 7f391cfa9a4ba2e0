"""The command line of main.py: a config file with a variant, overrides of its fields, a workdir."""

import difflib
import re
from pathlib import Path
from typing import NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from nsneg_jax.errors import UsageError
from nsneg_jax.parallel.launch import Launch
from nsneg_jax.training.workdir import flatten

_CPU = "cpu"  # what --plan stands for without a value
USAGE = "Usage: python main.py --config=FILE[:variant] --workdir=DIR [--config.field=value ...]"


class PlanOptions(NamedTuple):
    """What a plan is made for; see docs/planning.md.

    `devices` to plan for; `target`, accelerators by name in their place, or ''. The others may be
    0: `images` of the data set is then found from its name, `hosts` is one for each 8 devices,
    `step_seconds` is what the FLOPs take at 50 TFLOP/s, or of a target the least it can take.
    """

    devices: int = 1
    images: int = 0
    hosts: int = 0
    step_seconds: float = 0.0
    target: str = ""


class Command(NamedTuple):
    """What the user asked for."""

    config: ConfigDict
    workdir: Path | None  # None where a plan is asked for
    launch: Launch = Launch()
    plan: PlanOptions | None = None
    compilation_cache: str = ""  # a folder or 'off'; '' for the user's cache folder


def parse(argv: list[str]) -> Command:
    """Parses `argv`, program name first.

    Raises:
        UsageError: an unknown flag, file, variant or field, a value of the wrong type, or no
            config or workdir.
    """
    # a flag that may go without a value, which absl knows of yes and no only
    argv = [f"{word}={_CPU}" if re.fullmatch("--?plan", word) else word for word in argv]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, flag_values=values, sys_argv=argv)
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    flags.DEFINE_string("plan", None, "", flag_values=values)
    for name in ("devices", "images", "hosts"):
        flags.DEFINE_integer(f"plan_{name}", None, "", flag_values=values)
    flags.DEFINE_float("plan_step_seconds", None, "", flag_values=values)
    flags.DEFINE_enum("distributed", "auto", ["auto", "on", "off"], "", flag_values=values)
    flags.DEFINE_string("coordinator", "", "", flag_values=values)
    flags.DEFINE_integer("num_processes", None, "", flag_values=values)
    flags.DEFINE_integer("process_id", None, "", flag_values=values)
    flags.DEFINE_integer("cpu_devices", 0, "", flag_values=values)
    flags.DEFINE_string("compilation_cache", "", "", flag_values=values)
    try:
        rest = values(argv)
        if values["config"].value is not None:
            values["config"].value.lock()  # raises the OSError of a file that was not found
    except (AttributeError, KeyError) as error:  # ml_collections' ways to say: no such field
        raise UsageError(_unknown_field(argv)) from error
    except flags.UnrecognizedFlagError as error:
        raise UsageError(f"{_one_line(error)}. {USAGE}") from error
    except (flags.Error, OSError) as error:
        raise UsageError(
            f"{_one_line(error)}. The fields, their types and meanings are in the config file."
        ) from error
    if len(rest) > 1:
        raise UsageError(f"{rest[1]!r} is not a flag. {USAGE}")
    target = values["plan"].value
    given = {name: values[f"plan_{name}"].value for name in PlanOptions._fields[:-1]}
    given = {name: value for name, value in given.items() if value is not None}
    planned = None
    if given or target is not None:
        planned = PlanOptions(**given, target="" if target in (None, _CPU) else target)
    for name in ("config", "workdir") if planned is None else ("config",):
        if not values[name].value:
            raise UsageError(f"--{name} is missing. {USAGE}")
    workdir = Path(values["workdir"].value) if values["workdir"].value else None
    launch = Launch(**{name: values[name].value for name in Launch._fields})
    cache = values["compilation_cache"].value
    return Command(values["config"].value, workdir, launch, planned, cache)


def _unknown_field(argv: list[str]) -> str:
    """The message for the first override in `argv` that the config does not have."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, flag_values=values, sys_argv=[])
    values([word for word in argv if not re.match(r"--?config\.", word)], known_only=True)
    fields = flatten(values["config"].value.to_dict())
    for argument in argv:
        match = re.match(r"--?config\.([\w.]+)", argument)
        if match and match[1] not in fields:
            # the slip is in the letters or in the section
            leaf = match[1].rpartition(".")[2]
            same_leaf = [field for field in fields if field.rpartition(".")[2] == leaf]
            nearest = (same_leaf or difflib.get_close_matches(match[1], fields, 1, cutoff=0))[0]
            return (
                f"The config has no field {match[1]!r}. The nearest is {nearest!r}, "
                f"which is {fields[nearest]!r} here. Correct the name; all fields are in the "
                "config file."
            )
    return f"A flag of the config names no field. {USAGE}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
