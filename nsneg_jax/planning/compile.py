"""Compiles the training step for devices that are not present, and reads figures from the program.

It compiles for accelerators whose compiler is installed, or for virtual CPU devices, as many as the
run would have. The program is then partitioned, with the exchanges that it would do and the memory
that each device would need. No array is made.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from nsneg_jax import models
from nsneg_jax.errors import RunError, UsageError
from nsneg_jax.jobs import build
from nsneg_jax.jobs.pretraining.validation import validate_pretraining
from nsneg_jax.methods.method import Method
from nsneg_jax.parallel import mesh
from nsneg_jax.planning.apart import run_apart
from nsneg_jax.planning.collectives import Collective, payload_by_kind
from nsneg_jax.planning.cost import Cost, compile_and_read
from nsneg_jax.planning.flops import flops_of
from nsneg_jax.planning.targets import Target
from nsneg_jax.training.step import Placement, abstract_batch, compile_step, state_sharding

# Batches on the devices besides the one in use, see `prefetch_to_devices`.
_BATCHES_AHEAD = 1
# Exchanges and memory are fixed before the machine code, which is never run.
_COMPILER_OPTIONS = {"xla_backend_optimization_level": 0}


class Program(NamedTuple):
    """The compiled step of one device of many; sizes in bytes.

    Attributes:
        parameters: number of parameters of one encoder.
        state, batch: inputs of a step.
        temporary: activations and other temporary memory of a step.
        total: peak memory, including the waiting batch.
        flops: FLOPs of one device per step, by the compiler; if it counts none, or not those of
            all parts of the queries, of the matrix products and convolutions in the uncompiled
            program.
        exchanges: collectives by meaning, see `exchanges_by_meaning`.
        cost: costs read from the program.
        devices: number of devices.
        queue: the whole queue; 0 if the method has none.
        arranged: whether processes load crops in the orders of shuffling BN.
    """

    parameters: int
    state: int
    batch: int
    temporary: int
    total: int
    flops: float
    exchanges: dict[str, Collective]
    cost: Cost
    devices: int
    queue: int = 0
    arranged: bool = False


class Step(NamedTuple):
    """The step before compilation: method, placement, shapes of state and batch, and program."""

    method: Method
    placement: Placement
    state: Any
    batch: dict[str, jax.ShapeDtypeStruct]
    traced: jax.stages.Traced


def trace_step(config: ConfigDict, devices: Mesh) -> Step:
    """Traces the step of a config over the devices.

    Raises:
        UsageError: the config cannot run on them.
    """
    validate_pretraining(config, devices.size)
    mesh.use_dtype(config.model.dtype)
    encoder, params, stats = models.structure(**config.model)
    method = build.build_method(config, encoder, steps_per_epoch=1)
    placement = build.placement(config, method)
    state = jax.eval_shape(method.init, params, stats)
    batch = abstract_batch(method.views, config.batch_size, config.data.image_size, placement)
    traced = compile_step(method, devices, placement, state).trace(state, batch)
    return Step(method, placement, state, batch, traced)


def compile_for(config: ConfigDict, devices: int) -> Program:
    """Compiles the step of a config for that many virtual devices of the CPU.

    Raises:
        UsageError: the config cannot run on them, or JAX has started with fewer devices.
    """
    validate_pretraining(config, devices)
    split = mesh.data_mesh(_virtual_devices(devices))
    return _compile(config, split, _COMPILER_OPTIONS)


def compile_for_target(config: ConfigDict, target: Target) -> Program:
    """Compiles the step of a config for accelerators, in a separate process.

    Raises:
        UsageError: the config cannot run on them, or their compiler is not installed.
        RunError: the compiler fails.
    """
    target.check_installed()
    try:
        (program,) = run_apart(_compile_here, config, target, environment=target.environment())
    except RunError as error:
        raise RunError(f"step, for {target}: {error}") from error
    return program


def _compile_here(config: ConfigDict, target: Target) -> Iterator[Program]:
    yield _compile(config, mesh.data_mesh(target.devices()), {})


def _compile(config: ConfigDict, split: Mesh, options: dict[str, int]) -> Program:
    devices = split.size
    step = trace_step(config, split)
    cost = compile_and_read(step.traced.lower(), options)
    sharding = state_sharding(step.method, split, step.placement, step.state)
    state_bytes = _bytes_on_a_device(step.state, sharding)
    batch_bytes = _bytes(step.batch) // devices
    exchanges = {}
    if devices > 1:
        exchanges = exchanges_by_meaning(cost.collectives, step, config, devices)
    return Program(
        parameters=sum(leaf.size for leaf in jax.tree.leaves(step.state.params_q)),
        state=state_bytes,
        batch=batch_bytes,
        queue=sum(_bytes(getattr(step.state, name)) for name in step.method.queue_fields),
        arranged=step.placement.arranged,
        temporary=cost.total - state_bytes - batch_bytes,
        total=cost.total + _BATCHES_AHEAD * batch_bytes,
        flops=_compilers_flops(config, cost) or flops_of(step.traced.jaxpr) / devices,
        exchanges=exchanges,
        cost=cost,
        devices=devices,
    )


def _compilers_flops(config: ConfigDict, cost: Cost) -> float | None:
    # Compilers for GPUs do not count them, and others count the loop over parts as one turn.
    return cost.flops if config.optimizer.accumulate == 1 else None


def exchanges_by_meaning(
    collectives: list[Collective], step: Step, config: ConfigDict, devices: int
) -> dict[str, Collective]:
    """Groups the collectives of a step by purpose, one collective per purpose.

    Kind and dtype identify crops and embeddings. The compiler merges all-reduces; gradients and
    statistics have sizes known from the method, and the remainder is 'metrics and the rest'. If
    neither the number of devices nor the number of groups divides the other, the compiler repeats
    work unpredictably, and the names are the kinds.
    """
    groups, state = config.model.bn_groups, step.state
    spanned, uneven = devices // groups, devices % groups
    if uneven and groups % devices:
        kinds = payload_by_kind(collectives).items()
        return {kind: Collective(kind, (("", size),), devices, 1) for kind, size in kinds}

    gathered = {True: 0, False: 0}  # crops, others
    for c in collectives:
        if c.kind == "all-gather":
            gathered[c.arrays[0][0] == "u8"] += c.payload
    passes = 1 + step.method.key_passes
    encoder, *trees = models.structure(**config.model)
    statistics = _bytes(encoder.statistics(*trees))
    reduced = {"gradients": _bytes((state.params_q, getattr(state, "params_p", {})))}
    if groups > 1:  # with one group, every device has its statistics
        reduced["running statistics"] = passes * statistics
    if step.placement.share_queue:
        dim, itemsize = state.queue.shape[1], state.queue.dtype.itemsize
        reduced["gradients of the embeddings"] = config.batch_size * dim * itemsize
    if spanned > 1:
        # Forward, mean and variance per pass; backward, two sums per channel of the queries.
        reduced["statistics within groups"] = (passes + 1) * statistics
    whole = payload_by_kind(collectives)
    rest = whole.pop("all-reduce", 0) - sum(reduced.values())
    if rest < 0:  # summed up in bfloat16
        reduced = {"gradients and other sums": rest + sum(reduced.values())}
    else:
        reduced["metrics and the rest"] = rest
    whole.pop("all-gather", 0)

    rows = [("all-gather", "crops", gathered[True]), ("all-gather", "embeddings", gathered[False])]
    rows += [("all-reduce", name, size) for name, size in reduced.items()]
    rows += [(kind, kind, size) for kind, size in whole.items()]
    return {
        name: Collective(
            kind, (("", size),), spanned if name == "statistics within groups" else devices, 1
        )
        for kind, name, size in rows
        if size
    }


def _virtual_devices(count: int) -> list[jax.Device]:
    try:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:  # JAX has started already
        pass
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise UsageError(
            f"The plan is for {count} devices, but this process has started JAX with "
            f"{len(devices)}. Make the plan in a separate process, with main.py."
        )
    return devices[:count]


def _bytes(tree: object) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _bytes_on_a_device(state: Any, sharding: Any) -> int:
    """Returns the bytes of the state on one device."""
    size = 0
    for field in dataclasses.fields(state):
        place = getattr(sharding, field.name)
        parts = 1 if place.is_fully_replicated else place.num_devices
        size += _bytes(getattr(state, field.name)) // parts
    return size
