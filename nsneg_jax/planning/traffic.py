"""Counts what a compiled program reads from and writes to the device's main memory, from its HLO.

An instruction at the top level (of the entry, and of the bodies of loops, branches and calls) reads
its operands and writes its results; the inside of a fusion stays on the chip. The count is bytes of
values, without padding, of arrays in main memory. On TPUs, arrays that the compiler put into vector
memory do not count.

* Parameters, constants, tuples and their elements, bitcasts and barriers move nothing.
* A slice or gather, alone or inside a fusion, reads what it takes. Inside a fusion this also holds
  if elementwise operations come between the operand and the slice. Several slices of an operand
  read at most the whole operand.
* A dynamic-update-slice or scatter, alone or as the result of a fusion, works in place: it writes
  the update and does not read the rest. A scatter also reads what it adds to.
* A loop counts as often as it runs; of branches, only the one that moves the most counts. A loop of
  unknown length counts once and is reported.
* Asynchronous pairs count once. So does a collective that TPU compilers spread over fusions.
* Workspaces of library calls count as written.

`transposed` counts what moves in transposes, in copies between different layouts, and in fusions
with a result that is a transpose, or elementwise operations on one.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from nsneg_jax.planning.fusion import TAKES, UPDATES, Fusion, reorders, update_operands
from nsneg_jax.planning.hlo import Array, Computation, Instruction, Module, read_module, trip_count

_FREE = frozenset((
    "parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all",
    "add-dependency", "partition-id", "replica-id", "opt-barrier", "domain",
))  # fmt: skip
# Calls of TPU compilers that only describe a buffer.
_FREE_CALLS = ("AllocateBuffer", "ConcatBitcast", "AssumeGatherIndicesInBound")


class Move(NamedTuple):
    """An instruction that moves data.

    Attributes:
        kind: opcode and name without numbers, such as 'fusion:loop_add_fusion'.
        times: executions per run of the program.
        read, written: bytes per execution.
        transposes: whether it counts as transposed, see the module.
    """

    kind: str
    times: int
    read: int
    written: int
    transposes: bool

    @property
    def total(self) -> int:
        """Bytes in one run of the program."""
        return self.times * (self.read + self.written)


class Traffic(NamedTuple):
    """The moves of a program, and its number of loops of unknown length."""

    moves: list[Move]
    unknown_loops: int

    @property
    def moved(self) -> int:
        """Bytes read and written in one run."""
        return sum(move.total for move in self.moves)

    @property
    def transposed(self) -> int:
        """The part of `moved` that transposes."""
        return sum(move.total for move in self.moves if move.transposes)

    def largest(self, count: int) -> list[tuple[str, int, int]]:
        """Returns (kind, executions, bytes) of the kinds that move the most, largest first."""
        total: Counter[str] = Counter()
        times: Counter[str] = Counter()
        for move in self.moves:
            total[move.kind] += move.total
            times[move.kind] += move.times
        return [(kind, times[kind], size) for kind, size in total.most_common(count)]


def read_traffic(hlo: str) -> Traffic:
    """Reads the moves of a compiled program.

    Args:
        hlo: text from `jax.stages.Compiled.as_text()`.

    Raises:
        ValueError: the text is no HLO module.
    """
    return traffic_of(read_module(hlo))


def traffic_of(module: Module) -> Traffic:
    """Like `read_traffic`, for a program that is already read."""
    reader = _Reader(module)
    moves = list(reader.walk(module.entry, 1))
    return Traffic(moves, len(reader.unknown_loops))


def entry_bytes(module: Module) -> int:
    """Counts roughly, from the entry alone: all operands and results of every instruction.

    A loop or branch counts as one instruction that reads and writes what it carries once.
    """
    entry = module.computations[module.entry]
    free = ("parameter", "constant", "get-tuple-element", "tuple", "bitcast")
    size = {name: sum(array.size for array in each.result) for name, each in entry.items()}
    return sum(
        size[name] + sum(size[operand] for operand in each.operands)
        for name, each in entry.items()
        if each.opcode not in free
    )


class _Reader:
    def __init__(self, module: Module) -> None:
        self._module = module
        self._channels: set[str | None] = set()  # channels of collectives seen in fusions
        self.unknown_loops: set[str] = set()

    def walk(self, name: str, times: int) -> Iterator[Move]:
        """Yields the moves of a computation that runs `times` times."""
        computation = self._module.computations[name]
        for instruction in computation.values():
            opcode = instruction.opcode
            if opcode in _FREE or opcode.endswith(("-done", "-update")):
                continue
            if opcode == "while":
                trips = trip_count(instruction, computation, self._module)
                if trips is None:
                    self.unknown_loops.add(instruction.name)
                for inner in instruction.called():
                    yield from self.walk(inner, times * (1 if trips is None else trips))
            elif opcode == "conditional":
                branches = [list(self.walk(each, times)) for each in instruction.called()]
                yield from max(branches, key=lambda moves: sum(move.total for move in moves))
            elif opcode in ("call", "async-start"):
                for inner in instruction.called():
                    yield from self.walk(inner, times)
            else:
                read = self._fused if opcode == "fusion" else _plain
                yield read(instruction, computation)._replace(times=times)

    def _fused(self, instruction: Instruction, computation: Computation) -> Move:
        fusion = Fusion(instruction.called()[0], self._module)
        read = 0
        for place, name in enumerate(instruction.operands):
            operand = computation[name]
            size, elements = _in_main_memory(operand.result), max(operand.elements, 1)
            read += size * fusion.demanded(place) // elements
        written = sum(
            array.size if size is None else size
            for size, array in zip(fusion.written(), instruction.result, strict=True)
            if array.space == 0
        )
        for collective in fusion.collectives:
            channel = collective.attribute("channel_id")
            if channel not in self._channels:
                self._channels.add(channel)
                exchanged = _plain(collective, fusion.computation)
                read, written = read + exchanged.read, written + exchanged.written
        return Move(_kind(instruction), 1, read, written, fusion.transposes())


def _plain(instruction: Instruction, computation: Computation) -> Move:
    """Returns the move of an instruction that is no fusion."""
    opcode = instruction.opcode.removesuffix("-start")
    operands = [computation[name] for name in instruction.operands]
    sizes = [_in_main_memory(each.result) for each in operands]
    results = _results(instruction, opcode)
    read, written = sum(sizes), _in_main_memory(results)
    if opcode in TAKES:
        is_there = operands[0].result[0].space == 0
        read = sum(sizes[1:]) + (results[0].size if is_there else 0)
    elif opcode in UPDATES:
        places = update_operands(instruction)
        written = sum(sizes[place] for place in places)
        read = sum(sizes[len(places) :]) + (written if opcode == "scatter" else 0)
    elif any(f'"{name}"' in instruction.attributes for name in _FREE_CALLS):
        read = written = 0
    transposes = opcode in ("transpose", "copy") and reorders(instruction, computation)
    return Move(_kind(instruction), 1, read, written, transposes)


def _results(instruction: Instruction, opcode: str) -> tuple[Array, ...]:
    """Returns the result's arrays; without operands and contexts for the start of an async pair."""
    arrays, operands = instruction.result, len(instruction.operands)
    if opcode == instruction.opcode or opcode == "all-reduce":
        return arrays
    if opcode == "copy":  # the copy comes first
        return arrays[:1]
    return arrays[operands : 2 * operands]


def _kind(instruction: Instruction) -> str:
    opcode = instruction.opcode.removesuffix("-start")
    name = re.sub(r"[._]?\d+", "", instruction.name).removesuffix("-start")
    return opcode if name.replace("_", "-") == opcode else f"{opcode}:{name}"


def _in_main_memory(arrays: Sequence[Array]) -> int:
    """Returns the bytes of those arrays that are in the device's main memory."""
    return sum(array.size for array in arrays if array.space == 0)
