"""Refuses a run that surely does not fit into memory, before the memory is asked for.

What is counted here is a lower bound of a few large parts; `nsneg plan` counts all. Without it, a
queue or batch of absurd size ends the process from outside Python.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from nsneg_jax.errors import UsageError
from nsneg_jax.methods import siamese
from nsneg_jax.methods.negatives import parse
from nsneg_jax.models import resnet
from nsneg_jax.models.transformers import vit

_FLOAT, _RGB = 4, 3  # bytes; channels
_COPIES = 3  # of the weights: query and key encoder, momentum
_STRIDES = {"imagenet": 2, "small": 1, "small_stride2": 2}  # of the first layer
_GROUPS = Path("/sys/fs/cgroup/memory.max")  # the limit of a container


def check_memory(config: ConfigDict, devices: Mesh) -> None:
    """Checks that queue, weights and batch of a run can be in memory at all.

    Args:
        config: validated config of any job; an image size that it leaves to another run counts as
            nothing.
        devices: devices that share the batch.

    Raises:
        UsageError: they cannot; the message names the field with the largest part.
    """
    if config.job == "pretrain":
        _check(config, _of_pretraining(config, devices), devices)
    else:
        side = config.data.image_size
        share = -(-config.batch_size // devices.size)
        _check(config, {"batch_size": share * side * side * _RGB * _FLOAT}, devices)


def _of_pretraining(config: ConfigDict, devices: Mesh) -> dict[str, int]:
    """Returns bytes per device by the field that decides them."""
    size = devices.size
    share = -(-config.batch_size // size)
    side, model = config.data.image_size, config.model
    has_queue = config.method not in siamese.NAMES
    of_two = config.moco.symmetric if has_queue else True  # views, each with negatives
    queue = config.moco.queue_size * model.dim * _FLOAT * has_queue
    negatives = config.negatives.num * ("patch" in config.negatives.kind)
    negatives += sum(part.count for part in parse(config.negatives.more))
    views = 2 + negatives * (1 + of_two)
    pixels = share * side * side * _RGB * views * _FLOAT
    mixed = config.mochi.pairs + config.mochi.with_query
    parts = {
        "moco.queue_size": queue // (size if config.moco.shard_queue else 1),
        "mochi.pairs": share * mixed * model.dim * _FLOAT,
        "batch_size": pixels,
    }
    # The backward pass needs the first layer's output, or what each block takes, of one part.
    kept = 0
    if model.arch in resnet.ARCHS:
        last = model.width * 2 ** (len(resnet.ARCHS[model.arch][1]) - 1)
        hidden = last * last if model.mlp else 0
        parts["model.width"] = (9 * last * last + hidden) * _FLOAT * _COPIES
        kept = (side // _STRIDES[model.stem]) ** 2 * model.width
    elif model.arch in vit.ARCHS:
        factor, _, blocks = vit.ARCHS[model.arch]
        blocks, features = model.blocks or blocks, factor * model.width
        parts["model.width"] = blocks * 12 * features**2 * _FLOAT * _COPIES
        kept = blocks * features * (side // model.token_size) ** 2
    parts["batch_size"] += (
        share // config.optimizer.accumulate * kept * (2 if model.dtype == "bfloat16" else _FLOAT)
    )
    return parts


def _check(config: ConfigDict, parts: Mapping[str, int], devices: Mesh) -> None:
    # Those of other processes do not say what memory they have.
    own = [each for each in devices.devices.flat if each.process_index == jax.process_index()]
    device = own[0]
    is_host = device.platform == "cpu"
    available = host_memory() if is_host else (device.memory_stats() or {}).get("bytes_limit")
    # Virtual devices of a CPU share its memory.
    needed = sum(parts.values()) * (len(own) if is_host else 1)
    if not available or needed <= available:
        return
    name = max(parts, key=lambda each: parts[each])
    value = config
    for section in name.split("."):
        value = value[section]
    share = round(100 * parts[name] / sum(parts.values()))
    place = "this machine" if is_host else f"a device ({device.device_kind})"
    raise UsageError(
        f"{name} is {value}, but must be smaller: the run needs more than {_gib(needed)}, "
        f"{share} % of it for this, and {place} has {_gib(available)}. Set it with "
        f"--config.{name}=VALUE, or use more devices; `nsneg plan` says what a run needs."
    )


def host_memory() -> int | None:
    """Returns the memory that this process may use, in bytes; None if unknown."""
    try:
        whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None
    try:
        limit = _GROUPS.read_text("ascii").strip()
    except OSError:
        return whole
    return min(whole, int(limit)) if limit.isdecimal() else whole


def _gib(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"
