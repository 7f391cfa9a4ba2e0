"""Says what a pre-training run will need, before you rent a machine: `nsneg plan`.

It opens no data and writes no file. A plan for accelerators uses their own compiler if it is
installed.
"""

import math
import textwrap

from ml_collections import ConfigDict

from nsneg_jax import models
from nsneg_jax.errors import UsageError
from nsneg_jax.input.sources.arrays.source import published_images
from nsneg_jax.input.sources.source import open_source
from nsneg_jax.jobs.build import build_views
from nsneg_jax.planning import PlanOptions
from nsneg_jax.planning.compile import Program, compile_for, compile_for_target
from nsneg_jax.planning.cost import WITHOUT_TUNING
from nsneg_jax.planning.targets import Target, read_target

# A guess, for plans without a measured step time.
SUSTAINED_FLOPS = 50e12
_DEVICES_PER_HOST = 8
_IMAGENET100 = 126_689


def show(config: ConfigDict, options: PlanOptions) -> None:
    """Prints the plan of a pre-training run.

    Raises:
        UsageError: the config cannot run on the devices, or belongs to another job.
    """
    print(plan(config, options))


def plan(config: ConfigDict, options: PlanOptions) -> str:
    """Returns the text of a plan; see `show`."""
    if config.job != "pretrain":
        raise UsageError(
            f"job is {config.job!r}, but a plan needs 'pretrain'. Give a pre-training config, such "
            "as configs/patch.py."
        )
    for name in ("devices", "images", "hosts", "step_seconds"):
        least = 1 if name == "devices" else 0
        value = getattr(options, name)
        if not least <= value < math.inf:
            raise UsageError(
                f"{options.flag(name)} is {value}, but must be at least {least}, and finite. Give "
                "another value, or leave it out."
            )
    target = read_target(options.target) if options.target else None
    if target and options.devices > 1:
        raise UsageError(
            f"{options.flag('target')}={target} and {options.flag('devices')}={options.devices} "
            "both give the number of devices. Leave out one of them."
        )
    by_its_own = target is not None and target.is_installed
    if target is not None and by_its_own:
        program = compile_for_target(config, target)
    else:
        program = compile_for(config, target.chips if target else options.devices)
    options = options._replace(devices=program.devices)
    bound = None
    if target is not None and by_its_own:
        bound = least_seconds(program, target, config.model.dtype)
    lines = [_heading(program, target, by_its_own)]
    for title, rows in (
        ("run", _run(config, options)),
        ("memory of each device", _memory(config, program, target, by_its_own)),
        ("computation", _computation(config, program, options, bound)),
        ("exchanged by each device in a step", _exchanges(program)),
        ("input", _input(config, program, options, bound)),
    ):
        width = max(len(name) for name, _ in rows)
        lines += ["", title, *(f"  {name.ljust(width)}  {value}" for name, value in rows)]
    notes = _notes(config, program, options)
    if notes:
        lines += ["", "to consider"]
        lines += [
            textwrap.fill(
                note, 100, initial_indent="  - ", subsequent_indent="    ", break_on_hyphens=False
            )
            for note in notes
        ]
    return "\n".join(lines)


Rows = list[tuple[str, str]]


def _heading(program: Program, target: Target | None, by_its_own: bool) -> str:
    count = f"{program.devices} device{'s' * (program.devices > 1)}"
    seconds = f"{program.cost.seconds:.0f} s, without data"
    if target is None:
        return f"plan for {count}: compiled on CPU in {seconds}"
    if by_its_own:
        return f"plan for {target}, {count}: compiled by the chip's own compiler in {seconds}"
    return textwrap.fill(
        f"plan for {target}, {count}: compiled on CPU in {seconds}. The chip's own compiler is not "
        f"installed here; with it ({target.install}) memory and bytes are the chip's.",
        100,
        break_on_hyphens=False,
    )


def _number_of_images(config: ConfigDict, options: PlanOptions) -> tuple[int, str]:
    """Returns the number of training images and its origin; if unknown, 0 and what to do."""
    if options.images:
        return options.images, options.flag("images")
    data = config.data
    if data.source.startswith("shapes"):
        source = open_source(data.source, data.split, image_size=data.image_size)
        return len(source), "data.source"
    images = published_images(data.source, data.split)
    if images is not None:
        return images, "as published"
    if data.split == "train":
        for field in ("classes", "source"):
            name = data[field].lower()
            if "imagenet100" in name or "imagenet-100" in name:
                return _IMAGENET100, f"ImageNet-100's, by the name in data.{field}"
    return 0, f"give the number of images with {options.flag('images')}"


