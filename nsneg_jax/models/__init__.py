"""Networks: `build` makes one by name, `register` adds one."""

from nsneg_jax.models.build import (
    NETWORKS,
    Predictor,
    backbone_settings,
    build,
    has_batch_norm,
    register,
    structure,
)

__all__ = [
    "NETWORKS",
    "Predictor",
    "backbone_settings",
    "build",
    "has_batch_norm",
    "register",
    "structure",
]
