"""The training step compiled for devices that are not there, and what is read from the program.

Either for accelerators, where their compiler is installed, or for virtual devices of the CPU, as
many as the run would have: the program is then the partitioned one, with the exchanges that it
would do and the memory that each device would need. No array is made.
"""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from nsneg_jax.errors import RunError, UsageError
from nsneg_jax.jobs.pretrain import abstract_batch, build_method, compile_step, state_sharding
from nsneg_jax.jobs.validation import validate_pretraining
from nsneg_jax.methods import moco
from nsneg_jax.models.encoder import encoder_structure
from nsneg_jax.parallel import mesh
from nsneg_jax.planning.apart import run_apart
from nsneg_jax.planning.collectives import Collective, payload_by_kind
from nsneg_jax.planning.cost import Cost, compile_and_read
from nsneg_jax.planning.flops import flops_of
from nsneg_jax.planning.targets import Target

# batches on the devices beside the one in use, see `prefetch_to_devices`
_BATCHES_AHEAD = 1
# the exchanges and the memory are settled before the machine code is made, which nobody runs
_COMPILER_OPTIONS = {"xla_backend_optimization_level": 0}


class Program(NamedTuple):
    """The compiled step of one device of many; sizes in bytes.

    Attributes:
        parameters: number of them in one encoder.
        state, batch: what each step takes.
        temporary: activations and all else that a step needs meanwhile.
        total: the most that is there at once, with the batch that waits.
        flops: of one device in one step, by the compiler, or where it counts none those of matrix
            products and convolutions before it.
        exchanges: name -> collectives' part with that meaning, see `exchanges_by_meaning`.
        cost: what is read from the program.
        devices: how many there are of them.
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


class Step(NamedTuple):
    """The step before it is compiled: the method, shapes of state and batch, and the program."""

    method: moco.MoCo
    state: moco.TrainState
    batch: dict[str, jax.ShapeDtypeStruct]
    traced: jax.stages.Traced


def trace_step(config: ConfigDict, devices: Mesh) -> Step:
    """The step of a config over the devices.

    Raises:
        UsageError: the config cannot run on them.
    """
    validate_pretraining(config, devices.size)
    mesh.use_dtype(config.model.dtype)
    encoder, params, stats = encoder_structure(config.model)
    method = build_method(config, encoder, steps_per_epoch=1)
    # the queue would be drawn even for shapes alone
    small = dataclasses.replace(method, queue_size=1)
    state = jax.eval_shape(
        lambda p, s: moco.init_state(small, p, s, config.model.dim), params, stats
    )
    queue = (config.moco.queue_size, config.model.dim)
    state = state.replace(queue=jax.ShapeDtypeStruct(queue, state.queue.dtype))
    batch = abstract_batch(method, config.batch_size, config.data.image_size)
    return Step(method, state, batch, compile_step(method, devices).trace(state, batch))


def compile_for(config: ConfigDict, devices: int) -> Program:
    """Compiles the step of a config for that many virtual devices of the CPU.

    Raises:
        UsageError: the config cannot run on them, or JAX has started with fewer.
    """
    validate_pretraining(config, devices)
    split = mesh.data_mesh(_virtual_devices(devices))
    return _compile(config, split, _COMPILER_OPTIONS)


def compile_for_target(config: ConfigDict, target: Target) -> Program:
    """Compiles the step of a config for accelerators, in a process of its own.

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
    state_bytes = _bytes_on_a_device(step.state, state_sharding(step.method, split), devices)
    batch_bytes = _bytes(step.batch) // devices
    exchanges = {}
    if devices > 1:
        placed = dataclasses.replace(step.method, devices=split)
        exchanges = exchanges_by_meaning(cost.collectives, placed, step.state, config.batch_size)
    return Program(
        parameters=sum(leaf.size for leaf in jax.tree.leaves(step.state.params_q)),
        state=state_bytes,
        batch=batch_bytes,
        temporary=cost.total - state_bytes - batch_bytes,
        total=cost.total + _BATCHES_AHEAD * batch_bytes,
        # compilers for GPUs do not count them
        flops=cost.flops or flops_of(step.traced.jaxpr) / devices,
        exchanges=exchanges,
        cost=cost,
        devices=devices,
    )


def exchanges_by_meaning(
    collectives: list[Collective], method: moco.MoCo, state: moco.TrainState, batch_size: int
) -> dict[str, Collective]:
    """The collectives of a step by what they are for, each as one.

    Crops and embeddings are known by kind and dtype. Of the all-reduces, which the compiler joins,
    gradients and statistics have the sizes that the method gives them, and what is left is
    'metrics and the rest'. Where neither the devices nor the groups divide the other, the
    compiler repeats work in ways of its own, and the names are those of the kinds.
    """
    devices = method.devices.size
    spanned, uneven = devices // method.groups, devices % method.groups
    if uneven and method.groups % devices:
        kinds = payload_by_kind(collectives).items()
        return {kind: Collective(kind, (("", size),), devices, 1) for kind, size in kinds}

    gathered = {True: 0, False: 0}  # crops, others
    for c in collectives:
        if c.kind == "all-gather":
            gathered[c.arrays[0][0] == "u8"] += c.payload
    passes = 2 + len(method.alphas)
    statistics = _bytes(state.stats_q)
    reduced = {"gradients": _bytes(state.params_q)}
    if method.groups > 1:  # the only group's are everywhere
        reduced["running statistics"] = passes * statistics
    if method.shard_queue:
        dim, itemsize = state.queue.shape[1], state.queue.dtype.itemsize
        reduced["gradients of the embeddings"] = batch_size * dim * itemsize
    if spanned > 1:
        # mean and variance of every pass forward; of the queries' two sums a channel backward
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
            f"{len(devices)} of them. Make the plan in a process of its own, with main.py."
        )
    return devices[:count]


def _bytes(tree: object) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _bytes_on_a_device(state: moco.TrainState, sharding: moco.TrainState, devices: int) -> int:
    queue = _bytes(state.queue)
    part = queue // devices if not sharding.queue.is_fully_replicated else queue
    return _bytes(state) - queue + part
