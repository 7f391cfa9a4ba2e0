"""Robust contrastive pre-training with non-semantic negatives, in JAX/Flax.

Ge et al., NeurIPS 2021 (arXiv 2110.14189). docs/library.md explains the names below. They are
imported on first use: `import nsneg_jax` alone takes no time and imports neither JAX nor NumPy.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nsneg_jax.library import (
        augment,
        build_encoder,
        contrastive_loss,
        corrupt,
        load_pretrained,
        make_negatives,
        patch_negatives,
    )
    from nsneg_jax.methods.moco import MoCo, train_step

    __version__: str

__all__ = [
    "MoCo",
    "__version__",
    "augment",
    "build_encoder",
    "contrastive_loss",
    "corrupt",
    "load_pretrained",
    "make_negatives",
    "patch_negatives",
    "train_step",
]

_OF_MOCO = ("MoCo", "train_step")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "__version__":
        value = _version()
    else:
        from importlib import import_module

        home = "methods.moco" if name in _OF_MOCO else "library"
        value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    """Returns the version of the checkout, installed or not; else of the installed package."""
    from importlib.metadata import version
    from pathlib import Path
    from tomllib import loads

    metadata = Path(__file__).parents[1] / "pyproject.toml"
    if metadata.is_file():
        project = loads(metadata.read_text("utf-8")).get("project", {})
        # Beside an installed package, the file may belong to another project.
        if project.get("name") == __name__ and "version" in project:
            return project["version"]
    return version(__name__)
