"""Eight CPU devices for every test; float64 is switched on by the tests that need it."""

from pathlib import Path

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_platforms", "cpu")
# most of the tests' time is compilation, and many compile the same
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parents[1] / ".pytest_cache/jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def pytest_addoption(parser):
    parser.addoption(
        "--golden",
        type=Path,
        default=Path(__file__).parent / "golden",
        help="folder of reference trajectories for test_parity.py",
    )


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield
    jax.config.update("jax_enable_x64", False)  # a job in float64 switches it on for its process
