"""Benchmarks of corruptions: which settings they have, and errors relative to AlexNet's."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from nsneg_jax.corruptions import CORRUPTIONS, EXTRA, SEVERITIES, SUPPRESSIONS, settings_of


class Benchmark(NamedTuple):
    """A benchmark of corruptions.

    Attributes:
        names: the corruptions of its mean.
        extra: further ones, which are outside of it.
        images_a_class: files that a released corruption and severity has per class; None if
            not known.
    """

    names: tuple[str, ...]
    extra: tuple[str, ...] = ()
    images_a_class: int | None = None


IMAGENET_C = "imagenet-c"
SUPPRESSION = "suppression"
MADE_HERE = (IMAGENET_C, SUPPRESSION)  # the others are read from files
# Hendrycks & Dietterich 2019; Mintun, Kirillov & Xie 2021, github.com/facebookresearch/
# augmentation-corruption, whose folders these are. Both have SEVERITIES.
BENCHMARKS = {
    IMAGENET_C: Benchmark(CORRUPTIONS, EXTRA, images_a_class=50),
    "imagenet-c-bar": Benchmark(
        (
            "blue_noise_sample", "brownish_noise", "caustic_refraction", "checkerboard_cutout",
            "cocentric_sine_waves", "inverse_sparkles", "perlin_noise", "plasma_noise",
            "single_frequency_greyscale", "sparkles",
        )
    ),
    SUPPRESSION: Benchmark(SUPPRESSIONS),
}  # fmt: skip

# AlexNet's top-1 errors on ImageNet-C in %, means over the severities, from the authors' code
# (github.com/hendrycks/robustness) as AugMix and MMPretrain use it too, and its error on clean
# images from table 1 of the paper (ICLR 2019). All are of 1000 classes.
ALEXNET = {
    "gaussian_noise": 88.6428, "shot_noise": 89.4468, "impulse_noise": 92.2640,
    "defocus_blur": 81.9880, "glass_blur": 82.6268, "motion_blur": 78.5948, "zoom_blur": 79.8360,
    "snow": 86.6816, "frost": 82.6572, "fog": 81.9324, "brightness": 56.4592,
    "contrast": 85.3204, "elastic_transform": 64.6056, "pixelate": 71.7840,
    "jpeg_compression": 60.6500,
}  # fmt: skip
ALEXNET_CLEAN = 43.5


def available(benchmark: str) -> tuple[tuple[str, int], ...]:
    """Returns each (corruption, severity) that a folder of the benchmark may have."""
    if benchmark == IMAGENET_C:
        return settings_of()  # with any added ones
    names = BENCHMARKS[benchmark].names
    return tuple((name, severity) for name in names for severity in SEVERITIES)


Table = Mapping[str, Mapping[str, float]]  # top-1 in % by corruption and severity


def mean(table: Table, names: tuple[str, ...]) -> float | None:
    """Returns the mean over all severities of all `names`; None if one is missing."""
    cells = [table.get(name, {}).get(str(severity)) for name in names for severity in SEVERITIES]
    known = [cell for cell in cells if cell is not None]
    return float(np.mean(known)) if len(known) == len(cells) else None


def corruption_errors(table: Table, clean: float | None) -> dict[str, float | None]:
    """Returns ImageNet-C's errors relative to AlexNet's, in %.

    The corruption error of a corruption is the sum of the errors over its severities, divided by
    AlexNet's; 'mce' is the mean over the 15. In 'relative_mce' both sums are of increases over the
    error on clean images.

    Args:
        table: the accuracies.
        clean: top-1 in % on clean images of the same classes; None if unknown.

    Returns:
        'mce' and 'relative_mce'; None where a setting, or `clean`, is missing.
    """
    means = {name: mean(table, (name,)) for name in ALEXNET}
    known = {name: 100 - value for name, value in means.items() if value is not None}
    if len(known) < len(ALEXNET):
        return {"mce": None, "relative_mce": None}
    found: dict[str, float | None] = {
        "mce": 100 * float(np.mean([known[name] / ALEXNET[name] for name in ALEXNET])),
        "relative_mce": None,
    }
    if clean is not None:
        increases = [
            (known[name] - (100 - clean)) / (ALEXNET[name] - ALEXNET_CLEAN) for name in ALEXNET
        ]
        found["relative_mce"] = 100 * float(np.mean(increases))
    return found
