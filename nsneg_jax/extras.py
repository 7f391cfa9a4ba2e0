"""Optional packages, and the message that says how to install a missing one."""

from collections.abc import Iterator
from contextlib import contextmanager

from nsneg_jax.errors import UsageError

# Packages that an import may fail to find, by the extra of pyproject.toml that installs them.
PACKAGES = {
    "shapes": ("cv2",),
    "tfds": ("tensorflow_datasets",),
    "hf": ("pyarrow",),
    "parquet": ("pyarrow",),
    "stablehlo": ("flatbuffers",),
    "report": ("matplotlib",),
    "torch": ("torch",),
    "gcs": ("gcsfs",),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
    "trackio": ("trackio",),
}


@contextmanager
def needed(extra: str, purpose: str, otherwise: str = "") -> Iterator[None]:
    """Encloses imports of an extra's packages; says what to install if one is missing.

    Args:
        extra: a key of `PACKAGES`.
        purpose: purpose of the packages, as the subject of "needs": "Drawing a picture".
        otherwise: a sentence on how to do without them, or ''.

    Raises:
        UsageError: one of the packages is not installed. Other errors of the import, such as a
            missing system library, pass through.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in PACKAGES[extra]:
            raise
        raise UsageError(
            f"{purpose} needs the package {package}, which is not installed. Install it with "
            f'`pip install "nsneg_jax[{extra}]"`, or in a checkout with '
            f'`pip install ".[{extra}]"`.{f" {otherwise}" if otherwise else ""}'
        ) from error
