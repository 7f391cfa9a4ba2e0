"""Short pre-trainings that `nsneg compare` makes, on small pictures.

    nsneg compare FOLDER --budget 1h                                       # all of it, and a page

moco            no negatives.
patch1, patch2  patch negatives with alpha 1 and 2.

Runs with one seed see the same images in the same order and start from the same weights. The prefix
'large:', as in compare:large:patch2, is for an accelerator: a ResNet-18 instead of three blocks.

The views are the paper's without blur, in crops of half a picture or more, and the rest is as in
configs/claim.py with half the width. docs/compare.md has what was measured.
"""

from ml_collections import ConfigDict

from nsneg_jax.jobs import defaults

LARGE = "large:"
VARIANTS = ("moco", "patch1", "patch2")


def get_config(variant: str = "patch2") -> ConfigDict:
    large = variant.startswith(LARGE)
    name = variant.removeprefix(LARGE)
    defaults.check_variant(name, VARIANTS)
    config = defaults.pretraining("tiny")
    config.optimizer.learning_rate = 0.06
    config.model.width = 16
    paper = defaults.pretraining("paper").views
    config.views.update({name: paper[name] for name in ("jitter", "grayscale_probability")})
    config.data.threads = 1
    if large:
        config.model.update({"arch": "resnet18", "width": 64, "dim": 128, "stem": "small"})
        config.data.update({"image_size": 64, "threads": 8})
    if name != "moco":
        config.negatives.update({"kind": "patch", "num": 1, "alpha": float(name[-1])})
    return config.lock()
