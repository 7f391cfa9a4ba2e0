"""Class lists and scripts that prepare data sets: docs/data.md. Installed as nsneg_jax.prepare."""

import sys

from nsneg_jax.training import signals

if sys.argv[:1] == ["-m"]:  # `python -m data.SCRIPT`; what the script imports takes long
    signals.begin()
