"""The table of corruptions; each is added where it is defined."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from nsneg_jax.errors import UsageError

GROUPS = ("noise", "blur", "weather", "digital")  # in the order of the paper's table
# Kinds of corruptions: in ImageNet-C's mean, outside its mean, a user's, or a suppression.
TEST, EXTRA, OWN, SUPPRESSION = "test", "extra", "own", "suppression"
_KINDS = (TEST, EXTRA, SUPPRESSION, OWN)
_CORRUPTIONS = (TEST, EXTRA, OWN)

Function = Callable[..., jax.Array]
Settings = Callable[[int, int], tuple[Any, ...]]


@dataclass(frozen=True)
class Corruption:
    """One entry of the table.

    Attributes:
        name: name in `corrupt` and in the folders of released sets.
        group: one of `GROUPS`, or another.
        kind: 'test', 'extra', 'own' or 'suppression'.
        severities: number of severities; the first is 1.
        settings: returns the last arrays of `function` for a side in pixels and a severity.
        function: takes planes float32 [N, 3, S, S] in [0, 1], typed keys [N] and these arrays;
            returns planes of the same shape, which the caller clips to [0, 1].
        stream: draws at severity s depend on the keys of the pictures and on stream + s.
    """

    name: str
    group: str
    kind: str
    severities: int
    settings: Settings
    function: Function
    stream: int

    def arrays(self, side: int, severity: int) -> tuple[np.ndarray, ...]:
        """Returns the last arrays of `function`; plain numbers become float32."""
        return tuple(
            x if isinstance(x, np.ndarray) else np.asarray(x, np.float32)
            for x in self.settings(side, severity)
        )

    def draws(self, severity: int) -> np.uint32:
        """Returns the number of the random stream of this corruption and severity."""
        return np.uint32((self.stream + severity) % 2**32)


# By name: corruptions in ImageNet-C's mean by group, then the extra ones by group, then others.
TABLE: dict[str, Corruption] = {}


def corruption(
    name: str,
    group: str,
    settings: Sequence[Any] | Settings,
    *,
    severities: int = 5,
    kind: str = OWN,
    stream: int | None = None,
) -> Callable[[Function], Function]:
    """Adds the decorated function to the table; see `Corruption`.

    A corruption of kind 'own' replaces another of the same name, because a file may be loaded
    twice.

    Args:
        name: name of the corruption: letters, digits and underscores.
        group: one of `GROUPS`, or another.
        settings: one number or array per severity, from severity 1; or a function of side and
            severity that returns a tuple of arrays.
        severities: number of severities, if `settings` is a function.
        kind: 'test' or 'extra' for corruptions of ImageNet-C, 'suppression' for what is evaluated
            apart from corruptions.
        stream: see `Corruption`; by default a hash of the name, which no other entry changes.

    Raises:
        UsageError: the name is invalid or taken by ImageNet-C, or the draws would equal those of
            another corruption.
    """
    if not name.isidentifier():
        raise UsageError(
            f"The corruption's name is {name!r}, but must consist of letters, digits and "
            "underscores, because it names the folders of its pictures."
        )
    if kind not in _KINDS:
        raise UsageError(f"The kind of {name} is {kind!r}, but must be one of {', '.join(_KINDS)}.")
    if not callable(settings):
        levels = tuple(settings)
        severities = len(levels)
        settings = lambda side, severity: (levels[severity - 1],)  # noqa: E731
    stream = zlib.crc32(name.encode()) if stream is None else stream

    def enter(function: Function) -> Function:
        added = Corruption(name, group, kind, severities, settings, function, stream)
        others = [each for each in TABLE.values() if (each.name, each.kind) != (name, OWN)]
        for other in others:
            _check_apart(added, other)
        entries = [*others, added]
        groups = (*GROUPS, *dict.fromkeys(each.group for each in entries))
        entries.sort(key=lambda each: (_KINDS.index(each.kind), groups.index(each.group)))
        TABLE.clear()
        TABLE.update({each.name: each for each in entries})
        return function

    return enter


def names(*kinds: str) -> tuple[str, ...]:
    """Returns the names of these kinds, by default all but suppressions, in the table's order."""
    return tuple(each.name for each in TABLE.values() if each.kind in (kinds or _CORRUPTIONS))


def groups() -> dict[str, tuple[str, ...]]:
    """Returns names by group."""
    found: dict[str, tuple[str, ...]] = {}
    for each in TABLE.values():
        found[each.group] = (*found.get(each.group, ()), each.name)
    return found


def settings_of(*kinds: str) -> tuple[tuple[str, int], ...]:
    """Returns each (name, severity) of these kinds, see `names`."""
    return tuple(
        (name, severity)
        for name in names(*kinds)
        for severity in range(1, 1 + TABLE[name].severities)
    )


def _check_apart(added: Corruption, other: Corruption) -> None:
    if added.name == other.name:
        raise UsageError(f"ImageNet-C already has a corruption {added.name!r}. Give another name.")
    distance = (added.stream - other.stream) % 2**32
    if distance < other.severities or -distance % 2**32 < added.severities:
        raise UsageError(
            f"The corruption {added.name!r} would draw the same random numbers as {other.name!r}. "
            "Give another stream, or another name."
        )
