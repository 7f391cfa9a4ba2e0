"""Eight CPU devices for every test; float64 is switched on by the tests that need it.

`--device default` leaves the choice to JAX, to run tests on an accelerator. Those that need more
devices than there are must skip themselves: tests/methods/test_parity.py does.
"""

import os
import signal
from pathlib import Path

# Most of the tests' time is compilation, and many compile the same. By environment, for the
# processes that tests start, which would write to the user's cache folder else.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache/jax")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

import jax
import pytest


def pytest_addoption(parser):
    parser.addoption(
        "--golden",
        type=Path,
        default=Path(__file__).parent / "golden",
        help="folder of reference trajectories for test_parity.py",
    )
    parser.addoption(
        "--device",
        choices=("cpu", "default"),
        default="cpu",
        help="'cpu' = eight virtual CPU devices, 'default' = what JAX finds",
    )


def pytest_configure(config):
    # Under nohup the signal is ignored, here and in every command that is started.
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)
    if config.getoption("device") == "cpu":
        jax.config.update("jax_num_cpu_devices", 8)
        jax.config.update("jax_platforms", "cpu")


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield
    jax.config.update("jax_enable_x64", False)  # a job in float64 switches it on for its process


UNOPTIMISED = "JAX_DISABLE_MOST_OPTIMIZATIONS"


@pytest.fixture(scope="module")
def quick_code():
    """Compiles this module's programs in half the time: XLA leaves out LLVM's optimisations.

    For what does not depend on machine code. A value in the environment, as that of `make slow`,
    holds instead.
    """
    if UNOPTIMISED in os.environ:
        yield
        return
    os.environ[UNOPTIMISED] = "1"  # for the processes that tests start
    _leave_out_optimisations(True)
    yield
    _leave_out_optimisations(False)
    del os.environ[UNOPTIMISED]


def _leave_out_optimisations(out: bool) -> None:
    jax.config.update("jax_disable_most_optimizations", out)
    jax.clear_caches()  # a compiled program is reused whatever this setting was
