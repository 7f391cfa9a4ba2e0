"""Compiles the jobs' programs quickly: most of these tests' time is the compiler's otherwise.

XLA still makes the same fusions, collectives and products, only with less machine code tuned. The
golden trajectories in tests/methods are replayed with the optimised code that users run, and so is
this folder with `JAX_DISABLE_MOST_OPTIMIZATIONS=0`.
"""

import os

import jax
import pytest

VARIABLE = "JAX_DISABLE_MOST_OPTIMIZATIONS"


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    if VARIABLE in os.environ:
        yield
        return
    os.environ[VARIABLE] = "1"  # for the processes that tests start
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    del os.environ[VARIABLE]
