"""What `import nsneg_jax` offers, and that it costs nothing."""

import ast
import json
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import nsneg_jax

ROOT = Path(__file__).parents[1]


def in_new_process(code: str):
    """What `code` prints as JSON."""
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return json.loads(ran.stdout)


def test_import_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys, time, json; start = time.perf_counter(); import nsneg_jax;"
        "seconds = time.perf_counter() - start; dir(nsneg_jax);"
        "print(json.dumps([seconds, sorted(sys.modules)]))"
    )
    runs = [in_new_process(code) for _ in range(4)]
    assert min(seconds for seconds, _ in runs) < 0.1
    loaded = {name.partition(".")[0] for name in runs[0][1]}
    assert not loaded & {"jax", "numpy", "flax", "optax", "ml_collections", "PIL", "torch"}


def test_every_name_is_there():
    assert {
        *("load_pretrained", "build_encoder", "contrastive_loss", "patch_negatives", "augment"),
        *("corrupt", "MoCo", "train_step", "__version__"),
    } <= set(nsneg_jax.__all__)
    for name in nsneg_jax.__all__:
        assert getattr(nsneg_jax, name) is not None
        assert getattr(nsneg_jax, name).__doc__
    assert set(nsneg_jax.__all__) <= set(dir(nsneg_jax))
    star: dict = {}
    exec("from nsneg_jax import *", star)
    assert set(nsneg_jax.__all__) <= set(star)
    with pytest.raises(AttributeError, match="no_such_name"):
        nsneg_jax.no_such_name  # noqa: B018


def test_type_checkers_see_what_is_loaded():
    tree = ast.parse(Path(nsneg_jax.__file__).read_text())
    (shown,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {}
    for node in shown.body:
        if isinstance(node, ast.ImportFrom):
            seen |= {alias.name: node.module for alias in node.names}
        else:
            seen[node.target.id] = None
    assert set(seen) == set(nsneg_jax.__all__)
    for name, module in seen.items():
        if module is not None:
            assert getattr(nsneg_jax, name) is getattr(import_module(module), name)


def test_submodules_are_still_importable():
    code = (
        "import json, nsneg_jax.errors as errors; from nsneg_jax import files, __version__;"
        "print(json.dumps([errors.__name__, files.__name__, __version__]))"
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    expected = ["nsneg_jax.errors", "nsneg_jax.files", project["version"]]
    assert in_new_process(code) == expected


def test_version_of_an_installed_package(tmp_path):
    """Beside another's pyproject.toml, as site-packages may have one."""
    package = tmp_path / "nsneg_jax"
    package.mkdir()
    (package / "__init__.py").write_text(Path(nsneg_jax.__file__).read_text())
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "other"\nversion = "9"\n')
    metadata = tmp_path / "nsneg_jax-7.8.9.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: nsneg_jax\nVersion: 7.8.9\n")
    code = (
        f"import sys, json; sys.path.insert(0, {str(tmp_path)!r}); import nsneg_jax;"
        "print(json.dumps(nsneg_jax.__version__))"
    )
    assert in_new_process(code) == "7.8.9"
