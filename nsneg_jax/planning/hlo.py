"""Parses the text of a compiled program (HLO) into computations and instructions."""

import math
import re
from typing import NamedTuple

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_BITS = {"pred": 8, "bf16": 16, "c64": 64, "c128": 128}
_NO_ARRAYS = ("token", "opaque")

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\(")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
_CALLED = re.compile(
    r"(?:to_apply|calls|body|condition|true_computation|false_computation)=%?([\w.-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


class Array(NamedTuple):
    """An array of a result.

    Attributes:
        dtype: name in HLO: pred, s32, u8, f32, bf16, f8e4m3fn, ...
        shape: dimensions.
        order: dimensions in memory order, fastest first.
        tiles: tiles of the layout, as in the text.
        space: memory space; 0 is the device's main memory.
    """

    dtype: str
    shape: tuple[int, ...]
    order: tuple[int, ...]
    tiles: str = ""
    space: int = 0

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes of the values, without padding."""
        bits = _BITS.get(self.dtype)
        if bits is None:
            named = re.match(r"[a-z]+(\d+)", self.dtype)
            if named is None:
                raise ValueError(f"{self.dtype} is no dtype of an HLO module")
            bits = int(named[1])
        return self.elements * bits // 8


class Instruction(NamedTuple):
    """An instruction: `operands` are names, `arguments` and `attributes` as in the text."""

    name: str
    opcode: str
    result: tuple[Array, ...]
    operands: tuple[str, ...]
    arguments: str
    attributes: str
    is_root: bool

    @property
    def elements(self) -> int:
        """Number of elements in all arrays of the result."""
        return sum(array.elements for array in self.result)

    def called(self) -> list[str]:
        """Returns the names of the computations that it runs or applies."""
        names = _CALLED.findall(self.attributes)
        if branches := _BRANCHES.search(self.attributes):
            names += [name.strip().lstrip("%") for name in branches[1].split(",")]
        return names

    def attribute(self, name: str) -> str | None:
        """Returns the value of a plain attribute, such as the 'body' of a loop."""
        found = re.search(rf"\b{name}=%?([\w.-]+)", self.attributes)
        return found[1] if found else None

    def needed(self, name: str) -> str:
        """`attribute`; raises KeyError where there is none of that name."""
        found = self.attribute(name)
        if found is None:
            raise KeyError(name)
        return found


Computation = dict[str, Instruction]


class Module(NamedTuple):
    """A program: computations by name, of which `entry` runs first."""

    entry: str
    computations: dict[str, Computation]
    partitions: int


def read_module(text: str) -> Module:
    """Reads a program.

    Args:
        text: text from `jax.stages.Compiled.as_text()`.

    Raises:
        ValueError: the text is no HLO module.
    """
    entry = None
    computations: dict[str, Computation] = {}
    current: Computation = {}
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            current = computations[head[2]] = {}
            entry = head[2] if head[1] else entry
        elif line.startswith(" ") and (instruction := _read_instruction(line)):
            current[instruction.name] = instruction
    if entry is None:
        raise ValueError("the text has no ENTRY computation, so it is no HLO module")
    partitions = re.search(r"num_partitions=(\d+)", text)
    return Module(entry, computations, int(partitions[1]) if partitions else 1)


def array_bytes(shape: str) -> int:
    """Returns the bytes of the arrays of a shape, e.g. 'f32[8,2]{1,0}' or '(bf16[4], u8[0])'."""
    return sum(array.size for array in _arrays(shape))


def root_of(computation: Computation) -> Instruction:
    """Returns the instruction whose result the computation returns."""
    return next(each for each in computation.values() if each.is_root)


def trip_count(loop: Instruction, caller: Computation, module: Module) -> int | None:
    """Returns how often a `while` runs its body; None if the text does not say.

    GPU and CPU compilers state it. For TPUs it is derived from loops that count from 0 by 1 up to a
    constant, into which JAX turns `scan`, `map` and `fori_loop`.
    """
    if noted := _TRIPS.search(loop.attributes):
        return int(noted[1])
    try:
        return _counted_trips(loop, caller, module)
    except KeyError:  # not such a loop
        return None


def _counted_trips(loop: Instruction, caller: Computation, module: Module) -> int | None:
    condition = module.computations[loop.needed("condition")]
    test = root_of(condition)
    if test.opcode != "compare" or test.attribute("direction") != "LT":
        return None
    counter, limit = (condition[name] for name in test.operands)
    if counter.opcode != "get-tuple-element" or limit.opcode != "constant":
        return None
    place = int(counter.needed("index"))
    body = module.computations[loop.needed("body")]
    step = body[root_of(body).operands[place]]
    start = caller[caller[loop.operands[0]].operands[place]]
    while start.opcode in ("copy", "bitcast"):
        start = caller[start.operands[0]]
    added = [body[name].arguments for name in step.operands if body[name].opcode == "constant"]
    counts_by_one = step.opcode == "add" and added == ["1"]
    if not counts_by_one or (start.opcode, start.arguments) != ("constant", "0"):
        return None
    return int(limit.arguments)


def _read_instruction(line: str) -> Instruction | None:
    found = _INSTRUCTION.match(line)
    if not found:
        return None
    root, name, result, opcode = found.groups()
    end = _closing(line, found.end())
    arguments = line[found.end() : end]
    return Instruction(
        name=name,
        opcode=opcode,
        result=_arrays(result),
        operands=tuple(re.findall(r"%([\w.-]+)", arguments)),
        arguments=arguments,
        attributes=line[end + 1 :],
        is_root=bool(root),
    )


def _closing(line: str, start: int) -> int:
    """Returns the end of the parenthesis that was opened before `start`."""
    depth = 1
    for place in range(start, len(line)):
        depth += (line[place] == "(") - (line[place] == ")")
        if depth == 0:
            return place
    return len(line)


def _arrays(text: str) -> tuple[Array, ...]:
    return tuple(
        _array(dtype, shape, layout)
        for dtype, shape, layout in _ARRAY.findall(re.sub(r"/\*.*?\*/", "", text))
        if dtype not in _NO_ARRAYS
    )


def _array(dtype: str, shape: str, layout: str) -> Array:
    order, _, tiles = layout.partition(":")
    space = re.search(r"S\((\d+)\)", tiles)
    sizes = tuple(int(n) for n in shape.split(",") if n)
    return Array(
        dtype,
        sizes,
        # By default, the last dimension is the fastest.
        tuple(int(n) for n in order.split(",") if n) or tuple(reversed(range(len(sizes)))),
        tiles.replace(space[0], "") if space else tiles,
        int(space[1]) if space else 0,
    )
