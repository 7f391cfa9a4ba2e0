"""Linear probe of a pre-trained encoder, and its other evaluations: kNN and features to a file.

    python main.py --config=configs/linear.py --workdir=runs/linear --config.pretrained=runs/patch

default, paper   the original's: lr 10, batch 128, 60 epochs, x0.1 at 30, 40 and 50.
imagenet1k       MoCo's for ImageNet-1K: lr 30, batch 256, 100 epochs, x0.1 at 60 and 80.
tiny             for the tiny pre-training on the built-in shapes.

Published top-1 on ImageNet-100 of encoders pre-trained by configs/patch.py: 81.49 +- 0.11 %; by
configs/patch.py:paper: 79.35 +- 0.12 %.
"""

from ml_collections import ConfigDict

from nsneg_jax.files import data_root
from nsneg_jax.jobs import defaults

VARIANTS = ("", "paper", "imagenet1k", "tiny")


def get_config(variant: str = "") -> ConfigDict:
    defaults.check_variant(variant, VARIANTS)
    config = ConfigDict(
        {
            "job": "linear",  # 'linear'; 'knn' and 'features' do not train
            # a workdir, a checkpoint folder in it, or 'untrained:' and one of these for the same
            # network with initial weights
            "pretrained": "",
            "seed": 0,
            "batch_size": 128,  # images a step, over all devices
            "epochs": 60,
            "learning_rates": (10.0,),  # a classifier each, from one pass over the features
            "evaluate_only": False,  # evaluate the classifier that `pretrained` has
            "crop_scale": (0.08, 1.0),  # area of a training crop, as a fraction of the image
            "flip_probability": 0.5,
            "dtype": "float32",  # of the encoder: 'float32', 'bfloat16' or 'float64'
            # of products of float32 numbers: 'float32', 'tensorfloat32' (11 bits on GPUs) or
            # 'default' (8 bits on TPUs)
            "precision": "float32",
            "data": {
                # 'folder:PATH', 'arrayrecord:PATH', 'tfds:NAME[/CONFIG][:VERSION]' or
                # 'shapes[/VERSION][:SIZE][@SEED]'
                "source": f"folder:{data_root()}/imagenet100",
                "tfds_dir": "",  # of 'tfds:' data sets; '' = $TFDS_DATA_DIR or TFDS's default
                "split": "train",  # trained on; the bank of kNN
                "eval_split": "val",  # evaluated; whose features are written
                "classes": "",  # '' = all; names with commas, or a file with a name a line
                "image_size": 224,  # pixels, side of a view
                "resize": 256,  # shorter side before the central crop, at 224; 0 = no resizing
                "threads": 16,  # for decoding and cropping
                "workers": 0,  # processes for decoding and cropping, 0 = threads of this one
            },
            "optimizer": {
                "schedule": "step",  # or 'cosine'; changes once an epoch
                "milestones": (30, 40, 50),  # epochs of 'step' where the rate falls to a tenth
                "momentum": 0.9,
                "weight_decay": 0.0,
            },
            "knn": {
                "k": (20, 200),  # neighbours that vote
                "temperature": 0.07,  # of their weights
            },
            "features_format": "npz",  # or 'safetensors'
        }
    )
    if variant == "imagenet1k":
        config.update({"batch_size": 256, "epochs": 100, "learning_rates": (30.0,)})
        config.data.source = f"folder:{data_root()}/imagenet"
        config.optimizer.milestones = (60, 80)
    if variant == "tiny":
        config.update({"batch_size": 100, "epochs": 36, "learning_rates": (0.01, 0.1, 1.0, 10.0)})
        config.data.update({"source": "shapes:4000", "image_size": 32, "resize": 0, "threads": 2})
        config.optimizer.milestones = (18, 27)
        # The shapes come in every place and size by themselves, and a probe trained on crops, all
        # of them enlarged, would meet smaller ones in the test.
        config.crop_scale = (1.0, 1.0)
    return config.lock()
