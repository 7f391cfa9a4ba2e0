"""What is read from a compiled program, and what becomes of what its compiler refuses."""

import jax
import numpy as np
import pytest

from nsneg_jax.errors import RunError, UsageError
from nsneg_jax.planning.cost import WITHOUT_TUNING, compile_and_read

X = np.zeros((64, 256), np.float32)


def lowered(donated: bool = False) -> jax.stages.Lowered:
    return jax.jit(lambda x: x * 2 + 1, donate_argnums=(0,) if donated else ()).lower(X)


def test_sizes_are_those_of_the_program():
    cost = compile_and_read(lowered())
    assert (cost.arguments, cost.results, cost.aliased) == (X.nbytes, X.nbytes, 0)
    assert (cost.moved, cost.transposed, cost.entry) == (2 * X.nbytes, 0, 2 * X.nbytes)
    assert cost.total == 2 * X.nbytes + cost.temporary
    assert cost.flops == 2 * X.size and cost.collectives == [] and cost.options == {}
    ((_, count, size),) = cost.largest
    assert (count, size) == (1, 2 * X.nbytes)
    donated = compile_and_read(lowered(donated=True))
    assert donated.total == X.nbytes + donated.temporary


class Refused:
    """A program that is refused with `message`, unless options avoid that."""

    def __init__(self, message: str):
        self.message = message

    def compile(self, options: dict):
        if "xla_gpu_enable_triton_gemm" not in options:
            raise jax.errors.JaxRuntimeError(self.message)
        return lowered().compile(options)


def test_program_that_needs_a_card_to_be_tuned_on_is_compiled_without():
    cost = compile_and_read(Refused("INTERNAL: Couldn't find output tile sizes that satisfy hlo"))
    assert cost.options == WITHOUT_TUNING and cost.moved == 2 * X.nbytes


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("RESOURCE_EXHAUSTED: Ran out of memory on HBM, 86.19G exceeds 15.75G", UsageError),
        ("INTERNAL: Something else", RunError),
    ],
)
def test_what_a_compiler_refuses_is_told(message, kind):
    with pytest.raises(kind) as refused:
        compile_and_read(Refused(message))
    assert message in str(refused.value)
