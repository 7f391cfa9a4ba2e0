"""Says in words what a method with two views was set to."""

from collections.abc import Mapping
from typing import Any

from nsneg_jax.methods import siamese


def of_two_views(config: Mapping[str, Any]) -> str:
    """Returns target momentum and temperature of BYOL, SimCLR or MoCo-v3; '' for other methods.

    Args:
        config: config of a pre-training, nested; one of an earlier version has no such method.
    """
    method, settings = config.get("method"), config.get("siamese")
    if method not in siamese.NAMES or not settings:
        return ""
    parts = []
    if method != siamese.SIMCLR:
        rises = " rising to 1" if settings["momentum_schedule"] == "cosine" else ""
        parts.append(f"target momentum {settings['momentum']:g}{rises}")
    if method != siamese.BYOL:
        parts.append(f"temperature {settings['temperature']:g}")
    return ", ".join(parts)


def section_of(method: str) -> str:
    """Returns the section of a config with a method's momentum and temperature."""
    return "siamese" if method in siamese.NAMES else "moco"
