"""Programs kept on disk: the same results from them, and no harm from a folder that fails."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache
from processes import flags
from tiny import metrics_lines, tiny_config

import main
from nsneg_jax.errors import UsageError
from nsneg_jax.parallel.compilation_cache import keep_programs, limit
from nsneg_jax.training.checkpoints.checkpoint import find_checkpoint, read_checkpoint

ROOT = Path(main.__file__).parent
SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_enable_compilation_cache",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


@pytest.fixture
def no_folder(tmp_path, monkeypatch):
    """JAX without a folder, as a user starts it, and with an empty home."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setattr(warnings, "filters", list(warnings.filters))
    before = {name: jax.config.values[name] for name in SETTINGS}
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_enable_compilation_cache", True)
    reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    reset_cache()


def compiled_result() -> np.ndarray:
    """Of a function that is new to JAX each time, so that it is compiled or loaded."""

    def products(x):
        return jnp.sin(x) @ x.T

    return np.asarray(jax.jit(products)(np.arange(12.0, dtype=np.float32).reshape(3, 4)))


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of writing by path."""
    found = ((path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path): (status.st_size, status.st_mtime_ns) for path, status in found}


def test_a_warm_start_is_the_same_to_the_bit(tmp_path):
    """By the command line, in the user's cache folder; the second start compiles nothing."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environ |= {"XDG_CACHE_HOME": str(tmp_path / "home"), "JAX_PLATFORMS": "cpu"}
    environ |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # quicker to compile
    config = tiny_config(total_steps=3, pictures=True)
    kept, states = [], []
    for name in ("cold", "warm"):
        argv = [*flags(config, "patch"), "--cpu_devices=1", f"--workdir={tmp_path / name}"]
        subprocess.run([sys.executable, ROOT / "main.py", *argv], check=True, env=environ)
        kept.append(files(tmp_path / "home" / "nsneg_jax" / "compiled"))
        states.append(read_checkpoint(find_checkpoint(tmp_path / name))[0])
    assert any("train_step" in path for path in kept[0]) and kept[1] == kept[0]
    jax.tree.map(np.testing.assert_array_equal, *states)
    assert metrics_lines(tmp_path / "warm") == metrics_lines(tmp_path / "cold")
    pictures = [tmp_path / name / "pictures" / "views.png" for name in ("cold", "warm")]
    assert pictures[0].read_bytes() == pictures[1].read_bytes()


@pytest.mark.usefixtures("no_folder")
def test_small_programs_are_kept_and_damaged_ones_replaced(tmp_path, capsys):
    folder = keep_programs()
    assert folder.is_relative_to(tmp_path / "home" / "nsneg_jax" / "compiled")
    want = compiled_result()
    (path,) = folder.glob("jit_products-*")
    for said in (1, 0):  # once is enough
        os.truncate(path, 20)
        np.testing.assert_array_equal(compiled_result(), want)
        assert path.stat().st_size > 20
        assert capsys.readouterr().err.count(str(folder)) == said
        np.testing.assert_array_equal(compiled_result(), want)


@pytest.mark.usefixtures("no_folder")
def test_other_warnings_are_shown():
    with pytest.warns(UserWarning, match="something else"):
        keep_programs()
        warnings.warn("something else", stacklevel=1)


@pytest.mark.usefixtures("no_folder")
def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "home").write_text("a file in the folder's place")
    assert keep_programs() is None
    assert str(tmp_path / "home") in capsys.readouterr().err
    compiled_result()
    assert not capsys.readouterr().err
    for wrong in (tmp_path / "home" / "x", "gs://bucket/x"):
        with pytest.raises(UsageError, match="--compilation_cache") as raised:
            keep_programs(str(wrong))
        assert str(wrong) in str(raised.value)


@pytest.mark.usefixtures("no_folder")
def test_the_folder_can_be_chosen(tmp_path, monkeypatch):
    assert keep_programs(str(tmp_path / "here")).is_relative_to(tmp_path / "here")
    # what is in there besides must not be removed with old programs
    assert keep_programs(str(tmp_path / "here")).parent == tmp_path / "here"
    assert keep_programs() == Path(jax.config.jax_compilation_cache_dir)


@pytest.mark.usefixtures("no_folder")
def test_off_keeps_nothing(tmp_path):
    assert keep_programs("off") is None
    compiled_result()
    assert not (tmp_path / "home").exists()


@pytest.mark.usefixtures("no_folder")
def test_jaxs_own_folder_and_settings_stay(tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "theirs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 7.0)
    assert keep_programs() == tmp_path / "theirs"
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 7
    assert not (tmp_path / "home").exists()


@pytest.mark.usefixtures("no_folder")
def test_processes_of_a_run_have_one_folder_on_all_processors(tmp_path, monkeypatch):
    folders = []
    for machine in ("x86_64", "aarch64"):
        monkeypatch.setattr("platform.machine", lambda machine=machine: machine)
        jax.config.update("jax_compilation_cache_dir", None)
        assert keep_programs(alone=False) is None
        folders.append([keep_programs(str(tmp_path / "asked"), alone) for alone in (True, False)])
        jax.config.update("jax_compilation_cache_dir", None)
    (alone, shared), (alone_elsewhere, shared_elsewhere) = folders
    assert alone != alone_elsewhere
    assert shared == shared_elsewhere and shared.parent == tmp_path / "asked"


@pytest.mark.parametrize(
    ("limits", "left"),
    [
        ({"most_bytes": 4000, "most_files": 4}, [0, 1, 2, 3]),
        ({"most_bytes": 3999, "most_files": 4}, [2, 3]),
        ({"most_bytes": 4000, "most_files": 3}, [2, 3]),
        ({"most_bytes": 0, "most_files": 0}, []),
    ],
)
def test_the_least_recently_used_are_removed(tmp_path, limits, left):
    """And nothing that others keep in the same place."""
    program = [tmp_path / f"jaxlib-0.{i % 2}" / "deep" / f"{i}-cache" for i in range(4)]
    for i, path in enumerate(program):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 1000)
        written, read = (1000, 5000 + i) if i >= 2 else (4000 + i, 4000)
        os.utime(path, (read, written))
    others = tmp_path / "others" / "data"
    others.parent.mkdir()
    others.write_bytes(b"x" * 9000)
    limit(tmp_path, **limits)
    assert [i for i, path in enumerate(program) if path.exists()] == left
    assert others.exists()
