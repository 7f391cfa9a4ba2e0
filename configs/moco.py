"""MoCo-v2 without non-semantic negatives: the baseline.

    python main.py --config=configs/moco.py --workdir=runs/moco

default   recipe B: ResNet-50, batch 512, lr 0.8, m 0.99, 200 epochs, K 16384.
paper     recipe A: batch 128, lr 0.03, m 0.999, K 16384. Published: 77.88 +- 0.28 % top-1 of a
          linear probe on ImageNet-100.
tiny      a small ResNet on the built-in shapes, minutes on two CPU cores.

Published for recipe B with K = 65536 (`--config.moco.queue_size=65536`): 80.00 +- 0.14 %.
"""

from ml_collections import ConfigDict

from nsneg_jax.jobs import defaults

VARIANTS = defaults.VARIANTS


def get_config(variant: str = "") -> ConfigDict:
    return defaults.pretraining(variant).lock()
