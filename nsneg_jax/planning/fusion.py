"""What the result of a fusion needs of its operands, read from the computation that it fuses."""

from collections.abc import Iterator

from nsneg_jax.planning.hlo import COLLECTIVES, Computation, Instruction, Module, root_of

TAKES = ("slice", "dynamic-slice", "gather")
UPDATES = ("dynamic-update-slice", "scatter")
# their results have as many elements as an operand may have, but need all of it
_NOT_ELEMENTWISE = frozenset((
    "reduce", "broadcast", "concatenate", "pad", "dot", "convolution", "fusion", "sort",
    "reduce-window", "select-and-scatter", "iota", "custom-call",
))  # fmt: skip


class Fusion:
    """The computation of a fusion.

    Args:
        name: of the computation.
        module: that has it.
    """

    def __init__(self, name: str, module: Module) -> None:
        self.computation = module.computations[name]
        self.collectives = [
            each for each in self.computation.values() if each.opcode in COLLECTIVES
        ]
        self._module = module
        self._results = list(self._follow_results())
        self._demand = self._demands()

    def demanded(self, operand: int) -> int:
        """Elements of an operand that the results need; what they are written over is not."""
        for name, instruction in self.computation.items():
            if instruction.opcode == "parameter" and instruction.arguments == str(operand):
                return self._demand[name]
        return 0

    def written(self) -> list[int | None]:
        """Bytes written of each result; None where it is all of it."""
        return [self._written(each, place) for each, place in self._results]

    def transposes(self) -> bool:
        """Whether a result is a transpose, or elementwise operations on one."""
        waiting, seen = [each for each, _ in self._results], set()
        while waiting:
            instruction = waiting.pop()
            if instruction.name in seen:
                continue
            seen.add(instruction.name)
            if instruction.opcode in ("transpose", "copy"):
                if reorders(instruction, self.computation):
                    return True
            elif instruction.opcode in (*TAKES, *UPDATES, *_NOT_ELEMENTWISE):
                continue
            operands = (self.computation[name] for name in instruction.operands)
            waiting += [each for each in operands if each.elements == instruction.elements]
        return False

    def _follow_results(self) -> Iterator[tuple[Instruction, int]]:
        """For each array of the result what computes it, as which of its own."""
        root = root_of(self.computation)
        parts = [root]
        if root.opcode == "tuple":
            parts = [self.computation[name] for name in root.operands]
        for part in map(self._through_bitcasts, parts):
            if part.opcode == "get-tuple-element":
                yield self.computation[part.operands[0]], int(part.needed("index"))
            else:
                yield from ((part, place) for place in range(len(part.result)))

    def _through_bitcasts(self, instruction: Instruction) -> Instruction:
        while instruction.opcode == "bitcast":
            instruction = self.computation[instruction.operands[0]]
        return instruction

    def _is_in_place(self, instruction: Instruction) -> bool:
        """Whether it updates a part of an operand of the fusion."""
        if instruction.opcode not in UPDATES:
            return False
        base = self.computation[instruction.operands[0]]
        return self._through_bitcasts(base).opcode == "parameter"

    def _written(self, result: Instruction, place: int) -> int | None:
        """Of the array at `place` of what an instruction computes."""
        if result.opcode == "parameter" or self._is_exchanged(result):
            return 0  # handed on
        if self._is_in_place(result):
            update = result.operands[update_operands(result)[place]]
            return self.computation[update].result[0].size
        if result.opcode == "fusion":
            return Fusion(result.called()[0], self._module).written()[place]
        return None

    def _is_exchanged(self, instruction: Instruction) -> bool:
        """Whether it is a buffer of a collective, which is counted apart."""
        if instruction.opcode == "get-tuple-element":
            return self._is_exchanged(self.computation[instruction.operands[0]])
        return bool(self.collectives) and instruction.opcode in (*COLLECTIVES, "custom-call")

    def _demands(self) -> dict[str, int]:
        """Elements needed of every instruction's result."""
        demand = dict.fromkeys(self.computation, 0)
        root = root_of(self.computation)
        demand[root.name] = root.elements
        in_place = {each.name for each, _ in self._results if self._is_in_place(each)}
        for instruction in reversed(self.computation.values()):  # users before their operands
            needed = demand[instruction.name]
            if not needed or self._is_exchanged(instruction):
                continue
            for place, name in enumerate(instruction.operands):
                operand = self.computation[name]
                share = self._share(instruction, place, operand, needed, in_place)
                demand[name] = min(operand.elements, demand[name] + share)
        return demand

    def _share(
        self,
        instruction: Instruction,
        place: int,
        operand: Instruction,
        needed: int,
        in_place: set[str],
    ) -> int:
        """Elements of an operand that are needed for `needed` elements of an instruction."""
        opcode = instruction.opcode
        if opcode == "tuple" and operand.opcode == "parameter":
            return 0  # handed on
        if opcode in TAKES and place == 0:
            return needed
        if instruction.name in in_place:
            updates = update_operands(instruction)
            if place < len(updates):  # what is updated comes first
                update = self.computation[instruction.operands[updates[place]]]
                return update.elements if opcode == "scatter" else 0
        if opcode == "fusion":
            return Fusion(instruction.called()[0], self._module).demanded(place)
        same = operand.elements == instruction.elements and opcode not in _NOT_ELEMENTWISE
        return needed if same else operand.elements


def update_operands(instruction: Instruction) -> tuple[int, ...]:
    """Places of the updates among the operands of a dynamic-update-slice or scatter."""
    if instruction.opcode == "dynamic-update-slice":
        return (1,)
    count = len(instruction.operands) // 2  # as many inputs, then the indices
    return tuple(range(count + 1, 2 * count + 1))


def reorders(instruction: Instruction, computation: Computation) -> bool:
    """Whether a transpose or copy brings values into another order in memory."""
    result, source = instruction.result[0], computation[instruction.operands[0]].result[0]
    moved = instruction.attributes.partition("dimensions={")[2].partition("}")[0]
    if instruction.opcode == "transpose" and moved:
        dimensions = [int(n) for n in moved.split(",")]
    else:
        dimensions = list(range(len(result.shape)))
    after = [dimensions[d] for d in result.order if result.shape[d] > 1]
    before = [d for d in source.order if source.shape[d] > 1]
    return after != before or result.tiles != source.tiles
