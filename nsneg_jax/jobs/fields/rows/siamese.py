"""The fields of the methods with two views, BYOL, SimCLR and MoCo-v3, and of their heads."""

from collections.abc import Collection

from nsneg_jax.jobs.fields.field import Field
from nsneg_jax.jobs.fields.kinds import Choice, Number, Whole
from nsneg_jax.jobs.fields.rows import shared
from nsneg_jax.jobs.fields.rows.shared import switch


def _heads() -> Collection[str]:
    from nsneg_jax.models.heads import HEADS

    return HEADS


HEAD = (
    Field(
        "model.head",
        "moco",
        Choice(_heads),
        "projection head: 'moco' (see model.mlp), or with batch norm as published 'simclr', "
        "'byol', 'mocov3' (for ResNets) or 'mocov3_vit'",
        is_wordy=True,
    ),
    Field(
        "model.head_hidden",
        0,
        Whole(0, 65536),
        "hidden units of such a head and of the predictor; 0 = as published: as many as features "
        "for 'simclr', else 4096",
    ),
)
SYMMETRIC = switch(
    "moco.symmetric",
    False,
    "whether both views are queries, each with its own negatives; a step enqueues 2 batch_size "
    "keys",
)
SIAMESE = (
    Field(
        "siamese.momentum",
        0.996,
        Number(0, 1, below=True),
        "'byol', 'mocov3': m of the target network in the first step",
        "with 1 the target would stay as it began",
    ),
    Field(
        "siamese.momentum_schedule",
        "cosine",
        Choice(("cosine", "constant")),
        "of m: 'cosine' = it rises to 1 over epochs, 'constant'",
        is_wordy=True,
    ),
    Field(
        "siamese.temperature",
        0.2,
        shared.TEMPERATURE,
        "'simclr', 'mocov3': divides the similarities",
        shared.TEMPERATURE_REASON,
    ),
    switch(
        "siamese.negative_gradient",
        False,
        "'simclr': whether the non-semantic negatives have a gradient",
    ),
    switch(
        "siamese.merge_passes",
        True,
        "whether views and negatives share one forward pass per network",
    ),
)
