"""The fields of vision transformers, in the section `model` of a pre-training's config."""

from collections.abc import Collection

from nsneg_jax.jobs.fields.field import Field
from nsneg_jax.jobs.fields.kinds import Choice, Whole
from nsneg_jax.jobs.fields.rows.shared import switch


def _positions() -> Collection[str]:
    from nsneg_jax.models.transformers.vit import POSITIONS

    return POSITIONS


def _poolings() -> Collection[str]:
    from nsneg_jax.models.transformers.vit import POOLINGS

    return POOLINGS


TRANSFORMER = (
    Field(
        "model.token_size",
        16,
        Whole(1, 256),
        "ViT: pixels of the side of a square that becomes a token; a divisor of data.image_size",
    ),
    Field("model.blocks", 0, Whole(1, 100, (0,)), "ViT: number of blocks; 0 = the network's 12"),
    Field(
        "model.attention_heads",
        0,
        Whole(1, 256, (0,)),
        "ViT: heads of each block, a divisor of its features; 0 = MoCo-v3's, 12 of 'vit_small' and "
        "'vit_base' (timm's 'vit_small' has 6) and 3 of 'vit_tiny'",
    ),
    Field(
        "model.positions",
        "sincos",
        Choice(_positions),
        "ViT: 'sincos' = fixed sines and cosines of row and column, or 'learnable'",
        is_wordy=True,
    ),
    Field(
        "model.position_grid",
        14,
        Whole(1, 256),
        "ViT: side in tokens of the grid of learnable positions, data.image_size / token_size; "
        "images with another grid take them interpolated",
    ),
    Field(
        "model.token_pooling",
        "class",
        Choice(_poolings),
        "ViT: features are the 'class' token after the last norm, or the 'mean' of the others",
        is_wordy=True,
    ),
    switch(
        "model.freeze_tokens",
        True,
        "ViT: whether the projection of pixels to tokens keeps its random initial values (MoCo-v3)",
    ),
    switch(
        "model.remat",
        False,
        "whether to compute blocks again in the backward pass: less memory, a third more products",
    ),
)
