"""Non-semantic negatives of images: pictures with a part of an image's features, and not its shape.

`patches` has the published ones; `mixture.NEGATIVES` has all of them by name, and `register` adds
one. docs/negatives.md shows them.
"""

from nsneg_jax.methods.negatives.colours import ColourHistogram
from nsneg_jax.methods.negatives.maker import Negative, Settings, Texture
from nsneg_jax.methods.negatives.mixture import NEGATIVES, Part, numbered, parse, register
from nsneg_jax.methods.negatives.patches import (
    MODES,
    Mode,
    PatchDraws,
    Patches,
    draw_patches,
    oriented,
    patch_negatives,
    scaled_patch_range,
    validate_alignment,
    validate_patch_size,
)
from nsneg_jax.methods.negatives.spectral import (
    AmplitudeOnly,
    HighFrequency,
    LowFrequency,
    PhaseOnly,
)

__all__ = [
    "MODES", "NEGATIVES",
    "AmplitudeOnly", "ColourHistogram", "HighFrequency", "LowFrequency", "Mode", "Negative", "Part",
    "PatchDraws", "Patches", "PhaseOnly", "Settings", "Texture",
    "draw_patches", "numbered", "oriented", "parse", "patch_negatives", "register",
    "scaled_patch_range", "validate_alignment", "validate_patch_size",
]  # fmt: skip
