"""What a compiled program exchanges between devices, read from the text of its HLO."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_NO_ARRAYS = ("token", "opaque")
_BITS = {"pred": 8, "bf16": 16, "c64": 64, "c128": 128}

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.-]+ = (.*?) ([a-z][\w-]*)\(")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\]")
_CALLS = re.compile(
    r"(?:to_apply|calls|body|condition|true_computation|false_computation)=%?([\w.-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


class Collective(NamedTuple):
    """One collective instruction of a program.

    Attributes:
        kind: one of `KINDS`.
        arrays: (HLO's name of the dtype, bytes) of each array of the result on one device; of a
            reduce-scatter, of the operand, which is the larger one.
        group: how many devices exchange with each other.
        times: how often one run of the program executes it.
    """

    kind: str
    arrays: tuple[tuple[str, int], ...]
    group: int
    times: int

    @property
    def payload(self) -> int:
        """Bytes of its arrays in one run of the program."""
        return self.times * sum(size for _, size in self.arrays)

    @property
    def sent(self) -> float:
        """Bytes that each device sends in one run, by the ring algorithms.

        Of b bytes in a group of g: 2 b (g - 1) / g for an all-reduce, b for a permutation, and
        b (g - 1) / g for the others.
        """
        if self.kind == "collective-permute":
            return float(self.payload)
        rounds = 2 if self.kind == "all-reduce" else 1
        return rounds * self.payload * (self.group - 1) / self.group


def read_collectives(hlo: str) -> list[Collective]:
    """The collectives of a compiled program, in no particular order.

    Asynchronous pairs count once, those in loops as often as the loop runs, those in branches as
    if every branch were taken. Groups of one device exchange nothing and are left out.

    Args:
        hlo: as from `jax.stages.Compiled.as_text()`.

    Raises:
        ValueError: a collective is in a loop whose length the compiler does not know, or the text
            is no HLO module.
    """
    entry, computations = _computations(hlo)
    partitions = re.search(r"num_partitions=(\d+)", hlo)
    devices = int(partitions[1]) if partitions else 1
    return [c for c in _walk(entry, 1, computations, devices) if c.group > 1]


def payload_by_kind(collectives: Sequence[Collective]) -> dict[str, int]:
    """Bytes of the collectives' arrays in one run, by kind."""
    total = Counter()
    for collective in collectives:
        total[collective.kind] += collective.payload
    return dict(total)


def _computations(hlo: str) -> tuple[str, dict[str, list[str]]]:
    """The name of the entry, and the lines of instructions of each computation."""
    entry, computations, lines = None, {}, []
    for line in hlo.splitlines():
        if head := _COMPUTATION.match(line):
            lines = computations[head[2]] = []
            entry = head[2] if head[1] else entry
        elif line.startswith(" "):
            lines.append(line)
    if entry is None:
        raise ValueError("the text has no ENTRY computation, so it is no HLO module")
    return entry, computations


def _walk(
    name: str, times: int, computations: dict[str, list[str]], devices: int
) -> Iterator[Collective]:
    for line in computations[name]:
        instruction = _INSTRUCTION.match(line)
        if not instruction:
            continue
        result, opcode = instruction.groups()
        kind = opcode.removesuffix("-start")
        if kind in KINDS:
            yield _collective(kind, result, line, times, devices, opcode != kind)
            continue
        if opcode.endswith(("-done", "-update")):  # names the computation of its start again
            continue
        called = _CALLS.findall(line)
        if branches := _BRANCHES.search(line):
            called += [branch.strip().lstrip("%") for branch in branches[1].split(",")]
        trips = _TRIPS.search(line)
        for inner in called:
            found = list(
                _walk(inner, times * (int(trips[1]) if trips else 1), computations, devices)
            )
            if found and opcode == "while" and not trips:
                raise ValueError(f"{name} has a loop of unknown length with collectives in it")
            yield from found


def _collective(
    kind: str, result: str, line: str, times: int, devices: int, asynchronous: bool
) -> Collective:
    group = _group_size(kind, line, devices)
    arrays = _arrays(result)
    if asynchronous and kind == "collective-permute":
        arrays = arrays[1:2]  # operand, result, two contexts
    elif asynchronous and kind != "all-reduce":
        arrays = arrays[len(arrays) // 2 :]  # operands, then results
    if kind == "reduce-scatter":
        arrays = [(dtype, size * group) for dtype, size in arrays]
    return Collective(kind, tuple(arrays), group, times)


def array_bytes(shape: str) -> int:
    """Bytes of an HLO shape's arrays, as of 'f32[8,2]{1,0}' or '(bf16[4], u8[0])'."""
    return sum(size for _, size in _arrays(shape))


def _arrays(shape: str) -> list[tuple[str, int]]:
    """HLO's name of the dtype, and bytes, of each array of a shape."""
    return [
        (dtype, math.prod(int(n) for n in dims.split(",") if n) * _bits(dtype) // 8)
        for dtype, dims in _ARRAY.findall(_without_comments(shape))
        if dtype not in _NO_ARRAYS
    ]


def _without_comments(text: str) -> str:
    return re.sub(r"/\*.*?\*/", "", text)


def _bits(dtype: str) -> int:
    """Of an HLO type: pred, s32, u8, f32, bf16, f8e4m3fn, ..."""
    return _BITS.get(dtype) or int(re.match(r"[a-z]+(\d+)", dtype)[1])


def _group_size(kind: str, line: str, devices: int) -> int:
    """How many devices exchange with each other; the groups of a program are of one size."""
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
