"""Runs one job: python main.py --config=FILE[:variant] --workdir=DIR [--config.field=value].

With --plan instead of --workdir it only reports what a pre-training will need (docs/planning.md).
"""

import sys

from nsneg_jax.cli import run_main as main
from nsneg_jax.training import signals

if __name__ == "__main__":
    signals.begin()
    sys.exit(main(sys.argv))
