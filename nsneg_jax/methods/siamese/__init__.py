"""Methods with two views that ask for each other; `NAMES` are those that configs give."""

BYOL, SIMCLR, MOCOV3 = NAMES = ("byol", "simclr", "mocov3")