def _run(config: ConfigDict, options: PlanOptions) -> Rows:
    share, groups = config.batch_size // options.devices, config.model.bn_groups
    batch = f"{config.batch_size:,}: {share:,} per device"
    if models.has_batch_norm(**config.model):
        batch += f", {config.batch_size // groups:,} per batch-norm group ({groups} groups)"
    parts = config.optimizer.accumulate
    if parts > 1:
        batch += f", queries in {parts} parts of {config.batch_size // parts:,}"
    rows = [("batch", batch)]
    images, origin = _number_of_images(config, options)
    if not images:
        return [*rows, ("steps", f"not known: {origin}")]
    if images < config.batch_size:
        raise UsageError(
            f"There are {images} images ({origin}), fewer than one batch of {config.batch_size}. "
            "Set a smaller --config.batch_size or use more images."
        )
    steps = images // config.batch_size
    total = config.total_steps or steps * config.epochs
    rows.insert(0, ("images", f"{images:,} ({origin})"))
    text = f"{total:,}" + ("" if config.total_steps else f" in {config.epochs} epochs")
    left = images - steps * config.batch_size
    return [*rows, ("steps", f"{text}, {steps:,} per epoch, {left:,} images left out of each")]


def _memory(config: ConfigDict, program: Program, target: Target | None, by_its_own: bool) -> Rows:
    state = in_words(program.state)
    if program.queue:
        state += f" (the whole queue is {in_words(program.queue)})"
    compiler = "the chip's own compiler" if by_its_own else "XLA's compiler for CPU"
    rows = [
        ("state", state),
        ("batches", f"{in_words(2 * program.batch)} (one in use, one that waits)"),
        ("activations and temporary", f"{in_words(program.temporary)} (by {compiler})"),
        ("in all", in_words(program.total)),
    ]
    if target is None:
        return rows
    there = target.chip.memory * target.share(program.devices)
    verdict = f"{in_words(there)} ({target.chip.title})"
    if by_its_own:
        verdict += ": fits" if program.total <= there else ": does not fit"
    return [*rows, ("there is", verdict)]


def _computation(
    config: ConfigDict, program: Program, options: PlanOptions, bound: dict[str, float] | None
) -> Rows:
    images = program.flops * options.devices / config.batch_size
    rows = [
        ("parameters", f"{program.parameters:,} ({config.model.arch}, {config.model.dtype})"),
        ("FLOPs", f"{images / 1e9:,.2f} G per image, {program.flops / 1e12:,.3f} T per device"),
    ]
    if bound is not None:
        moved, transposed = in_words(program.cost.moved), in_words(program.cost.transposed)
        parts = ", ".join(f"{seconds:.3g} s for the {name}" for name, seconds in bound.items())
        rows += [
            ("moves in memory", f"{moved} per device, {transposed} of it transposes"),
            ("at the chip's peaks", parts),
        ]
    seconds, origin = _step_seconds(program, options, bound)
    at_most = "at most " if bound and not options.step_seconds else ""
    return [
        *rows,
        ("time of a step", f"{seconds:.3g} s {origin}"),
        ("speed", f"{at_most}{config.batch_size / seconds:,.0f} images/s"),
    ]


def least_seconds(program: Program, target: Target, dtype: str) -> dict[str, float]:
    """Returns the least seconds of a step for its bytes and for its FLOPs, at the chip's peaks.

    Exchanges are not included, because they may overlap.
    """
    share = target.share(program.devices)
    seconds = {"bytes": program.cost.moved / (share * target.chip.bandwidth)}
    if dtype in target.chip.flops:
        seconds["FLOPs"] = program.flops / (share * target.chip.flops[dtype])
    return seconds


def _exchanges(program: Program) -> Rows:
    if not program.exchanges:
        return [("nothing", "")]
    rows = [
        (name, f"{c.kind:<14} {in_words(c.payload):>9}, sends {in_words(c.sent):>9}")
        for name, c in program.exchanges.items()
    ]
    sent = sum(c.sent for c in program.exchanges.values())
    return [*rows, ("in all", f"{'':<24}  sends {in_words(sent):>9}")]


def _input(
    config: ConfigDict, program: Program, options: PlanOptions, bound: dict[str, float] | None
) -> Rows:
    hosts = options.hosts or math.ceil(options.devices / _DEVICES_PER_HOST)
    seconds, _ = _step_seconds(program, options, bound)
    decoded = config.batch_size * _decodes(config, program) / hosts
    crops = program.batch * options.devices / hosts
    return [
        ("hosts", f"{hosts}" + ("" if options.hosts else " (one for each 8 devices)")),
        ("each decodes", f"{decoded / seconds:,.0f} images/s at that time of a step"),
        ("each sends to its devices", f"{in_words(crops / seconds)}/s"),
    ]


