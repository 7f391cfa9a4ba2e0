"""Fields that every pre-training config has, with the published runs' values."""

from collections.abc import Sequence

from ml_collections import ConfigDict

from nsneg_jax.errors import UsageError
from nsneg_jax.files import data_root

VARIANTS = ("", "paper", "tiny")


def check_variant(variant: str, variants: Sequence[str]) -> None:
    """Raises UsageError for a variant that the config does not have."""
    if variant not in variants:
        names = ", ".join(repr(name) for name in variants)
        raise UsageError(f"The config has no variant {variant!r}, only {names}; '' is the default.")


def pretraining(variant: str) -> ConfigDict:
    """MoCo-v2 pre-training, without non-semantic negatives.

    Args:
        variant: '' is recipe B, the command in the original's README ("MoCo*", the
            hyper-parameters of IFM); 'paper' is recipe A, the paper's Table 1; 'tiny' is a small
            encoder on the built-in shapes.

    Raises:
        UsageError: for another variant.
    """
    check_variant(variant, VARIANTS)
    config = ConfigDict(
        {
            "job": "pretrain",
            "seed": 0,
            "batch_size": 512,  # images a step, over all devices
            "epochs": 200,
            "total_steps": 0,  # steps to stop after, 0 = epochs * floor(images / batch_size)
            "log_every_steps": 20,
            "knn_every_epochs": 0,  # kNN accuracy of the features meanwhile, 0 = never
            "pictures": True,  # write a grid of views and negatives before the first step
            "data": {
                # 'folder:PATH', 'arrayrecord:PATH', 'tfds:NAME[/CONFIG][:VERSION]' or
                # 'shapes[/VERSION][:SIZE][@SEED]'
                "source": f"folder:{data_root()}/imagenet100",
                "tfds_dir": "",  # of 'tfds:' data sets; '' = $TFDS_DATA_DIR or TFDS's default
                "split": "train",
                "eval_split": "val",  # classified by kNN
                "classes": "",  # '' = all; names with commas, or a file with a name a line
                "image_size": 224,  # pixels, side of a view
                "resize": 256,  # for kNN, shorter side before the central crop, at 224; 0 = none
                "threads": 16,  # for decoding and cropping
                "workers": 0,  # processes for decoding and cropping, 0 = threads of this one
            },
            "views": {
                "order": "v2",  # 'v2' = jitter, then grayscale; 'v1' = grayscale, then jitter
                "crop_scale": (0.2, 1.0),  # area of a crop, as a fraction of the image
                "jitter": (0.4, 0.4, 0.4, 0.1),  # brightness, contrast, saturation, hue
                "jitter_probability": 0.8,
                "grayscale_probability": 0.2,
                "blur_probability": 0.5,
                "blur_sigma": (0.1, 2.0),  # pixels
                "flip_probability": 0.5,
            },
            "model": {
                "arch": "resnet50",
                "dim": 128,  # of the embedding
                "mlp": True,  # projection head with a hidden layer
                "width": 64,  # channels of the first stage
                "stem": "imagenet",  # 'small' or 'small_stride2' for images of 64 px and less
                "bn_groups": 8,  # batch-norm groups, the number of GPUs of the original
                "bn_running": "first",  # running statistics of group 'first', or 'mean' of all
                "dtype": "float32",  # of the computation: 'float32', 'bfloat16' or 'float64'
                # of products of float32 numbers: 'float32', 'tensorfloat32' (GPUs: rounded to 11
                # bits, as in PyTorch's convolutions) or 'default' (TPUs: to 8 bits)
                "precision": "tensorfloat32",
            },
            "moco": {
                "queue_size": 16384,
                "momentum": 0.99,  # of the key encoder
                "temperature": 0.2,
                "merge_passes": True,  # key and negatives in one forward pass
                # how shuffling BN moves crops: between devices, or 'data' = each process loads its
                # own; free to change on resume, as is shard_queue
                "shuffle": "device",
                "shard_queue": False,  # each device holds a part of the queue, for large K
            },
            "negatives": {
                "kind": "none",  # 'none', 'patch', 'texture' or 'patch+texture'
                "num": 0,  # patch negatives an image; 1 of 'texture'
                "alpha": 0.0,  # multiplies their similarity
                "texture_alpha": 0.0,  # of 'patch+texture', that of the textures; 0 = alpha
                # SPLIT/CLASS/NAME.png for each NAME.JPEG; 'made' = here, of the built-in images
                "texture_source": f"folder:{data_root()}/imagenet100-texture",
                "missing": "error",  # or 'skip' = leave out images that have no texture
                "patch_size": (16, 72),  # pixels at 224, both included; scales with image_size
            },
            "optimizer": {
                "learning_rate": 0.8,
                "schedule": "cosine",  # or 'step'; changes once an epoch
                "milestones": (120, 160),  # epochs of 'step' where the rate falls to a tenth
                "momentum": 0.9,
                "weight_decay": 1e-4,
            },
            "checkpoint": {
                "every_steps": 500,
                "keep": 2,  # latest checkpoints kept
            },
        }
    )
    if variant == "paper":
        config.update(
            {
                "batch_size": 128,
                "model": {"bn_groups": 4},  # 32 images a group; the paper's GPU count is not known
                "moco": {"momentum": 0.999},
                "optimizer": {"learning_rate": 0.03},
            }
        )
    if variant == "tiny":
        config.update(
            {
                "batch_size": 96,
                "epochs": 30,
                "data": {"source": "shapes:4000", "image_size": 32, "resize": 0, "threads": 2},
                # The shapes' colours tell each from all others, and half a shape of 32 px says
                # little of the whole: with the published views nothing is learnt in minutes.
                "views": {
                    "crop_scale": (0.5, 1.0),
                    "jitter": (0.6, 0.6, 0.6, 0.3),
                    "grayscale_probability": 0.5,
                    "blur_probability": 0.0,
                },
                "model": {
                    "arch": "resnet8",
                    "dim": 64,
                    "width": 32,
                    "stem": "small_stride2",
                    "bn_groups": 1,
                },
                "moco": {"queue_size": 1000},
                "optimizer": {"learning_rate": 0.12},
                "checkpoint": {"every_steps": 400},
            }
        )
    return config
