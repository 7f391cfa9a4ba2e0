import sys

from experiments.claim.command import main

sys.exit(main(sys.argv[1:]))
