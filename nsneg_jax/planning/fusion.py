"""Determines which parts of its operands a fusion needs, from the fused computation."""

from collections.abc import Iterator

from nsneg_jax.planning.hlo import COLLECTIVES, Computation, Instruction, Module, root_of

TAKES = ("slice", "dynamic-slice", "gather")
UPDATES = ("dynamic-update-slice", "scatter")
# Their results may have as many elements as an operand, but need all of it.
_NOT_ELEMENTWISE = frozenset((
    "reduce", "broadcast", "concatenate", "pad", "dot", "convolution", "fusion", "sort",
    "reduce-window", "select-and-scatter", "iota", "custom-call",
))  # fmt: skip


class Fusion:
    """The computation of a fusion.

    Args:
        name: name of the computation.
        module: program that contains it.
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
        """Returns how many elements of an operand the results need, without those overwritten."""
        for name, instruction in self.computation.items():
            if instruction.opcode == "parameter" and instruction.arguments == str(operand):
                return self._demand[name]
        return 0

    def written(self) -> list[int | None]:
        """Returns the bytes written per result; None for all of it."""
        return [self._written(each, place) for each, place in self._results]

    def transposes(self) -> bool:
        """Returns whether a result is a transpose, or elementwise operations on one."""
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
        """Yields, per array of the result, its instruction and the place among its results."""
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
        """Returns whether it updates a part of an operand of the fusion."""
        if instruction.opcode not in UPDATES:
            return False
        base = self.computation[instruction.operands[0]]
        return self._through_bitcasts(base).opcode == "parameter"

    def _written(self, result: Instruction, place: int) -> int | None:
        """Returns the bytes written of the array at `place` among an instruction's results."""
        if result.opcode == "parameter" or self._is_exchanged(result):
            return 0  # handed on
        if self._is_in_place(result):
            update = result.operands[update_operands(result)[place]]
            return self.computation[update].result[0].size
        if result.opcode == "fusion":
            return Fusion(result.called()[0], self._module).written()[place]
        return None

    def _is_exchanged(self, instruction: Instruction) -> bool:
        """Returns whether it is a buffer of a collective, which is counted separately."""
        if instruction.opcode == "get-tuple-element":
            return self._is_exchanged(self.computation[instruction.operands[0]])
        return bool(self.collectives) and instruction.opcode in (*COLLECTIVES, "custom-call")

    def _demands(self) -> dict[str, int]:
        """Returns how many elements of each instruction's result are needed."""
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
        """Returns how many elements of an operand `needed` elements of an instruction need."""
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
    """Returns the places of updates among the operands of a dynamic-update-slice or scatter."""
    if instruction.opcode == "dynamic-update-slice":
        return (1,)
    count = len(instruction.operands) // 2  # as many inputs, then the indices
    return tuple(range(count + 1, 2 * count + 1))


def reorders(instruction: Instruction, computation: Computation) -> bool:
    """Returns whether a transpose or copy changes the order of values in memory."""
    result, source = instruction.result[0], computation[instruction.operands[0]].result[0]
    moved = instruction.attributes.partition("dimensions={")[2].partition("}")[0]
    if instruction.opcode == "transpose" and moved:
        dimensions = [int(n) for n in moved.split(",")]
    else:
        dimensions = list(range(len(result.shape)))
    after = [dimensions[d] for d in result.order if result.shape[d] > 1]
    before = [d for d in source.order if source.shape[d] > 1]
    return after != before or result.tiles != source.tiles
