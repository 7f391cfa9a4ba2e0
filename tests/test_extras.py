"""What is said where the packages of an extra are not installed, and which files name them."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from nsneg_jax.errors import UsageError
from nsneg_jax.extras import PACKAGES, needed

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

USES = {
    "shapes": "from nsneg_jax.input.sources.source import open_source\n"
    "open_source('shapes:10', 'train', image_size=32)",
    "tfds": "from nsneg_jax.input.sources.source import open_source\n"
    "open_source('tfds:mnist', 'train', image_size=32)",
    "hf": "from nsneg_jax.input.sources.source import open_source\n"
    "open_source('hf:photos', 'train', image_size=32)",
    "gcs": "from nsneg_jax.input.sources.source import open_source\n"
    "open_source('folder:gs://bucket/photos', 'train', image_size=32)",
    "torch": "from pathlib import Path\nfrom nsneg_jax.pytorch import files\n"
    "files.write_torch(Path('x.pt'), {})",
    "parquet": "from nsneg_jax.features.table import check_format\ncheck_format('parquet')",
    "stablehlo": "from pathlib import Path\nfrom nsneg_jax.stablehlo import program\n"
    "program.write(None, Path('x.stablehlo'))",
    **{
        name: "from nsneg_jax.training.loggers.services import check_installed\n"
        f"check_installed({name!r})"
        for name in ("wandb", "mlflow", "trackio")
    },
    "report": "from nsneg_jax.report import plots\nfrom nsneg_jax.report.rows import pool\n"
    "plots.corruption_lines = lambda rows: {'a': {}}\nplots.save_corruptions([], Path('x.png'))",
}


@pytest.mark.parametrize("extra", USES)
def test_what_to_install(extra, tmp_path):
    hidden = {name: None for names in PACKAGES.values() for name in names}
    code = (
        "import sys\nfrom pathlib import Path\nfrom nsneg_jax.errors import UsageError\n"
        f"sys.modules.update({hidden})\n"
        f"try:\n{''.join(f'    {line}{chr(10)}' for line in USES[extra].splitlines())}"
        "except UsageError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert f'pip install "nsneg_jax[{extra}]"' in done.stdout
    assert not list(tmp_path.iterdir())


def test_other_packages_that_are_missing_are_no_mistake_of_the_users():
    with pytest.raises(ModuleNotFoundError), needed("report", "A picture"):
        import no_such_package
    with pytest.raises(UsageError, match="no_such_package"):
        PACKAGES["made-up"] = ("no_such_package",)
        try:
            with needed("made-up", "A test"):
                import no_such_package.part  # noqa: F401
        finally:
            del PACKAGES["made-up"]


def requirements(lines):
    """Requirements in a form that can be compared, without comments."""
    stripped = (re.sub(r"\s+#.*|^#.*", "", line).strip() for line in lines)
    return {line.replace("'", '"').replace(" ", "") for line in stripped if line}


def of_extra(name):
    """An extra with those that it names in place."""
    found = set()
    for line in PROJECT["optional-dependencies"][name]:
        inner = re.fullmatch(r"nsneg_jax\[(.+)\]", line)
        found |= set().union(*map(of_extra, inner[1].split(","))) if inner else requirements([line])
    return found


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-dev.txt"])
def test_requirements_are_those_of_the_package(file):
    """Their first lines name the parts of pyproject.toml in them, such as `# = core, shapes`."""
    lines = (ROOT / file).read_text().splitlines()
    parts = re.fullmatch(r"# = ([\w, -]+)", lines[0])[1].split(", ")
    expected = set()
    for part in parts:
        core = part == "core"
        expected |= requirements(PROJECT["dependencies"]) if core else of_extra(part)
    if file == "requirements-dev.txt":  # installed after the other
        expected -= requirements((ROOT / "requirements.txt").read_text().splitlines())
    assert requirements(lines) == expected


def test_every_extra_is_known():
    extras = set(PROJECT["optional-dependencies"])
    assert extras - {"all", "dev"} == set(PACKAGES) == set(USES)
    assert of_extra("all") == set().union(*map(of_extra, PACKAGES))
