"""The cost of a compiled program on a device, from its text and its compiler's report."""

import time
from collections.abc import Mapping
from typing import NamedTuple

import jax

from nsneg_jax.errors import RunError, UsageError
from nsneg_jax.planning.collectives import Collective, collectives_of
from nsneg_jax.planning.hlo import read_module
from nsneg_jax.planning.traffic import entry_bytes, traffic_of

LARGEST = 12  # kinds of instructions to name
# The GPU compiler's message when it would have to tune a matrix product on a card but has none, and
# the option that makes it use a library's products instead, as it also may on a card.
_NEEDS_TUNING = ("Couldn't find output tile sizes",)
WITHOUT_TUNING = {"xla_gpu_enable_triton_gemm": False}
_SHOWN = 600  # most characters to show of a compiler's message


class Cost(NamedTuple):
    """The cost of one run of a program on one device; sizes in bytes.

    Attributes:
        seconds: time of the compilation.
        arguments, results: inputs and outputs; `aliased` of the results share memory with inputs.
        temporary: temporary memory.
        moved, transposed: see `traffic`; `entry` is from its `entry_bytes`.
        unknown_loops: number of loops of unknown length, which `moved` counts once.
        compiler_bytes: bytes accessed by the compiler's count, which includes memory on the chip;
            None if it gives no count, likewise `flops`.
        collectives: collectives of the device.
        largest: (kind of instruction, executions, bytes) of those that move the most.
        options: compiler options that were needed, see `compile_and_read`.
    """

    seconds: float
    arguments: int
    results: int
    aliased: int
    temporary: int
    moved: int
    transposed: int
    entry: int
    unknown_loops: int
    compiler_bytes: float | None
    flops: float | None
    collectives: list[Collective]
    largest: list[tuple[str, int, int]]
    options: dict[str, bool | int]

    @property
    def total(self) -> int:
        """Peak memory."""
        return self.arguments + self.results - self.aliased + self.temporary


def compile_and_read(
    lowered: jax.stages.Lowered, options: Mapping[str, bool | int] | None = None
) -> Cost:
    """Compiles a program; avoids parts that the compiler would have to tune on a card.

    Args:
        lowered: the program; its devices need not be present.
        options: compiler options.

    Raises:
        UsageError: the program does not fit into the memory of a device.
        RunError: the compiler cannot compile it.
    """
    start = time.perf_counter()
    options = dict(options or {})
    try:
        try:
            compiled = _compiled(lowered, options)
        except jax.errors.JaxRuntimeError as error:
            if not any(text in str(error) for text in _NEEDS_TUNING):
                raise
            options |= WITHOUT_TUNING
            compiled = _compiled(lowered, options)
    except jax.errors.JaxRuntimeError as error:
        raise _refused(error) from error
    seconds = time.perf_counter() - start
    module = read_module(compiled.as_text() or "")
    traffic, memory = traffic_of(module), compiled.memory_analysis()
    if memory is None:
        raise RunError("The compiler does not say what memory the program takes.")
    own = compiled.cost_analysis() or {}
    return Cost(
        seconds=seconds,
        arguments=memory.argument_size_in_bytes,
        results=memory.output_size_in_bytes,
        aliased=memory.alias_size_in_bytes,
        temporary=memory.temp_size_in_bytes,
        moved=traffic.moved,
        transposed=traffic.transposed,
        entry=entry_bytes(module),
        unknown_loops=traffic.unknown_loops,
        compiler_bytes=own.get("bytes accessed"),
        flops=own.get("flops"),
        collectives=collectives_of(module),
        largest=traffic.largest(LARGEST),
        options=options,
    )


def _compiled(
    lowered: jax.stages.Lowered, options: Mapping[str, bool | int]
) -> jax.stages.Compiled:
    # the compilers take whole numbers too, which the types of JAX before 0.11 lack
    return lowered.compile(dict(options))  # type: ignore[arg-type, unused-ignore]


def _refused(error: jax.errors.JaxRuntimeError) -> UsageError | RunError:
    text = " ".join(str(error).split())[:_SHOWN].rstrip(". ")
    if "RESOURCE_EXHAUSTED" in text:
        return UsageError(
            f"The program does not fit into the memory of a device. The compiler says: {text}. "
            "Use optimizer.accumulate, a smaller batch_size, more devices or dtype=bfloat16."
        )
    return RunError(f"The compiler cannot compile the program: {text}")
