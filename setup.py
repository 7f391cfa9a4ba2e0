"""Lists the packages of the wheel; all else is in pyproject.toml."""

from tempfile import TemporaryDirectory

from setuptools import find_packages, setup

# the folders configs/ and data/ by their names in the wheel, see package-dir
MAPPED = ["nsneg_jax.configs", "nsneg_jax.prepare"]

# not in build/ here, where a wheel would take up what an earlier version left
with TemporaryDirectory() as folder:
    setup(
        packages=[*find_packages(include=["nsneg_jax*"]), *MAPPED],
        options={"build": {"build_base": folder}},
    )
