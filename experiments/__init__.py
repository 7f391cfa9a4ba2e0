import sys

from nsneg_jax.training import signals

if sys.argv[:1] == ["-m"]:  # `python -m experiments.NAME`; what it imports takes long
    signals.begin()
