"""Runs one job: python main.py --config=FILE[:variant] --workdir=DIR [--config.field=value].

With --plan in place of --workdir it only says what a pre-training will need (docs/planning.md).
"""

import sys

from nsneg_jax.cli import run_main as main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
