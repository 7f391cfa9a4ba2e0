"""ImageNet's classes, and the subsets of them that test sets have."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from nsneg_jax.errors import UsageError
from nsneg_jax.input.sources.lists.class_list import class_names

IMAGENET_1K = Path(__file__).parent / "imagenet1k.txt"
# Classes that an arg-max may be restricted to, by the name of the value of `answers`.
CLASS_LISTS = {"imagenet-a": Path(__file__).parent / "imagenet_a.txt"}


@cache
def wnids() -> tuple[str, ...]:
    """Returns the 1000 wnids of ImageNet-1K, in the order of their usual indices."""
    return tuple(map(str, class_names(str(IMAGENET_1K))))


@cache
def listed(answers: str) -> frozenset[str]:
    """Returns the wnids of a list in `CLASS_LISTS`."""
    return frozenset(map(str, class_names(str(CLASS_LISTS[answers]))))


def index_names(name: str, classes: Sequence[str]) -> tuple[str, ...]:
    """Returns the folder names of `classes` in sets that use their index in ImageNet-1K."""
    indices = {wnid: str(i) for i, wnid in enumerate(wnids())}
    unknown = [wnid for wnid in classes if wnid not in indices]
    if unknown:
        raise UsageError(
            f"The set {name} names classes by their index in ImageNet-1K, which lacks the "
            f"classifier's class {unknown[0]!r}. Leave this set out with --config.only=..., "
            f"or rename its folders and set --config.sets.{name}.names=class."
        )
    return tuple(indices[wnid] for wnid in classes)
