"""Reads from the HLO text of a compiled program what its devices exchange."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from nsneg_jax.planning.hlo import COLLECTIVES, Instruction, Module, read_module, trip_count


class Collective(NamedTuple):
    """One collective instruction of a program.

    Attributes:
        kind: one of `hlo.COLLECTIVES`.
        arrays: (HLO's name of the dtype, bytes) per array of the result on one device; for a
            reduce-scatter, per array of the operand, which is larger.
        group: number of devices that exchange with each other.
        times: executions per run of the program.
    """

    kind: str
    arrays: tuple[tuple[str, int], ...]
    group: int
    times: int

    @property
    def payload(self) -> int:
        """Bytes of its arrays per run of the program."""
        return self.times * sum(size for _, size in self.arrays)

    @property
    def sent(self) -> float:
        """Bytes that each device sends per run, by the ring algorithms.

        For b bytes in a group of g: 2 b (g - 1) / g for an all-reduce, b for a permutation, and
        b (g - 1) / g for the others.
        """
        if self.kind == "collective-permute":
            return float(self.payload)
        rounds = 2 if self.kind == "all-reduce" else 1
        return rounds * self.payload * (self.group - 1) / self.group


def read_collectives(hlo: str) -> list[Collective]:
    """Reads the collectives of a compiled program, in no particular order.

    Asynchronous pairs count once, collectives in loops as often as the loop runs, and collectives
    in branches as if every branch were taken. Compilers for TPUs spread one over several fusions,
    which all name its channel; it counts once. Groups of one device exchange nothing and are left
    out.

    Args:
        hlo: text from `jax.stages.Compiled.as_text()`.

    Raises:
        ValueError: a collective is in a loop whose length the text does not say, or the text is no
            HLO module.
    """
    return collectives_of(read_module(hlo))


def collectives_of(module: Module) -> list[Collective]:
    """Like `read_collectives`, for a program that is already read."""
    return [c for c in _walk(module.entry, 1, module, set()) if c.group > 1]


def payload_by_kind(collectives: Sequence[Collective]) -> dict[str, int]:
    """Returns the bytes of the collectives' arrays per run, by kind."""
    total: Counter[str] = Counter()
    for collective in collectives:
        total[collective.kind] += collective.payload
    return dict(total)


def _walk(
    name: str, times: int, module: Module, fused: set[str], in_fusion: bool = False
) -> Iterator[Collective]:
    """Yields the collectives of a computation; `fused` holds the channels seen in fusions."""
    computation = module.computations[name]
    for instruction in computation.values():
        kind = instruction.opcode.removesuffix("-start")
        if kind in COLLECTIVES:
            channel = instruction.attribute("channel_id")
            if in_fusion and channel in fused:
                continue
            if in_fusion and channel:
                fused.add(channel)
            yield _collective(kind, instruction, times, module.partitions)
            continue
        if instruction.opcode.endswith(("-done", "-update")):  # name their start's computation
            continue
        trips: int | None = 1
        if instruction.opcode == "while":
            trips = trip_count(instruction, computation, module)
        inside = in_fusion or instruction.opcode == "fusion"
        for inner in instruction.called():
            found = list(_walk(inner, times * (trips or 1), module, fused, inside))
            if found and trips is None:
                raise ValueError(f"{name} has a loop of unknown length with collectives in it")
            yield from found


def _collective(kind: str, instruction: Instruction, times: int, devices: int) -> Collective:
    group = _group_size(kind, instruction.attributes, devices)
    arrays = [(array.dtype, array.size) for array in instruction.result]
    asynchronous = instruction.opcode != kind
    if asynchronous and kind == "collective-permute":
        arrays = arrays[1:2]  # operand, result, two contexts
    elif asynchronous and kind != "all-reduce":
        arrays = arrays[len(arrays) // 2 :]  # operands, then results
    if kind == "reduce-scatter":
        arrays = [(dtype, size * group) for dtype, size in arrays]
    return Collective(kind, tuple(arrays), group, times)


def _group_size(kind: str, line: str, devices: int) -> int:
    """Returns how many devices exchange with each other; all groups of a program are equal."""
    if kind == "collective-permute":
        return devices
    # axes of a mesh and those of them in a group: mesh['a'=8,'b'=4] {'b'}
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", line):
        sizes = {axis: int(size) for axis, size in re.findall(r"('[^']*')=(\d+)", named[1])}
        parts = re.findall(r"('[^']*')(?::\(\d+\)(\d+))?", named[2])  # 'a':(4)2 is a part of 'a'
        return math.prod(int(part) if part else sizes[axis] for axis, part in parts)
    # [groups, devices in a group] <= ...
    if counted := re.search(r"replica_groups=\[(\d+),(\d+)\]", line):
        return int(counted[2])
    # {{0,1},{2,3}}
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        return len(listed[1].split(","))
    return devices
