"""Kinds of values that a field of a config can have: what holds, and how to say it."""

import math
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Protocol

from nsneg_jax.registry import Registry

_WEIGHTED = re.compile(r"\w+(:\d{1,4})?(@[0-9.eE+-]{1,24})?")


class Kind(Protocol):
    """A type with its range."""

    @property
    def expected(self) -> str:
        """What a value must be, such as 'a whole number from 1 to 9', to follow "must be"."""
        ...

    def holds(self, value: object) -> bool:
        """Whether a value of any type is of this kind."""
        ...


@dataclass(frozen=True)
class Whole:
    """A whole number.

    Attributes:
        low, high: smallest and largest value.
        others: further values, which the field's meaning explains.
    """

    low: int
    high: int
    others: tuple[int, ...] = ()

    @property
    def expected(self) -> str:
        others = "".join(f", or {value}" for value in self.others)
        return f"a whole number from {self.low} to {self.high:,}{others}"

    def holds(self, value: object) -> bool:
        if not isinstance(value, int) or isinstance(value, bool):
            return False
        return self.low <= value <= self.high or value in self.others


@dataclass(frozen=True)
class Number:
    """A finite number.

    Attributes:
        low, high: smallest and largest value.
        below: whether the value must be less than `high`.
        zero: whether 0 is allowed besides.
    """

    low: float
    high: float
    below: bool = False
    zero: bool = False

    @property
    def expected(self) -> str:
        return f"a number {self.range}"

    @property
    def range(self) -> str:
        """The range, to follow "a number" or "numbers"."""
        zero = ", or 0" if self.zero else ""
        if self.below:
            return f"of at least {self.low:g} and less than {self.high:g}{zero}"
        return f"from {self.low:g} to {self.high:g}{zero}"

    def holds(self, value: object) -> bool:
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        if not math.isfinite(value):
            return False
        within = self.low <= value < self.high if self.below else self.low <= value <= self.high
        return within or (self.zero and value == 0)


@dataclass(frozen=True)
class Switch:
    """True or False."""

    expected = "True or False"

    def holds(self, value: object) -> bool:
        return isinstance(value, bool)


@dataclass(frozen=True)
class Text:
    """A text, which may be empty.

    Attributes:
        about: what it must name, for the message.
        needed: whether it must not be empty.
    """

    about: str = ""
    needed: bool = False

    @property
    def expected(self) -> str:
        about = f": {self.about}" if self.about else ""
        return f"a text{' that is not empty' if self.needed else ''}{about}"

    def holds(self, value: object) -> bool:
        return isinstance(value, str) and "\0" not in value and (bool(value) or not self.needed)


@dataclass(frozen=True)
class Choice:
    """One of some names.

    Attributes:
        names: the names, or a function that returns them, such as those in a registry.
    """

    names: tuple[str, ...] | Callable[[], Collection[str]]

    @property
    def choices(self) -> tuple[str, ...]:
        """The names."""
        return tuple(self._names)

    @property
    def own(self) -> tuple[str, ...]:
        """The names that the package has, without those that users registered."""
        names = self._names
        return tuple(n for n in names if not isinstance(names, Registry) or names.is_own(n))

    @property
    def _names(self) -> Collection[str]:
        return self.names() if callable(self.names) else self.names

    @property
    def expected(self) -> str:
        return f"one of {', '.join(map(repr, self.choices))}"

    def holds(self, value: object) -> bool:
        return isinstance(value, str) and value in self.choices


@dataclass(frozen=True)
class Names:
    """A text of some names with commas, each once, or none.

    Attributes:
        names: the names.
    """

    names: tuple[str, ...]

    @property
    def expected(self) -> str:
        return f"'' or names with commas, each once, among {', '.join(map(repr, self.names))}"

    def holds(self, value: object) -> bool:
        if not isinstance(value, str):
            return False
        given = [name.strip() for name in value.split(",")] if value else []
        return set(given) <= set(self.names) and len(set(given)) == len(given)


@dataclass(frozen=True)
class Weighted:
    """A text of parts with commas, each NAME[:COUNT][@WEIGHT], or none.

    Names and the sizes of the numbers are checked by what reads the text.
    """

    expected = "'' or parts with commas, each NAME, NAME:COUNT, NAME@ALPHA or NAME:COUNT@ALPHA"

    def holds(self, value: object) -> bool:
        if not isinstance(value, str):
            return False
        parts = [part.strip() for part in value.split(",")] if value else []
        return all(_WEIGHTED.fullmatch(part) for part in parts)


@dataclass(frozen=True)
class Pair:
    """A tuple (smallest, largest) of two numbers of one kind."""

    of: Whole | Number

    @property
    def expected(self) -> str:
        return f"two values (smallest, largest), each {self.of.expected}"

    def holds(self, value: object) -> bool:
        if not isinstance(value, tuple) or len(value) != 2:
            return False
        return all(map(self.of.holds, value)) and value[0] <= value[1]


@dataclass(frozen=True)
class Each:
    """A tuple with a kind of its own for each place, which has a name."""

    of: tuple[tuple[str, Number], ...]

    @property
    def expected(self) -> str:
        parts = ", ".join(f"{name} {kind.range}" for name, kind in self.of)
        return f"{len(self.of)} numbers: {parts}"

    def holds(self, value: object) -> bool:
        if not isinstance(value, tuple) or len(value) != len(self.of):
            return False
        return all(kind.holds(each) for (_, kind), each in zip(self.of, value, strict=True))


@dataclass(frozen=True)
class Several:
    """A tuple of different values of one kind.

    Attributes:
        of: kind of the values.
        most: largest number of values.
        least: smallest number of values.
        rising: whether each value must be greater than the one before.
    """

    of: Whole | Number
    most: int
    least: int = 1
    rising: bool = False

    @property
    def expected(self) -> str:
        order = "each greater than the one before" if self.rising else "all different"
        count = f"{self.least} to {self.most}"
        return f"a tuple of {count} values, {order}, each {self.of.expected}"

    def holds(self, value: object) -> bool:
        if not isinstance(value, tuple) or not self.least <= len(value) <= self.most:
            return False
        if not all(map(self.of.holds, value)) or len(set(value)) < len(value):
            return False
        return not self.rising or list(value) == sorted(value)


def plain(value: Any) -> bool:
    """Whether a value of any field can be kept in config.json: no NaN, no infinity, no objects."""
    if isinstance(value, dict):
        return all(isinstance(name, str) and plain(each) for name, each in value.items())
    if isinstance(value, list | tuple):
        return all(map(plain, value))
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, str | int)
