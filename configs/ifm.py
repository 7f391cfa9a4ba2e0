"""MoCo-v2 with implicit feature modification, IFM (Robinson et al. 2021), and epsilon 0.1.

    python main.py --config=configs/ifm.py --workdir=runs/ifm

default   recipe B, whose hyper-parameters are those of IFM's authors, with K 16384 as in moco.py.
paper     the authors' command (github.com/joshr17/IFM): the same with K 65536. They report 81.4 %
          top-1 of a linear probe on ImageNet-100; 80.5 % without IFM (epsilon 0), 81.1 % with
          epsilon 0.05 and 80.9 % with 0.2.
tiny      a small ResNet on the built-in shapes, minutes on two CPU cores.

With patch negatives besides:

    python main.py --config=configs/ifm.py --workdir=runs/ifm-patch --config.negatives.kind=patch \\
        --config.negatives.num=1 --config.negatives.alpha=2

The rows "MoCo*" of Ge et al. have IFM's hyper-parameters, which are recipe B's (configs/moco.py and
patch.py); we know of no epsilon in them, nor of figures of IFM with non-semantic negatives.
"""

from ml_collections import ConfigDict

from nsneg_jax.jobs import defaults

VARIANTS = defaults.VARIANTS


def get_config(variant: str = "") -> ConfigDict:
    defaults.check_variant(variant, VARIANTS)
    config = defaults.pretraining("tiny" if variant == "tiny" else "")
    config.loss.update({"name": "ifm", "epsilon": 0.1})
    if variant == "paper":
        config.moco.queue_size = 65536
    return config.lock()
