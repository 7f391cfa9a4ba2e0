"""Accelerators that are not here: their names, and their devices where a compiler is installed."""

import pytest

from nsneg_jax.errors import RunError, UsageError
from nsneg_jax.planning.apart import run_apart
from nsneg_jax.planning.targets import CHIPS, Target, read_target


@pytest.mark.parametrize(
    ("name", "chips"),
    [("h100:1", 1), ("h100:8", 8), ("h100:64", 64), ("v5e:2x4", 8), ("v4:2x2x2", 8)],
)
def test_names(name, chips):
    target = read_target(name)
    assert (str(target), target.chips) == (name, chips)
    assert target.chip is CHIPS[name.partition(":")[0]]


@pytest.mark.parametrize(
    "name",
    ["", "h100", "h100:", "h100:0", "h100:2x4", "h100:12", "v5e", "v5e:8", "v5e:0x4", "a100:8"],
)
def test_other_names_are_refused(name):
    with pytest.raises(UsageError) as refused:
        read_target(name)
    assert repr(name) in str(refused.value)


def test_two_devices_on_a_chip_share_it():
    assert read_target("v4:2x2x1").share(8) == 0.5
    assert read_target("v5e:2x4").share(8) == 1


def test_compiler_that_is_not_installed(monkeypatch):
    chip = CHIPS["h100"]._replace(module="no_such_module_of_that_name")
    monkeypatch.setitem(CHIPS, "h100", chip)
    target = read_target("h100:8")
    assert not target.is_installed
    with pytest.raises(UsageError) as refused:
        target.check_installed()
    assert "h100:8" in str(refused.value) and chip.package in str(refused.value)


def describe(target: Target):
    """Runs in a separate process."""
    for device in target.devices():
        yield device.platform, device.device_kind


def described(name: str) -> list[tuple[str, str]]:
    target = read_target(name)
    if not target.is_installed:
        pytest.skip(f"{target.chip.package} is not installed")
    return list(run_apart(describe, target, environment=target.environment()))


@pytest.mark.parametrize("name", ["h100:1", "h100:8", "h100:16"])
def test_devices_of_gpus(name):
    assert described(name) == [("gpu", "NVIDIA H100 80GB HBM3")] * read_target(name).chips


@pytest.mark.parametrize(
    ("name", "kind", "count"),
    [
        ("v5e:1x1", "TPU v5 lite", 1),
        ("v5e:2x4", "TPU v5 lite", 8),
        ("v5e:4x8", "TPU v5 lite", 32),
        ("v5p:2x2x2", "TPU v5", 8),
        ("v6e:2x4", "TPU v6 lite", 8),
        ("v4:2x2x1", "TPU v4", 8),  # two devices on a chip
    ],
)
def test_devices_of_tpus(name, kind, count):
    assert described(name) == [("tpu", kind)] * count


def test_topology_that_does_not_exist():
    with pytest.raises(UsageError) as refused:
        described("v5e:3x5")
    assert "v5e:3x5" in str(refused.value)


def count_to(n: int):
    yield from range(n)


def fail(error: Exception):
    yield 1
    raise error


def abort():
    import os

    yield 1
    print("noise on the standard output", flush=True)
    os.write(
        2, b"F1127 12:00:00.000000  123 place.cc:1] Check failed: one == two (1 vs. 2) \n*** more\n"
    )
    os.abort()


def test_results_of_another_process():
    assert list(run_apart(count_to, 3, environment={})) == [0, 1, 2]


@pytest.mark.parametrize(
    ("error", "kind"),
    [(UsageError("a"), UsageError), (RunError("b"), RunError), (ValueError("c"), RunError)],
)
def test_errors_of_another_process(error, kind):
    results = run_apart(fail, error, environment={})
    assert next(results) == 1
    with pytest.raises(kind, match=str(error)):
        next(results)


def test_process_that_aborts_is_an_error_with_its_last_words():
    results = run_apart(abort, environment={})
    assert next(results) == 1
    with pytest.raises(RunError) as ended:
        next(results)
    message = str(ended.value)
    assert "SIGABRT" in message and "Check failed: one == two (1 vs. 2)" in message
    assert "more" not in message


def test_process_ends_when_nobody_reads_on():
    results = run_apart(count_to, 10**9, environment={})
    assert next(results) == 0
    results.close()
