"""What cannot be in memory is refused before the memory is asked for."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from tiny import tiny_config, tiny_linear_config

from nsneg_jax.errors import UsageError
from nsneg_jax.jobs.fields import memory
from nsneg_jax.jobs.fields.memory import check_memory, host_memory
from nsneg_jax.parallel.mesh import data_mesh

GIB = 2**30


@pytest.fixture
def small(monkeypatch):
    """A machine of one GiB."""
    monkeypatch.setattr(memory, "host_memory", lambda: GIB)


def test_of_this_machine():
    found = host_memory()
    assert found is not None and 2**28 < found < 2**50
    check_memory(tiny_config(), data_mesh())
    check_memory(tiny_linear_config("x"), data_mesh())


@pytest.mark.parametrize(
    ("field", "fits", "does_not"),
    [
        # 8 copies of the queue, each of 8 floats a key
        ("moco.queue_size", 3_000_000, 5_000_000),
        # query and key views and one negative, as floats: 16 * 16 * 3 * 3 * 4 bytes an image
        ("batch_size", 80_000, 160_000),
        ("model.width", 128, 1024),
    ],
)
def test_the_largest_part_is_named(field, fits, does_not, small):
    check_memory(tiny_config(**{field: fits}), data_mesh())
    with pytest.raises(UsageError, match=f"{field} is {does_not}, but must be smaller") as error:
        check_memory(tiny_config(**{field: does_not}), data_mesh())
    assert "1.0 GiB" in str(error.value) and f"--config.{field}=VALUE" in str(error.value)


def test_a_queue_in_parts_takes_an_eighth(small):
    values = {"moco.queue_size": 5_000_000, "moco.shard_queue": True}
    check_memory(tiny_config(**values), data_mesh())


def test_of_a_probe(small):
    check_memory(tiny_linear_config("x"), data_mesh())
    with pytest.raises(UsageError, match="batch_size is 1000000"):
        check_memory(tiny_linear_config("x", batch_size=1_000_000), data_mesh())
    # an image size that is left to the encoder's run
    values = {"batch_size": 1_000_000, "data.image_size": 0}
    check_memory(tiny_linear_config("x", **values), data_mesh())


def test_of_an_accelerator():
    """No accelerator is here: a stand-in says how much memory it has."""
    device = SimpleNamespace(
        platform="gpu",
        device_kind="a card",
        process_index=jax.process_index(),
        memory_stats=lambda: {"bytes_limit": GIB},
    )
    devices = SimpleNamespace(size=2, devices=np.array([device, device]))
    check_memory(tiny_config(**{"moco.queue_size": 30_000_000}), devices)
    with pytest.raises(UsageError, match=r"moco\.queue_size is 40000000.*a card.*1\.0 GiB"):
        check_memory(tiny_config(**{"moco.queue_size": 40_000_000}), devices)
    device.memory_stats = lambda: None  # unknown
    check_memory(tiny_config(**{"moco.queue_size": 40_000_000}), devices)
