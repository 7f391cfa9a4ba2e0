"""Packages that not every user needs: what to install where one of them is missing."""

from collections.abc import Iterator
from contextlib import contextmanager

from nsneg_jax.errors import UsageError

# packages that an import may fail to find, by the extra of pyproject.toml that installs them
PACKAGES = {
    "shapes": ("cv2",),
    "tfds": ("tensorflow_datasets",),
    "report": ("matplotlib",),
    "torch": ("torch",),
    "gcs": ("gcsfs",),
}


@contextmanager
def needed(extra: str, purpose: str, otherwise: str = "") -> Iterator[None]:
    """For imports of an extra's packages: says what to install where one is missing.

    Args:
        extra: a key of `PACKAGES`.
        purpose: what they are needed for, as the subject of "needs": "Drawing a picture".
        otherwise: a sentence on how to do without, or ''.

    Raises:
        UsageError: one of the extra's packages is not installed. Other errors of the import, such
            as a system library that is missing, are passed on.
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
