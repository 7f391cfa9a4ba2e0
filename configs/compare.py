"""Short pre-trainings that `nsneg compare` makes, on small pictures.

    nsneg compare FOLDER --budget 1h                                       # all of it, and a page

moco            no negatives.
patch1, patch2  patch negatives with alpha 1 and 2.
symmetric, byol, simclr, mocov3                     other methods without negatives.
symmetric+patch, byol+patch, simclr+patch, mocov3+patch     these with patch negatives; alpha 2, and
                0.5 for BYOL.

Runs with one seed see the same images in the same order and start from the same weights. The prefix
'large:', as in compare:large:patch2, is for an accelerator: a ResNet-18 instead of three blocks.

The views are the paper's without blur, in crops of half a picture or more, and the rest is as in
configs/claim.py with half the width; the other methods have what their 'tiny' configs have.
docs/compare.md has what was measured.
"""

from ml_collections import ConfigDict

from nsneg_jax.jobs import defaults

LARGE = "large:"
SYMMETRIC, TWO_VIEWS = "symmetric", ("byol", "simclr", "mocov3")
WITHOUT = ("moco", SYMMETRIC, *TWO_VIEWS)
VARIANTS = (*WITHOUT, "patch1", "patch2", *(f"{method}+patch" for method in WITHOUT[1:]))


def get_config(variant: str = "patch2") -> ConfigDict:
    large = variant.startswith(LARGE)
    name = variant.removeprefix(LARGE)
    defaults.check_variant(name, VARIANTS)
    method = name.partition("+")[0]
    if method in TWO_VIEWS:
        config = defaults.two_views("tiny")
        config.method = config.model.head = method
        config.siamese.momentum = 0.9
    else:
        config = defaults.pretraining("tiny")
        config.optimizer.learning_rate = 0.06
        config.moco.symmetric = method == SYMMETRIC
    config.model.width = 16
    paper = defaults.pretraining("paper").views
    config.views.update({name: paper[name] for name in ("jitter", "grayscale_probability")})
    config.data.threads = 1
    if large:
        config.model.update({"arch": "resnet18", "width": 64, "dim": 128, "stem": "small"})
        config.data.update({"image_size": 64, "threads": 8})
    if name not in WITHOUT:
        alpha = {"patch1": 1.0, "byol+patch": 0.5}.get(name, 2.0)
        config.negatives.update({"kind": "patch", "num": 1, "alpha": alpha})
    return config.lock()
