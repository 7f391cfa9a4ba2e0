"""What a pre-training run will need, before a machine for it is rented: `main.py --plan`.

No data is opened, and no file is written.
"""

import math
import textwrap

from ml_collections import ConfigDict

from nsneg_jax.command_line import PlanOptions
from nsneg_jax.compiled_step import Program, compile_for
from nsneg_jax.errors import UsageError
from nsneg_jax.input.source import open_source
from nsneg_jax.pretrain import negative_weights

# without a measured time of a step: a guess
SUSTAINED_FLOPS = 50e12
_DEVICES_PER_HOST = 8
_IMAGENET100 = 126_689


def show(config: ConfigDict, options: PlanOptions) -> None:
    """Prints the plan of a pre-training run.

    Raises:
        UsageError: the config cannot run on the devices, or is of another job.
    """
    print(plan(config, options))


def plan(config: ConfigDict, options: PlanOptions) -> str:
    """The plan in words; see `show`."""
    if config.job != "pretrain":
        raise UsageError(
            f"--plan is for pre-training, but job is {config.job!r}. Give one of configs/moco.py, "
            "configs/patch.py and configs/texture.py."
        )
    for name in ("devices", "images", "hosts", "step_seconds"):
        least = 1 if name == "devices" else 0
        if getattr(options, name) < least:
            raise UsageError(
                f"--plan_{name} is {getattr(options, name)}, but must be at least {least}."
            )
    program = compile_for(config, options.devices)
    lines = [
        f"plan for {options.devices} device{'s' * (options.devices > 1)}: compiled on CPU in "
        f"{program.seconds:.0f} s, without data"
    ]
    for title, rows in (
        ("run", _run(config, options)),
        ("memory of each device", _memory(config, program)),
        ("computation", _computation(config, program, options)),
        ("exchanged by each device in a step", _exchanges(program)),
        ("input", _input(config, program, options)),
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


def _number_of_images(config: ConfigDict, options: PlanOptions) -> tuple[int, str]:
    """Training images and where the number is from; 0 and what to do where it is not known."""
    if options.images:
        return options.images, "--plan_images"
    data = config.data
    if data.source.startswith("shapes"):
        source = open_source(data.source, data.split, image_size=data.image_size)
        return len(source), "data.source"
    if data.split == "train":
        for field in ("classes", "source"):
            name = data[field].lower()
            if "imagenet100" in name or "imagenet-100" in name:
                return _IMAGENET100, f"ImageNet-100's, by the name in data.{field}"
    return 0, "give the number of images with --plan_images"


def _run(config: ConfigDict, options: PlanOptions) -> Rows:
    share, groups = config.batch_size // options.devices, config.model.bn_groups
    batch = f"{config.batch_size:,}: {share:,} a device, {config.batch_size // groups:,} a"
    rows = [("batch", f"{batch} batch-norm group ({groups} groups)")]
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
    return [*rows, ("steps", f"{text}, {steps:,} an epoch, {left:,} images of it left out")]


def _memory(config: ConfigDict, program: Program) -> Rows:
    queue = config.moco.queue_size * config.model.dim
    queue *= 8 if config.model.dtype == "float64" else 4
    return [
        ("state", f"{in_words(program.state)} (the whole queue is {in_words(queue)})"),
        ("batches", f"{in_words(2 * program.batch)} (one in use, one that waits)"),
        ("activations and temporary", f"{in_words(program.temporary)} (by XLA's compiler for CPU)"),
        ("in all", in_words(program.total)),
    ]


def _computation(config: ConfigDict, program: Program, options: PlanOptions) -> Rows:
    seconds, origin = _step_seconds(program, options)
    images = program.flops * options.devices / config.batch_size
    total = config.batch_size / seconds
    return [
        ("parameters", f"{program.parameters:,} ({config.model.arch}, {config.model.dtype})"),
        ("FLOPs", f"{images / 1e9:,.2f} G an image, {program.flops / 1e12:,.3f} T a device"),
        ("time of a step", f"{seconds:.3g} s {origin}"),
        ("speed", f"{total:,.0f} images/s"),
    ]


def _exchanges(program: Program) -> Rows:
    if not program.exchanges:
        return [("nothing", "")]
    rows = [
        (name, f"{c.kind:<14} {in_words(c.payload):>9}, sends {in_words(c.sent):>9}")
        for name, c in program.exchanges.items()
    ]
    sent = sum(c.sent for c in program.exchanges.values())
    return [*rows, ("in all", f"{'':<24}  sends {in_words(sent):>9}")]


def _input(config: ConfigDict, program: Program, options: PlanOptions) -> Rows:
    hosts = options.hosts or math.ceil(options.devices / _DEVICES_PER_HOST)
    seconds, _ = _step_seconds(program, options)
    decoded = config.batch_size * _decodes(config) / hosts
    crops = program.batch * options.devices / hosts
    return [
        ("hosts", f"{hosts}" + ("" if options.hosts else " (one for each 8 devices)")),
        ("each decodes", f"{decoded / seconds:,.0f} images/s at that time of a step"),
        ("each sends to its devices", f"{in_words(crops / seconds)}/s"),
    ]


def _decodes(config: ConfigDict) -> int:
    """How often an image is decoded for a step."""
    return _places(config) if config.moco.shuffle == "data" and config.model.bn_groups > 1 else 1


def _places(config: ConfigDict) -> int:
    """As query, key and each negative."""
    return 2 + len(negative_weights(config.negatives))


def _step_seconds(program: Program, options: PlanOptions) -> tuple[float, str]:
    if options.step_seconds:
        return options.step_seconds, "(--plan_step_seconds)"
    text = (
        f"of computation, if a device does {SUSTAINED_FLOPS / 1e12:.0f} TFLOP/s (a guess; "
        "--plan_step_seconds)"
    )
    return program.flops / SUSTAINED_FLOPS, text


def _notes(config: ConfigDict, program: Program, options: PlanOptions) -> list[str]:
    """What can run, but perhaps not as it is meant."""
    notes = []
    devices, groups = options.devices, config.model.bn_groups
    hosts = options.hosts or math.ceil(devices / _DEVICES_PER_HOST)
    if groups == 1 and config.batch_size > 1:
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
        count = sum(c.times for c in program.collectives if c.kind == "all-reduce")
        notes.append(
            f"{groups} batch-norm groups on {devices} devices: groups span devices, and a step has "
            f"{count} all-reduces, most of them one after another. With whole groups on a device "
            f"(a multiple of {devices}) it needs few, but is another run"
        )
    if config.batch_size // groups < 16:
        notes.append(
            f"a batch-norm group has {config.batch_size // groups} images, few for statistics"
        )
    crops = program.exchanges.get("crops")
    gradients = program.exchanges.get("gradients")
    if crops and crops.sent > gradients.sent:
        notes.append(
            f"every device gets {in_words(crops.payload)} of crops, more to send than the "
            "gradients: moco.shuffle='data' loads them where they are needed, and decodes each "
            f"image {_places(config)} times"
        )
    queue = config.moco.queue_size * config.model.dim * 4
    if devices > 1 and not config.moco.shard_queue and queue > 256 * 2**20:
        notes.append(
            f"every device holds the queue of {in_words(queue)}: moco.shard_queue=True splits it"
        )
    if config.moco.queue_size % config.batch_size:
        notes.append(
            f"moco.queue_size {config.moco.queue_size} is no multiple of batch_size, which the "
            "original asks for and this program does not need"
        )
    if config.batch_size % hosts:
        notes.append(f"batch_size {config.batch_size} cannot be shared evenly by {hosts} hosts")
    if config.optimizer.schedule == "step":
        late = [m for m in config.optimizer.milestones if m >= config.epochs]
        if late:
            notes.append(f"optimizer.milestones {late} are not reached in {config.epochs} epochs")
    return notes


def in_words(count: float) -> str:
    """Bytes in decimal units, three digits."""
    units = ("B", "kB", "MB", "GB", "TB")
    power = min(int(math.log10(max(count, 1)) // 3), 4)
    value = count / 1000**power
    return f"{value:.0f} {units[power]}" if power == 0 else f"{value:.3g} {units[power]}"
