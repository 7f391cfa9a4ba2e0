"""The table of corruptions, in which each enters itself where it is defined."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from nsneg_jax.errors import UsageError

GROUPS = ("noise", "blur", "weather", "digital")  # in the order of the paper's table
# whether ImageNet-C has a corruption: in its mean, outside its mean, or not at all
TEST, EXTRA, OWN = "test", "extra", "own"
_KINDS = (TEST, EXTRA, OWN)

Function = Callable[..., jax.Array]
Settings = Callable[[int, int], tuple[Any, ...]]


@dataclass(frozen=True)
class Corruption:
    """One entry of the table.

    Attributes:
        name: as in `corrupt` and in the folders of released sets.
        group: one of `GROUPS`, or another.
        kind: 'test', 'extra' or 'own'.
        severities: how many there are, from 1.
        settings: of a side in pixels and a severity, the arrays that `function` takes last.
        function: of planes float32 [N, 3, S, S] in [0, 1], typed keys [N] and these arrays; returns
            planes of the same shape, to be clipped to [0, 1].
        stream: what is drawn at severity s depends on the pictures' keys and on stream + s.
    """

    name: str
    group: str
    kind: str
    severities: int
    settings: Settings
    function: Function
    stream: int

    def arrays(self, side: int, severity: int) -> tuple[np.ndarray, ...]:
        """What `function` takes besides planes and keys; plain numbers become float32."""
        return tuple(
            x if isinstance(x, np.ndarray) else np.asarray(x, np.float32)
            for x in self.settings(side, severity)
        )

    def draws(self, severity: int) -> np.uint32:
        """The number that tells the draws of this corruption and severity from all others."""
        return np.uint32((self.stream + severity) % 2**32)


# by name; those of ImageNet-C's mean by group, then the extra ones by group, then all others
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
    """Enters the decorated function into the table; see `Corruption`.

    One of kind 'own' takes the place of another of its name: the file may be loaded twice.

    Args:
        name: of the corruption, letters, digits and underscores.
        group: what it belongs to, of `GROUPS` or another.
        settings: what each severity sets, from severity 1: a number or an array apiece; or a
            function of side and severity that returns a tuple of arrays.
        severities: how many there are, where `settings` is a function.
        kind: 'test' or 'extra' of those that ImageNet-C has.
        stream: see `Corruption`; by default a hash of the name, which no other entry changes.

    Raises:
        UsageError: the name is no name or is one of ImageNet-C's, or the draws would be those of
            another corruption.
    """
    if not name.isidentifier():
        raise UsageError(
            f"The corruption's name is {name!r}, but must be of letters, digits and underscores, "
            "as the folders of its pictures are named."
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
    """Names of the corruptions of these kinds, all without any, in the order of the table."""
    return tuple(each.name for each in TABLE.values() if not kinds or each.kind in kinds)


def groups() -> dict[str, tuple[str, ...]]:
    """Names by group."""
    found: dict[str, tuple[str, ...]] = {}
    for each in TABLE.values():
        found[each.group] = (*found.get(each.group, ()), each.name)
    return found


def settings_of(*kinds: str) -> tuple[tuple[str, int], ...]:
    """Each (name, severity) of the corruptions of these kinds, in the order of the table."""
    return tuple(
        (name, severity)
        for name in names(*kinds)
        for severity in range(1, 1 + TABLE[name].severities)
    )


def _check_apart(added: Corruption, other: Corruption) -> None:
    if added.name == other.name:
        raise UsageError(f"ImageNet-C has a corruption {added.name!r} itself. Give another name.")
    distance = (added.stream - other.stream) % 2**32
    if distance < other.severities or -distance % 2**32 < added.severities:
        raise UsageError(
            f"The corruption {added.name!r} would draw the numbers of {other.name!r}. Give another "
            "stream, or another name."
        )
