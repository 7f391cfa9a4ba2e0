"""MoCo-v2 with patch negatives: the paper's method.

    python main.py --config=configs/patch.py --workdir=runs/patch

default   recipe B: ResNet-50, batch 512, lr 0.8, m 0.99, 200 epochs, K 16384, alpha 2.
          Published: 81.49 +- 0.11 % top-1 of a linear probe on ImageNet-100.
paper     recipe A: batch 128, lr 0.03, m 0.999, K 16384, alpha 2. Published: 79.35 +- 0.12 %.
tiny      a small ResNet on the built-in shapes, minutes on two CPU cores.

For one small machine, each with ResNet-18 unless it says otherwise (docs/recipes.md):

small           pictures of 96 px of any folder, --config.data.source=folder:PATH.
cifar10, cifar100   the archive in a folder, --config.data.source=cifar10:PATH or cifar100:PATH.
stl10           its unlabelled pictures, --config.data.source=stl10:PATH.
fashion_mnist   a small ResNet, for two CPU cores, --config.data.source=idx:PATH.
"""

from ml_collections import ConfigDict

from nsneg_jax.jobs import defaults

VARIANTS = (*defaults.VARIANTS, *defaults.SMALL)


def get_config(variant: str = "") -> ConfigDict:
    config = defaults.pretraining(variant)
    config.negatives.update({"kind": "patch", "num": 1, "alpha": 2.0})
    return config.lock()
