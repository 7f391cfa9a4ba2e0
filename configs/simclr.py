"""SimCLR with patch negatives (Chen et al. 2020, arXiv 2002.05709).

    python main.py --config=configs/simclr.py --workdir=runs/simclr

default   ResNet-50 on ImageNet-100, batch 512, 200 epochs. Our choice: LARS, alpha 2 as in the
          paper of the negatives.
paper     SimCLR as published for 100 epochs of ImageNet-1K, batch 4096, without negatives:
          --config.data.source=folder:PATH. Published: 64.5 % top-1 of a linear probe.
tiny      a small ResNet on the built-in shapes, minutes on two CPU cores.

SimCLR with non-semantic negatives is not published. Here each of the 2 N views has its own
negatives in the denominator of NT-Xent, exp(alpha cos / T) each; they are embedded by the same
network, without gradient unless `--config.siamese.negative_gradient=True`, and leave its running
statistics alone.

Other than published: the rate falls once per epoch, initial values
are PyTorch's, and the loss is the mean over the 2 N views as in the paper, half of its code's.
"""

from ml_collections import ConfigDict

from nsneg_jax.jobs import defaults

VARIANTS = defaults.VARIANTS


def get_config(variant: str = "") -> ConfigDict:
    config = defaults.two_views(variant)
    config.method = "simclr"
    config.model.head = "simclr"
    if variant == "paper":
        config.model.dim = 128
        config.epochs = 100
        config.siamese.temperature = 0.1
        config.views.update({"crop_scale": (0.08, 1.0), "jitter": (0.8, 0.8, 0.8, 0.2)})
        config.optimizer.update({"learning_rate": 4.8, "weight_decay": 1e-6})
        return config.lock()
    config.negatives.update({"kind": "patch", "num": 1, "alpha": 2.0})
    if variant == "":
        config.model.dim = 128
    return config.lock()
