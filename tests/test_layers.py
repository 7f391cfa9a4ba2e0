"""The shape of the package: imports point down, folders and files stay small."""

import ast
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "nsneg_jax"
NAME = PACKAGE.name
# low to high; a folder or file imports from lower levels and from itself
LEVELS = (
    ("errors",),
    ("files", "extras", "registry"),
    ("models", "corruptions", "textures"),
    ("methods",),
    ("parallel",),
    ("input",),
    ("training",),
    ("report",),
    ("embedding",),
    ("pretrained", "stablehlo"),
    ("pytorch",),
    ("evaluation",),
    ("features",),
    ("jobs",),
    ("analysis", "planning"),
    ("library",),
    ("command_line",),
    ("comparison", "help_text"),
    ("__init__",),
    ("cli",),
    ("__main__",),
)
LEVEL = {part: level for level, parts in enumerate(LEVELS) for part in parts}
CONFIG = "ml_collections"
PURE = ("methods", "models")  # arrays in, arrays out
IMPURE = (f"{NAME}.files", f"{NAME}.parallel", CONFIG, "os", "pathlib", "json")
MOST_FILES, MOST_LINES = 12, 400

FILES = {str(path.relative_to(PACKAGE)): path for path in sorted(PACKAGE.rglob("*.py"))}


def module_of(file: str) -> str:
    """The dotted name of a file of the package."""
    return ".".join((NAME, *Path(file).with_suffix("").parts)).removesuffix(".__init__")


MODULES = {module_of(file): file for file in FILES}


def imports_of(tree: ast.AST) -> Iterator[str]:
    """Yields the modules that a file imports, also inside functions.

    `from package import name` imports the module `package.name` if it exists, else `package`.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a name comes from"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module


IMPORTS = {file: set(imports_of(ast.parse(path.read_text()))) for file, path in FILES.items()}


def part_of(file: str) -> str:
    """The folder of the package that a file is in, or the file itself at the top."""
    return Path(file).parts[0].removesuffix(".py")


def is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def test_what_is_imported_is_read():
    """Also inside functions, and by module."""
    source = "import a.b\ndef f():\n    from nsneg_jax import files, nothing\n"
    assert set(imports_of(ast.parse(source))) == {"a.b", "nsneg_jax.files", "nsneg_jax"}
    assert "nsneg_jax.input.sources.tfds" in IMPORTS["input/sources/source.py"]


def test_every_part_has_a_level():
    assert {part_of(file) for file in FILES} <= LEVEL.keys()


def test_imports_point_down():
    up = set()
    for file, modules in IMPORTS.items():
        for module in modules & MODULES.keys():
            ours, theirs = part_of(file), part_of(MODULES[module])
            if ours != theirs and LEVEL[theirs] >= LEVEL[ours]:
                up.add((file, module))
    assert not up


def test_design_page_draws_the_arrows():
    drawn = {}
    page = (ROOT / "docs" / "design.md").read_text()
    for parts, imported in re.findall(r"^\| (`.*?) \|.*?\|(.*)\|$", page, re.MULTILINE):
        names = re.findall(r"`(\w+)`", parts)
        drawn |= {part: set(re.findall(r"`(\w+)`", imported)) for part in names}
    found = {part: set() for part in LEVEL}
    for file, modules in IMPORTS.items():
        found[part_of(file)] |= {part_of(MODULES[module]) for module in modules & MODULES.keys()}
    low = {part for part in LEVEL if LEVEL[part] <= LEVEL["files"]}
    assert drawn == {part: others - low - {part} for part, others in found.items()}


def test_no_modules_import_each_other():
    graph = {module: IMPORTS[file] & MODULES.keys() for module, file in MODULES.items()}
    for module, imported in graph.items():
        imported.discard(module)
    graphlib.TopologicalSorter(graph).prepare()  # raises a CycleError that names them


def test_only_the_jobs_and_what_uses_them_know_configs():
    know = {file for file, modules in IMPORTS.items() if any(is_in(m, CONFIG) for m in modules)}
    assert not {file for file in know if LEVEL[part_of(file)] < LEVEL["jobs"]}


def test_methods_and_models_are_pure():
    impure = {
        (file, module)
        for file, modules in IMPORTS.items()
        if part_of(file) in PURE
        for module in modules
        if any(is_in(module, each) for each in IMPURE)
    }
    assert not impure


@pytest.mark.parametrize(
    "folder", sorted({path.parent for path in FILES.values()}), ids=lambda folder: folder.name
)
def test_folders_are_small(folder):
    files = [path for path in folder.iterdir() if path.is_file() and path.name != "py.typed"]
    assert len(files) <= MOST_FILES


def test_files_are_short():
    folders = ("benchmarks", "configs", "data", "examples", "experiments", PACKAGE.name, "tests")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    assert len(paths) > len(FILES)
    lengths = {str(path): path.read_text().count("\n") for path in paths}
    assert {file: count for file, count in lengths.items() if count > MOST_LINES} == {}
