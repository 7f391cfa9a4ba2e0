"""Fine-tuning: a pre-trained encoder and a classifier, trained together on labels.

    python main.py --config=configs/finetune.py --workdir=runs/tuned --config.pretrained=runs/patch

default     all labels: 30 epochs, SGD, batch 256, lr 0.05 with cosine.
1percent    a hundredth of each class's labels: 60 epochs.
10percent   a tenth: 30 epochs.
tiny        for the tiny pre-training on the built-in shapes, 400 labelled pictures.

SGD without weight decay at 0.05 per 256 images, random crops and flips alone, 60 epochs for 1 % and
30 for 10 % are SimCLR's (Chen et al. 2020, appendix B.5); cosine, plain instead of Nesterov's
momentum, and 30 epochs for all labels are ours. The part of the labels is drawn from the file names
(docs/data.md), so every run gets the same one. Nothing is published for these encoders.
"""

from ml_collections import ConfigDict

from nsneg_jax.jobs import defaults

VARIANTS = ("", "1percent", "10percent", "tiny")


def get_config(variant: str = "") -> ConfigDict:
    defaults.check_variant(variant, VARIANTS)
    config = defaults.finetuning()
    if variant == "1percent":
        config.epochs = 60
        config.data.split = "train[:1%]"
    if variant == "10percent":
        config.data.split = "train[:10%]"
    if variant == "tiny":
        config.update({"batch_size": 50, "epochs": 30, "crop_scale": (1.0, 1.0)})
        config.data.update({"source": "shapes:400", "image_size": 32, "resize": 0})
        config.data.update({"threads": 2, "workers": 0})
    return config.lock()
