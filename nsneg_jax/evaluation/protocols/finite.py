"""Ends a job whose network gives no numbers, since no figure of them would mean anything."""

import numpy as np

from nsneg_jax.errors import RunError

FEATURES, LOGITS = "features", "logits"
_MEND = {
    FEATURES: "The encoder overflows, or its weights or statistics are not finite: give an earlier "
    "checkpoint, or, if dtype is bfloat16, set --config.dtype=float32.",
    LOGITS: "The encoder's features are finite, so the classifier's weights are at fault: train "
    "the probe again with a lower learning rate, or give an earlier checkpoint.",
}


def check_finite(stage: str, is_finite: np.ndarray, where: str) -> None:
    """Checks that a network gives numbers for all images.

    Args:
        stage: `FEATURES` or `LOGITS`.
        is_finite: bool [n], whether all values of an image are finite.
        where: name of the images.

    Raises:
        RunError: some are not.
    """
    bad = int((~is_finite).sum())
    if bad:
        raise not_finite(stage, f"{bad:,} of the {len(is_finite):,} images of {where}")


def check_features(features: np.ndarray, where: str) -> None:
    """Does `check_finite` for features [n, F]."""
    # The sum of a row is finite if all of it is, and needs no copy of the features.
    check_finite(FEATURES, np.isfinite(features.sum(axis=1, dtype=np.float64)), where)


def not_finite(stage: str, images: str) -> RunError:
    """Returns the error that features or logits of some images are not finite."""
    return RunError(
        f"The {stage} of {images} are not finite (NaN or infinite), so no figure of them would "
        f"mean anything, and none is written. {_MEND[stage]}"
    )
