"""ImageNet's classes, and the subsets of them that test sets have."""

from functools import cache
from pathlib import Path

from nsneg_jax.input.sources.lists.class_list import class_names

IMAGENET_1K = Path(__file__).parents[1] / "imagenet1k.txt"
# Classes that an arg-max may be restricted to, by the name of the value of `answers`.
CLASS_LISTS = {"imagenet-a": Path(__file__).parents[1] / "imagenet_a.txt"}


@cache
def wnids() -> tuple[str, ...]:
    """Returns the 1000 wnids of ImageNet-1K, in the order of their usual indices."""
    return tuple(map(str, class_names(str(IMAGENET_1K))))


@cache
def listed(answers: str) -> frozenset[str]:
    """Returns the wnids of a list in `CLASS_LISTS`."""
    return frozenset(map(str, class_names(str(CLASS_LISTS[answers]))))
