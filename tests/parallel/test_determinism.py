"""`deterministic=True`: the options of XLA for GPUs, set before JAX starts, and only for GPUs."""

import os
import sys

import pytest
from tiny import tiny_config

import main
from nsneg_jax.errors import UsageError
from nsneg_jax.parallel import determinism
from nsneg_jax.parallel.determinism import use_deterministic_operations

FLAG = "--xla_gpu_deterministic_ops"


@pytest.fixture
def gpu_plugin(tmp_path, monkeypatch):
    """A folder as JAX's plug-in for CUDA installs it, which nothing imports."""
    (tmp_path / "jax_plugins" / "xla_cuda13").mkdir(parents=True)
    (tmp_path / "jax_plugins" / "xla_cuda13" / "__init__.py").write_text("raise ImportError")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("XLA_FLAGS", "")
    before = sys.modules.pop("jax_plugins", None)
    yield
    sys.modules.pop("jax_plugins", None)
    if before is not None:
        sys.modules["jax_plugins"] = before


def test_without_a_plugin_for_gpus_nothing_changes(monkeypatch):
    monkeypatch.setattr(determinism, "_has_gpu_plugin", lambda: False)
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=x")
    use_deterministic_operations()
    assert os.environ["XLA_FLAGS"] == "--xla_dump_to=x"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", f"{FLAG}=true"),
        ("--xla_dump_to=x", f"--xla_dump_to=x {FLAG}=true"),
        (f"{FLAG}=1 --xla_dump_to=x", f"{FLAG}=1 --xla_dump_to=x"),
        (FLAG, FLAG),
    ],
)
def test_the_option_is_added_to_what_is_set(gpu_plugin, monkeypatch, given, expected):
    monkeypatch.setenv("XLA_FLAGS", given)
    use_deterministic_operations()
    assert os.environ["XLA_FLAGS"] == expected


def test_a_contradiction_is_refused(gpu_plugin, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", f"{FLAG}=false")
    with pytest.raises(UsageError, match=f"{FLAG}=false"):
        use_deterministic_operations()


@pytest.mark.parametrize("asked", [True, False])
def test_the_command_sets_it_before_jax_starts(gpu_plugin, monkeypatch, tmp_path, asked):
    found = []

    def joined(*args, **named):
        found.append(os.environ.get("XLA_FLAGS", ""))
        raise UsageError("as far as this test goes")

    monkeypatch.setattr("nsneg_jax.parallel.hosts.joined", joined)
    config = f"--config={main.__file__.replace('main.py', 'configs/patch.py')}:tiny"
    flags = [config, f"--workdir={tmp_path / 'run'}", f"--config.deterministic={asked}"]
    assert main.main(["main.py", *flags]) == 2
    assert found == [f"{FLAG}=true" if asked else ""]
    assert tiny_config().deterministic is False
