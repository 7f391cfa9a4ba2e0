"""Short pre-trainings that `nsneg compare` makes, on small pictures.

    nsneg compare FOLDER --budget 1h                                       # all of it, and a page

moco            no negatives.
patch1, patch2  patch negatives with alpha 1 and 2.

Runs with one seed see the same images in the same order and start from the same weights. The prefix
'large:', as in compare:large:patch2, is for an accelerator: a ResNet-18 instead of three blocks.

The views are those of the tiny configs: in a short training, pictures are told apart by their
colours unless the jitter is strong. The settings were chosen on the built-in shapes of data seed 0;
docs/compare.md has the results.
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
    config.data.threads = 1
    if large:
        config.model.update({"arch": "resnet18", "width": 64, "dim": 128, "stem": "small"})
        config.data.update({"image_size": 64, "threads": 8})
    if name != "moco":
        config.negatives.update({"kind": "patch", "num": 1, "alpha": float(name[-1])})
    return config.lock()
