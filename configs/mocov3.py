"""MoCo-v3 with patch negatives (Chen, Xie and He 2021, arXiv 2104.02057).

    python main.py --config=configs/mocov3.py --workdir=runs/mocov3

default   ResNet-50 on ImageNet-100, batch 512, 200 epochs. Our choice: LARS with the rate of the
          published 300 epochs for this batch, m from 0.99, T 0.2, alpha 2.
paper     MoCo-v3 as published for ResNet-50 and 300 epochs of ImageNet-1K, batch 4096, T 1, without
          negatives: --config.data.source=folder:PATH. Published: 72.8 % top-1 of a linear probe.
vit_small ViT-S/16 on ImageNet-100, batch 512: the published AdamW, weight decay, warm-up, T 0.2 and
          m from 0.99; alpha 2 and 200 epochs are ours. Published without negatives: 73.2 % after
          300 epochs of ImageNet-1K with batch 4096.
tiny      a small ResNet on the built-in shapes, minutes on two CPU cores.

MoCo-v3 with non-semantic negatives is not published. Here each view asks among the keys of the
whole batch and its own negatives, exp(alpha cos / T) each, which the momentum encoder embeds.

Other than published: both views are MoCo-v2's (the original's differ in their blur, and one is
sometimes solarised), and the rate falls once per epoch.
"""

from ml_collections import ConfigDict

from nsneg_jax.jobs import defaults

VARIANTS = (*defaults.VARIANTS, "vit_small")


def get_config(variant: str = "") -> ConfigDict:
    config = defaults.two_views("" if variant == "vit_small" else variant)
    config.method = "mocov3"
    config.model.head = "mocov3"
    if variant == "paper":
        config.siamese.update({"momentum": 0.99, "temperature": 1.0})
        return config.lock()
    if variant == "vit_small":
        config.model.update({"arch": "vit_small", "head": "mocov3_vit"})
        # 1.5e-4 at a batch of 256, by the batch.
        config.optimizer.update({"name": "adamw", "learning_rate": 3e-4, "weight_decay": 0.1})
        config.optimizer.warmup_epochs = 40
    config.negatives.update({"kind": "patch", "num": 1, "alpha": 2.0})
    config.siamese.momentum = 0.9 if variant == "tiny" else 0.99
    return config.lock()
