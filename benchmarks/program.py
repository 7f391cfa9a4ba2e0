"""Reports what programs cost on absent accelerators; prints one JSON line per program.

    python -m benchmarks.program --target=h100:1 --config=configs/patch.py
    python -m benchmarks.program --target=v5e:2x4 --config=configs/patch.py \
        --config.model.dtype=bfloat16
    python -m benchmarks.program --target=h100:1 --program=evaluate --config=configs/evaluate.py

The program is the job's own, compiled by the accelerator's compiler. This needs JAX's package for
it (`jax[cuda13]` or `jax[tpu]`), but no accelerator. Targets: h100:N, or a TPU slice by v4, v5e,
v5p or v6e and its topology. Programs, with the config of their job: step and texture
(configs/moco.py, patch.py, texture.py ...), probe, knn and features (configs/linear.py), finetune
(configs/finetune.py), evaluate (configs/evaluate.py). The latter five read the encoder of
`--encoder=configs/patch.py`, whose fields are set by flags such as --encoder.model.arch=resnet18,
and have `--classes=100`. knn is the search for neighbours; evaluate has every corruption, once for
severities that share a program.

Fields of a line; sizes are of one device and one run of the program, a GB is 10^9 bytes:

* `target`, `devices`, `program`, `config`; `compile_seconds`.
* `arguments_GB`, `temporary_GB`: memory, as planned by the compiler.
* `moved_GB`: read from and written to the device's main memory by the instructions at the top
  level, including loops; `transposed_GB`: the part of it that changes the order of values.
  nsneg_jax/planning/traffic.py says what counts. `unknown_loops`: loops in it that count once,
  because their length depends on data.
* `entry_GB`: a rougher count, of the entry alone, with all operands and results complete and each
  loop as one instruction. Compare it only with itself.
* `compiler_bytes_GB`, `flops`: the compiler's own counts, null if it gives none (GPUs). Its bytes
  include accesses to memory on the chip.
* `collectives`: grouped by kind and dtype, with the bytes of their results.
* `largest`: kinds of instructions that move the most.
* `flags`: compiler flags beyond the defaults. `fell_back` is true if the compiler needed a card to
  tune a matrix product, which these flags avoid.

Exit status: 0 done, 1 the compiler failed or crashed, 2 a user's mistake.
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from configs import patch
from nsneg_jax.errors import RunError, UsageError, tell
from nsneg_jax.planning.cost import Cost
from nsneg_jax.planning.programs import PROGRAMS, costs
from nsneg_jax.planning.targets import Target, read_target


class Options(NamedTuple):
    """What to compile: see the module."""

    target: Target
    program: str
    config: ConfigDict
    config_name: str
    encoder: ConfigDict
    classes: int


def parse(argv: Sequence[str]) -> Options:
    """Reads the command line, program name first.

    Raises:
        UsageError: a flag or value is invalid, or target or config is missing.
    """
    values = flags.FlagValues()
    try:
        for name in ("config", "encoder"):
            config_flags.DEFINE_config_file(name, None, flag_values=values, sys_argv=argv)
        flags.DEFINE_string("target", None, "", flag_values=values)
        flags.DEFINE_enum("program", "step", PROGRAMS, "", flag_values=values)
        flags.DEFINE_integer("classes", 100, "", lower_bound=2, flag_values=values)
        rest = values(argv)
        config, encoder = values["config"].value, values["encoder"].value
        for each in filter(None, (config, encoder)):
            each.lock()  # raises the OSError of a missing file
    except (AttributeError, KeyError) as error:  # ml_collections' errors for unknown fields
        raise UsageError(
            f"A config has no field {error}. All fields, their types and meanings are in its file."
        ) from error
    except (flags.Error, OSError) as error:
        raise UsageError(" ".join(str(error).split())) from error
    if len(rest) > 1:
        raise UsageError(f"{rest[1]!r} is not a flag. Flags are --target, --config, --program ...")
    for name, example in (("target", "h100:1"), ("config", "configs/patch.py")):
        if not values[name].value:
            raise UsageError(f"--{name} is missing. Give one, such as --{name}={example}.")
    given: dict[str, Any] = values.flag_values_dict()
    return Options(
        target=read_target(given["target"]),
        program=given["program"],
        config=config,
        config_name=next(re.sub("-+config=", "", w) for w in argv if re.match("-+config=", w)),
        encoder=encoder or patch.get_config(),
        classes=given["classes"],
    )


def line(options: Options, name: str, devices: int, cost: Cost) -> dict[str, Any]:
    """Returns the fields of a program's line."""
    return {
        "benchmark": "program",
        "target": str(options.target),
        "devices": devices,
        "program": name,
        "config": options.config_name,
        "compile_seconds": round(cost.seconds, 1),
        "arguments_GB": _gigabytes(cost.arguments),
        "temporary_GB": _gigabytes(cost.temporary),
        "moved_GB": _gigabytes(cost.moved),
        "transposed_GB": _gigabytes(cost.transposed),
        "entry_GB": _gigabytes(cost.entry),
        "unknown_loops": cost.unknown_loops,
        "compiler_bytes_GB": _gigabytes(cost.compiler_bytes),
        "flops": cost.flops,
        "collectives": _collectives(cost),
        "largest": [
            {"kind": kind, "count": count, "GB": _gigabytes(size)}
            for kind, count, size in cost.largest
        ],
        "flags": [f"--{name}={str(value).lower()}" for name, value in cost.options.items()],
        "fell_back": bool(cost.options),
    }


def _collectives(cost: Cost) -> list[dict[str, Any]]:
    count, size = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for collective in cost.collectives:
        for dtype in {dtype for dtype, _ in collective.arrays}:
            count[collective.kind, dtype] += collective.times
        for dtype, each in collective.arrays:
            size[collective.kind, dtype] += collective.times * each
    return [
        {"kind": kind, "dtype": dtype, "count": number, "bytes": size[kind, dtype]}
        for (kind, dtype), number in count.items()
    ]


def _gigabytes(size: float | None) -> float | None:
    return None if size is None else float(f"{size / 1e9:.4g}")


def main(argv: Sequence[str]) -> int:
    """Returns the exit status."""
    try:
        options = parse(argv)
        arguments = options.config, options.target, options.encoder.model, options.classes
        for name, devices, cost in costs(options.program, *arguments):
            print(json.dumps(line(options, name, devices, cost), allow_nan=False), flush=True)
    except (UsageError, RunError) as error:
        return tell(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
