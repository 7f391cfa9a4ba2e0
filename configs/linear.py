"""Linear probe of a pre-trained encoder, and its other evaluations: kNN and features to a file.

    python main.py --config=configs/linear.py --workdir=runs/linear --config.pretrained=runs/patch

default, paper   the original's: lr 10, batch 128, 60 epochs, x0.1 at 30, 40 and 50.
imagenet1k       MoCo's for ImageNet-1K: lr 30, batch 256, 100 epochs, x0.1 at 60 and 80.
tiny             for the tiny pre-training on the built-in shapes.
small            for encoders of configs/patch.py:small, :cifar10, :cifar100 and :stl10: several
                 rates in one pass, batch 256.
fashion_mnist    for those of configs/patch.py:fashion_mnist, 5 epochs.

Published top-1 on ImageNet-100 of encoders pre-trained by configs/patch.py: 81.49 +- 0.11 %; by
configs/patch.py:paper: 79.35 +- 0.12 %.
"""

from ml_collections import ConfigDict

from nsneg_jax.files import data_root
from nsneg_jax.jobs import defaults

VARIANTS = ("", "paper", "imagenet1k", "tiny", "small", "fashion_mnist")


def get_config(variant: str = "") -> ConfigDict:
    defaults.check_variant(variant, VARIANTS)
    config = defaults.probing()
    if variant == "imagenet1k":
        config.update({"batch_size": 256, "epochs": 100, "learning_rates": (30.0,)})
        config.data.source = f"folder:{data_root()}/imagenet"
        config.optimizer.milestones = (60, 80)
    if variant == "small":
        config.update({"batch_size": 256, "learning_rates": (1.0, 3.0, 10.0, 30.0)})
    if variant == "fashion_mnist":
        config.update({"batch_size": 250, "epochs": 5, "learning_rates": (0.1, 1.0, 10.0)})
        config.data.update({"split": "train[:20%]", "threads": 2, "workers": 0})
        config.optimizer.milestones = (3, 4)
        config.crop_scale = (0.5, 1.0)
    if variant == "tiny":
        config.update({"batch_size": 100, "epochs": 36, "learning_rates": (0.01, 0.1, 1.0, 10.0)})
        config.data.update({"source": "shapes:4000", "image_size": 32, "resize": 0})
        config.data.update({"threads": 2, "workers": 0})
        config.optimizer.milestones = (18, 27)
        # The shapes vary in place and size anyway. Random crops would enlarge them all, and the
        # test shows smaller ones.
        config.crop_scale = (1.0, 1.0)
    return config.lock()
