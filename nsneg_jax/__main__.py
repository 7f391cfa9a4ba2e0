"""`python -m nsneg_jax COMMAND`, the same as `nsneg COMMAND`."""

import sys

from nsneg_jax.cli import entry

if __name__ == "__main__":
    sys.exit(entry())
