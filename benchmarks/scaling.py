"""Estimates weak scaling from what the compiled steps of 8 to 512 devices compute and exchange.

    python -m benchmarks.scaling --config=configs/patch.py
    python -m benchmarks.scaling --config=configs/patch.py --images=64 --devices=8,64,512 \
        --gigabytes=600,50 --teraflops=50

Prints a Markdown table. Each device has `--images` images and its own batch-norm group, and the
step is compiled for all of them as virtual CPU devices. Nothing runs: computing takes FLOPs /
`--teraflops`, exchanging takes the bytes that each device sends (by ring algorithms) /
`--gigabytes`, without latency or overlap. Efficiency is computing's fraction of the sum; overlap
would improve it, latency and contention would lower it.
"""

import sys
from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict, config_flags

from nsneg_jax.errors import UsageError, tell
from nsneg_jax.planning.compile import Program, compile_for
from nsneg_jax.planning.plan import in_words

QUEUE_SIZE = 65536  # holds the keys of a step on 512 devices


def scaled(config: ConfigDict, devices: int, images: int, shuffle: str) -> ConfigDict:
    """Returns the config with `images` images and one batch-norm group per device."""
    config = config.copy_and_resolve_references()
    config.batch_size = devices * images
    config.model.bn_groups = devices
    config.moco.update(queue_size=QUEUE_SIZE, shuffle=shuffle)
    return config


def row(
    program: Program, devices: int, shuffle: str, links: Sequence[float], flops: float
) -> list[str]:
    """Returns the cells of a compiled step; links in bytes/s, flops in FLOP/s per device."""
    computing = program.flops / flops
    sent = {name: c.sent for name, c in program.exchanges.items()}
    total = sum(sent.values())
    cells = [
        str(devices),
        shuffle,
        f"{program.total / 1e9:.1f}",
        f"{1e3 * computing:.0f}",
        *(in_words(sent.get(name, 0)) for name in ("crops", "gradients")),
        in_words(total - sent.get("crops", 0) - sent["gradients"]),
    ]
    for link in links:
        exchanging = total / link
        efficiency = computing / (computing + exchanging)
        cells.append(f"{1e3 * exchanging:.1f} ms, {100 * efficiency:.0f} %")
    return cells


def table(config: ConfigDict, options: flags.FlagValues) -> list[str]:
    """Returns lines of Markdown."""
    links = [float(link) for link in options.gigabytes]
    head = ["devices", "shuffle", "memory, GB", "computing, ms", "sends: crops", "gradients"]
    head += ["the rest", *(f"exchanging at {link:g} GB/s, efficiency" for link in links)]
    rates = [1e9 * link for link in links]
    rows = []
    # The largest first, because JAX starts with as many virtual devices as the first needs.
    for count in sorted(map(int, options.devices), reverse=True):
        for shuffle in ("data", "device"):
            program = compile_for(scaled(config, count, options.images, shuffle), count)
            rows.append(row(program, count, shuffle, rates, 1e12 * options.teraflops))
    lines = [head, ["---"] * len(head), *reversed(rows)]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def parse(argv: Sequence[str]) -> flags.FlagValues:
    """Parses the options; `argv` begins with the program's name."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, flag_values=values, sys_argv=argv)
    flags.DEFINE_list("devices", ["8", "64", "512"], "", flag_values=values)
    flags.DEFINE_list("gigabytes", ["600", "50"], "of each device's link", flag_values=values)
    flags.DEFINE_integer("images", 64, "a device", flag_values=values)
    flags.DEFINE_float("teraflops", 50.0, "that a device sustains", flag_values=values)
    try:
        values(argv)
    except flags.Error as error:
        raise UsageError(str(error)) from error
    if values.config is None:
        raise UsageError("--config is missing. Give --config=configs/patch.py or another one.")
    return values


def main(argv: Sequence[str]) -> int:
    """Returns the exit status: 0 done, 2 a mistake of the user's."""
    try:
        options = parse(argv)
        print("\n".join(table(options.config, options)))
    except UsageError as error:
        return tell(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
