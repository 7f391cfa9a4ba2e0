"""The fields of a pre-training's negatives and of its loss. Sizes "at 224" scale with the view."""

from collections.abc import Collection

from nsneg_jax.files import data_root
from nsneg_jax.jobs.fields.field import Field
from nsneg_jax.jobs.fields.kinds import Choice, Number, Pair, Text, Weighted, Whole
from nsneg_jax.jobs.fields.rows import shared

KINDS = ("none", "patch", "texture", "patch+texture")  # of negatives


def _modes() -> Collection[str]:
    from nsneg_jax.methods.negatives import MODES

    return MODES


def _losses() -> Collection[str]:
    from nsneg_jax.methods.contrast import LOSSES

    return LOSSES


NEGATIVES = (
    Field(
        "negatives.kind",
        "none",
        Choice(KINDS),
        "kind of negative: 'none', 'patch', 'texture', 'patch+texture'",
        is_wordy=True,
    ),
    Field(
        "negatives.num",
        0,
        Whole(0, 64),
        "patch negatives per image; 0 for 'none', 1 for 'texture'",
        "each is one more image per sample",
    ),
    Field(
        "negatives.alpha",
        0.0,
        Number(1e-3, 100, zero=True),
        "multiplies their similarity; greater than 0, but 0 for 'none'",
        "the paper has 1 to 3",
    ),
    Field(
        "negatives.texture_alpha",
        0.0,
        Number(1e-3, 100, zero=True),
        "'patch+texture': multiplies the similarity of the textures; 0 = alpha",
    ),
    Field(
        "negatives.texture_source",
        lambda: f"folder:{data_root()}/imagenet100-texture",
        Text("'folder:PATH', for example", needed=True),
        "textures: 'folder:PATH' or 'arrayrecord:PATH' with SPLIT/CLASS/NAME.png per NAME.JPEG; "
        "'made' = generated from the built-in images",
        named_default="folder:$NSNEG_DATA/imagenet100-texture",
    ),
    Field(
        "negatives.missing",
        "error",
        Choice(("error", "skip")),
        "images without a texture: 'error' = do not start, 'skip' = leave them out",
        is_wordy=True,
    ),
    Field(
        "negatives.patch_size",
        (16, 72),
        Pair(Whole(1, 223)),
        "side of a patch in pixels at 224, inclusive",
        "a patch is smaller than an image of 224",
    ),
    Field(
        "negatives.patch_mode",
        "crops",
        Choice(_modes),
        "patches: 'crops' = random ones; 'rotated', 'flipped', 'rotated+flipped' = these, each in "
        "a random orientation; 'jigsaw' = those of a grid in random order",
        is_wordy=True,
    ),
    Field(
        "negatives.patch_align",
        0,
        Whole(1, 223, (0,)),
        "pixels of the view of which sides and corners of patches are multiples, such as "
        "model.token_size of a ViT; 0 = any",
        "a patch is smaller than an image of 224",
    ),
    Field(
        "negatives.more",
        "",
        Weighted(),
        "negatives beside those of negatives.kind, such as 'low_frequency@1,colour_histogram:2@0.5'"
        ": names with a number per image (1) and an alpha (negatives.alpha) each; "
        "'low_frequency', 'high_frequency', 'amplitude_only', 'phase_only', 'colour_histogram', "
        "'patch', 'texture' or one registered in nsneg_jax.methods.negatives",
        is_wordy=True,
    ),
    Field(
        "negatives.low_pass_sigma",
        10.0,
        Number(0.1, 100),
        "'low_frequency': sigma in pixels at 224 of the Gaussian that blurs",
        "Geirhos et al. 2018 have 1 to 40",
    ),
    Field(
        "negatives.high_pass_sigma",
        3.0,
        Number(0.1, 100),
        "'high_frequency': sigma in pixels at 224 of the Gaussian that is taken away",
        "Geirhos et al. 2018 have 0.4 to 3",
    ),
)

LOSS = (
    Field(
        "loss.name",
        "infonce",
        Choice(_losses),
        "'infonce', the paper's; 'ifm' = its mean with itself after similarities moved by "
        "loss.epsilon (Robinson et al. 2021); or one registered in nsneg_jax.methods.contrast",
        is_wordy=True,
    ),
    Field(
        "loss.epsilon",
        0.0,
        Number(1e-4, 1, zero=True),
        "'ifm': how far each similarity moves; greater than 0, but 0 for 'infonce'",
        "IFM's authors have 0.05 to 0.2",
    ),
    Field(
        "mochi.hardest",
        1024,
        Whole(2, 2**31 - 1),
        "N of MoCHi, the queue's keys most similar to a query that are mixed; at most "
        "moco.queue_size",
        "a pair needs two keys",
    ),
    Field(
        "mochi.pairs",
        0,
        Whole(0, 65536),
        "s of MoCHi, negatives per query mixed from two of these keys; 0 = none",
        "each is one more embedding per query",
    ),
    Field(
        "mochi.with_query",
        0,
        Whole(0, 65536),
        "s' of MoCHi, negatives per query mixed from such a key and the query; 0 = none",
        "each is one more embedding per query",
    ),
    Field(
        "mochi.warmup_epochs",
        10,
        shared.EPOCHS_OR_0,
        "first epochs without mixed negatives",
    ),
)