def _decodes(config: ConfigDict, program: Program) -> int:
    """Returns how often a step decodes an image."""
    return _places(config) if program.arranged else 1


def _places(config: ConfigDict) -> int:
    """Returns the number of places of an image: query, key and each negative."""
    return 2 + build_views(config).num_negatives


def _step_seconds(
    program: Program, options: PlanOptions, bound: dict[str, float] | None
) -> tuple[float, str]:
    if options.step_seconds:
        return options.step_seconds, f"({options.flag('step_seconds')})"
    if bound:
        return max(
            bound.values()
        ), f"at least: a bound, no estimate ({options.flag('step_seconds')})"
    text = (
        f"of computation, if a device does {SUSTAINED_FLOPS / 1e12:.0f} TFLOP/s (a guess; "
        f"{options.flag('step_seconds')})"
    )
    return program.flops / SUSTAINED_FLOPS, text


def _notes(config: ConfigDict, program: Program, options: PlanOptions) -> list[str]:
    """Returns notes on settings that run, but perhaps not as intended."""
    devices = options.devices
    hosts = options.hosts or math.ceil(devices / _DEVICES_PER_HOST)
    notes = _notes_on_groups(config, program, devices)
    crops = program.exchanges.get("crops")
    gradients = program.exchanges.get("gradients")
    if crops and gradients and crops.sent > gradients.sent:
        notes.append(
            f"every device gets {in_words(crops.payload)} of crops, more to send than the "
            "gradients: moco.shuffle='data' loads them where they are needed, and decodes each "
            f"image {_places(config)} times"
        )
    if devices > 1 and not config.moco.shard_queue and program.queue > 256 * 2**20:
        size = in_words(program.queue)
        notes.append(f"every device holds the queue of {size}: moco.shard_queue=True splits it")
    if program.queue and config.moco.queue_size % config.batch_size:
        notes.append(
            f"moco.queue_size {config.moco.queue_size} is no multiple of batch_size, which the "
            "original requires and this program does not"
        )
    if config.batch_size % hosts:
        notes.append(f"batch_size {config.batch_size} cannot be shared evenly by {hosts} hosts")
    if program.cost.options.keys() >= WITHOUT_TUNING.keys():
        named = ", ".join(f"--{name}={str(on).lower()}" for name, on in WITHOUT_TUNING.items())
        notes.append(
            f"the compiler asked for a card to tune matrix products on, so that this is the "
            f"program of XLA_FLAGS={named}; where there is a card it may be another"
        )
    if config.optimizer.schedule == "step":
        late = [m for m in config.optimizer.milestones if m >= config.epochs]
        if late:
            notes.append(f"optimizer.milestones {late} are not reached in {config.epochs} epochs")
    return notes


def _notes_on_groups(config: ConfigDict, program: Program, devices: int) -> list[str]:
    """Returns notes on the groups of batch norm."""
    notes = []
    groups = config.model.bn_groups
    if not models.has_batch_norm(**config.model):
        if groups > 1:
            notes.append(
                f"the network has no batch norm, so that model.bn_groups {groups} only makes keys "
                "be shuffled: 1 gives the same results without that"
            )
        return notes
    if groups == 1 and config.batch_size > 1 and program.queue:
        notes.append(
            "model.bn_groups is 1: batch norm sees the whole batch, there is no shuffling, and the "
            "key encoder's statistics can give the key away"
        )
    if groups % devices and devices % groups:
        notes.append(
            f"{groups} batch-norm groups on {devices} devices: neither number divides the other, "
            "so that devices repeat each other's work (see the FLOPs) and exchange float images"
        )
    elif groups % devices:
        count = sum(c.times for c in program.cost.collectives if c.kind == "all-reduce")
        notes.append(
            f"{groups} batch-norm groups on {devices} devices: groups span devices, and a step has "
            f"{count} all-reduces, most of them one after another. With whole groups on a device "
            f"(a multiple of {devices}) it needs few, but is another run"
        )
    if config.batch_size // groups < 16:
        notes.append(
            f"a batch-norm group has {config.batch_size // groups} images, few for statistics"
        )
    return notes


def in_words(count: float) -> str:
    """Formats bytes in decimal units with three digits."""
    units = ("B", "kB", "MB", "GB", "TB")
    power = min(int(math.log10(max(count, 1)) // 3), 4)
    value = count / 1000**power
    return f"{value:.0f} {units[power]}" if power == 0 else f"{value:.3g} {units[power]}"
