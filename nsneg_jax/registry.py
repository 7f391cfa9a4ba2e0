"""Things by name, to which users add their own."""

from collections.abc import Mapping
from typing import Generic, TypeVar

Thing = TypeVar("Thing")


class Registry(dict[str, Thing], Generic[Thing]):
    """A dict of things by the name that a config gives.

    Args:
        kind: what they are, for messages.
        own: the package's, which cannot be replaced.
    """

    def __init__(self, kind: str, own: Mapping[str, Thing]) -> None:
        super().__init__(own)
        self._kind = kind
        self._own = frozenset(own)

    def add(self, name: str, thing: Thing) -> None:
        """Adds a thing, in place of one added before: a config file may be executed twice.

        Raises:
            ValueError: the package has one of this name.
        """
        if name in self._own:
            raise ValueError(f"nsneg_jax has a {self._kind} named {name!r}. Choose another name.")
        self[name] = thing

    def is_own(self, name: object) -> bool:
        """Returns whether the package has a thing of this name; unknown names are nobody's."""
        return name in self._own
