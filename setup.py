"""Lists the packages of the wheel; all else is in pyproject.toml."""

from setuptools import find_packages, setup

# the folders configs/ and data/ by their names in the wheel, see package-dir
MAPPED = ["nsneg_jax.configs", "nsneg_jax.prepare"]

setup(packages=[*find_packages(include=["nsneg_jax*"]), *MAPPED])
