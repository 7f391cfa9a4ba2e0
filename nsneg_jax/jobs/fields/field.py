"""A field of a config: its default, its kind, its meaning and the reason of its limits."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict

from nsneg_jax.errors import UsageError, printable
from nsneg_jax.jobs.fields.kinds import Kind, Switch, Text

_LONGEST = 100  # characters of a value in a message


@dataclass(frozen=True)
class Field:
    """A row of a table of fields.

    Attributes:
        name: dotted name, such as 'moco.momentum'.
        default: default value, or a function that returns it.
        kind: the values that are valid.
        meaning: what the field does, for the help; the kind is added to it.
        reason: why the values end where they do, if that needs saying.
        is_wordy: whether the meaning itself says which values are valid, as for names that it
            explains.
        named_default: text of a default that the environment decides, for docs.
    """

    name: str
    default: Any | Callable[[], Any]
    kind: Kind
    meaning: str
    reason: str = ""
    is_wordy: bool = False
    named_default: str = ""

    @property
    def value(self) -> Any:
        """The default value now; some depend on the environment."""
        return self.default() if callable(self.default) else self.default

    @property
    def help(self) -> str:
        """The meaning with what is valid."""
        if self.is_wordy or isinstance(self.kind, Switch | Text):
            return self.meaning
        return f"{self.meaning}; {self.kind.expected}"

    def check(self, value: object, name: str = "") -> None:
        """Checks a value of the field.

        Args:
            value: value of any type.
            name: name of the field, if that of the row is a pattern.

        Raises:
            UsageError: the value is not valid.
        """
        if not self.kind.holds(value):
            reason = f" ({self.reason})" if self.reason else ""
            raise wrong(
                name or self.name, value, f"{self.kind.expected}{reason}", f"{self.value!r}"
            )


def wrong(name: str, value: object, expected: str, default: str = "") -> UsageError:
    """Returns the error of a field with a wrong value.

    Args:
        name: dotted name of the field.
        value: its value.
        expected: what it must be, to follow "must be".
        default: text of a value that is valid; '' if none is known.
    """
    such_as = f"; the default is {default}" if default else ""
    return UsageError(
        f"{name} is {shown(value)}, but must be {expected}. Set it with "
        f"--config.{name}=VALUE{such_as}."
    )


def shown(value: object) -> str:
    """Returns the text of a value for a message, cut if it is long."""
    try:
        text = printable(repr(value))
    except ValueError:  # Python writes no number of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def config_of(fields: Iterable[Field]) -> ConfigDict:
    """Returns a config of the default values, with a section per prefix."""
    values: dict[str, Any] = {}
    for field in fields:
        *sections, leaf = field.name.split(".")
        place = values
        for section in sections:
            place = place.setdefault(section, {})
        place[leaf] = field.value
    return ConfigDict(values)
