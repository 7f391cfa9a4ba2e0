"""BYOL with patch negatives (Grill et al. 2020; with negatives Ge et al. 2021).

    python main.py --config=configs/byol.py --workdir=runs/byol

default   ResNet-50 on ImageNet-100, batch 512, 200 epochs. Our choice: LARS with the rate that the
          authors' code has for 300 epochs, for this batch, m from 0.99, alpha 0.5.
paper     BYOL as published for 1000 epochs of ImageNet-1K, batch 4096, without negatives:
          --config.data.source=folder:PATH. Published: 74.3 % top-1 of a linear probe.
tiny      a small ResNet on the built-in shapes, minutes on two CPU cores.

Published of BYOL with non-semantic negatives is the loss, not alpha or other settings. Alpha times
the number of negatives must be below 1; `--config.negatives.kind=none --config.negatives.num=0
--config.negatives.alpha=0` is BYOL alone.

Other than published: both views are MoCo-v2's (BYOL's differ in their blur, and one is sometimes
solarised), the rate falls once per epoch, the target begins equal to the network, and initial
values are PyTorch's.
"""

from ml_collections import ConfigDict

from nsneg_jax.jobs import defaults

VARIANTS = defaults.VARIANTS


def get_config(variant: str = "") -> ConfigDict:
    config = defaults.two_views(variant)
    config.method = "byol"
    config.model.head = "byol"
    if variant == "paper":
        config.epochs = 1000
        config.optimizer.update({"learning_rate": 3.2, "weight_decay": 1.5e-6})
        return config.lock()
    config.negatives.update({"kind": "patch", "num": 1, "alpha": 0.5})
    config.siamese.momentum = 0.9 if variant == "tiny" else 0.99
    return config.lock()
