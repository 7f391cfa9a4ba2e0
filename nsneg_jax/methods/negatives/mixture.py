"""Negatives by name, and the text that names several with a weight each."""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

from nsneg_jax.errors import UsageError
from nsneg_jax.methods.negatives.colours import ColourHistogram
from nsneg_jax.methods.negatives.maker import Negative, Settings, Texture
from nsneg_jax.methods.negatives.patches import Patches
from nsneg_jax.methods.negatives.spectral import (
    AmplitudeOnly,
    HighFrequency,
    LowFrequency,
    PhaseOnly,
)
from nsneg_jax.registry import Registry

Builder = Callable[[Settings], Negative]

NEGATIVES: Registry[Builder] = Registry(
    "negative",
    {
        "patch": lambda settings: Patches(
            settings.patch_range, settings.patch_mode, settings.patch_align
        ),
        "texture": lambda settings: Texture(),
        "low_frequency": lambda settings: LowFrequency(settings.low_pass_sigma),
        "high_frequency": lambda settings: HighFrequency(settings.high_pass_sigma),
        "amplitude_only": lambda settings: AmplitudeOnly(),
        "phase_only": lambda settings: PhaseOnly(),
        "colour_histogram": lambda settings: ColourHistogram(),
    },
)

MOST = 64  # negatives per image of one part
_LEAST_ALPHA, _LARGEST_ALPHA = 1e-3, 100.0
_PART = re.compile(r"(?P<name>\w+)(?::(?P<count>\d{1,4}))?(?:@(?P<alpha>[0-9.eE+-]{1,24}))?")
FORM = (
    "parts with commas, each NAME, NAME:COUNT, NAME@ALPHA or NAME:COUNT@ALPHA, such as "
    "'low_frequency@1,colour_histogram:2@0.5'"
)


@dataclass(frozen=True)
class Part:
    """One part of a mixture.

    Attributes:
        name: a name in `NEGATIVES`.
        count: how many of these negatives an image has, 1 to `MOST`.
        alpha: weight of their similarities, 0.001 to 100; None if the text does not say.
    """

    name: str
    count: int
    alpha: float | None


def register(name: str, builder: Builder) -> None:
    """Registers a negative under a name, which configs give in `negatives.more`.

    Args:
        name: letters, digits and underscores; none of the package's own.
        builder: called with the `Settings` of a config; returns the negative.

    Raises:
        ValueError: the package has one of this name, or the name cannot stand in a mixture.
    """
    if not re.fullmatch(r"\w+", name):
        raise ValueError(f"The name {name!r} must have letters, digits and underscores alone.")
    NEGATIVES.add(name, builder)


def parse(text: str, known: Collection[str] | None = NEGATIVES) -> tuple[Part, ...]:
    """Reads a mixture such as 'patch:2,low_frequency@0.5'; '' has no parts.

    Args:
        text: parts with commas, each NAME, NAME:COUNT, NAME@ALPHA or NAME:COUNT@ALPHA.
        known: names that a part may have; None for all.

    Raises:
        UsageError: a part has another form, an unknown name or a number out of range.
    """
    return tuple(_part(part.strip(), text, known) for part in text.split(",")) if text else ()


def _part(part: str, text: str, known: Collection[str] | None) -> Part:
    found = _PART.fullmatch(part)
    if found is None:
        raise UsageError(
            f"The mixture of negatives {text[:100]!r} has the part {part[:50]!r}, but must have "
            f"{FORM}."
        )
    name, count = found["name"], int(found["count"] or 1)
    if known is not None and name not in known:
        raise UsageError(
            f"The mixture of negatives {text[:100]!r} has {name[:50]!r}, but must have names among "
            f"{', '.join(known)}. A config that uses another one imports the file that "
            "registers it."
        )
    if not 1 <= count <= MOST:
        raise UsageError(
            f"The mixture of negatives {text[:100]!r} has {count} of {name!r}, but must have 1 to "
            f"{MOST}: each is one more image per sample."
        )
    if found["alpha"] is None:
        return Part(name, count, None)
    try:
        alpha = float(found["alpha"])
    except ValueError:
        alpha = 0.0
    if not _LEAST_ALPHA <= alpha <= _LARGEST_ALPHA:
        raise UsageError(
            f"The mixture of negatives {text[:100]!r} has the alpha {found['alpha']!r} of "
            f"{name!r}, but must have a number from {_LEAST_ALPHA:g} to {_LARGEST_ALPHA:g}."
        )
    return Part(name, count, alpha)


def numbered(names: list[str]) -> list[str]:
    """Numbers names that occur again, from the second on: 'patch', 'patch 2', 'texture'."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(f"{name} {seen[name]}" if seen[name] > 1 else name)
    return found
