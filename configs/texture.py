"""MoCo-v2 with texture negatives: the paper's second kind.

    python main.py --config=configs/texture.py --workdir=runs/texture

default   recipe B: ResNet-50, batch 512, lr 0.8, m 0.99, 200 epochs, K 16384, alpha 2.
paper     recipe A: batch 128, lr 0.03, m 0.999, K 16384, alpha 2. Published: 77.76 +- 0.17 % top-1
          of a linear probe on ImageNet-100.
tiny      a small ResNet on the built-in shapes and textures made of them, minutes on two CPU cores.

Make the textures beforehand, see docs/data.md. `--config.negatives.kind=patch+texture` uses both
kinds of negatives; `--config.negatives.texture_alpha` gives the textures their own alpha.
"""

from ml_collections import ConfigDict

from nsneg_jax.jobs import defaults

VARIANTS = defaults.VARIANTS


def get_config(variant: str = "") -> ConfigDict:
    defaults.check_variant(variant, VARIANTS)
    config = defaults.pretraining(variant)
    config.negatives.update({"kind": "texture", "num": 1, "alpha": 2.0})
    if variant == "tiny":
        config.negatives.texture_source = "made"
    return config.lock()
