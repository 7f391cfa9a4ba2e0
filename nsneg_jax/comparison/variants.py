"""What is compared: by method, a training without negatives and those with patch negatives."""

from typing import NamedTuple


class Compared(NamedTuple):
    """The variants of a method, by their names in configs/compare.py.

    Attributes:
        baseline: without negatives.
        main: with patch negatives, which the answer is about.
        more: others, which are left out where time is short.
        keys: keys per image that a step enqueues; 0 for a method without a queue.
    """

    baseline: str
    main: str
    more: tuple[str, ...] = ()
    keys: int = 0

    @property
    def all(self) -> tuple[str, ...]:
        """All of them, in the order of their runs."""
        return (self.baseline, self.main, *self.more)


class Variant(NamedTuple):
    """A variant's `label` in tables, and the `alpha` of its negatives; 0 for none."""

    label: str
    alpha: float = 0.0


MOCO = "moco"
# By the name of the method, which is that of its baseline.
METHODS = {
    MOCO: Compared("moco", "patch2", ("patch1",), keys=1),
    "symmetric": Compared("symmetric", "symmetric+patch", keys=2),
    "byol": Compared("byol", "byol+patch"),
    "simclr": Compared("simclr", "simclr+patch"),
    "mocov3": Compared("mocov3", "mocov3+patch"),
}
VARIANTS = {
    "moco": Variant("MoCo"),
    "patch2": Variant("patch, alpha 2", 2),
    "patch1": Variant("patch, alpha 1", 1),
    "symmetric": Variant("symmetric MoCo"),
    "symmetric+patch": Variant("symmetric MoCo, patch, alpha 2", 2),
    "byol": Variant("BYOL"),
    "byol+patch": Variant("BYOL, patch, alpha 0.5", 0.5),
    "simclr": Variant("SimCLR"),
    "simclr+patch": Variant("SimCLR, patch, alpha 2", 2),
    "mocov3": Variant("MoCo-v3"),
    "mocov3+patch": Variant("MoCo-v3, patch, alpha 2", 2),
}


def label(variant: str) -> str:
    """Returns the name of a variant in tables."""
    return VARIANTS[variant].label
