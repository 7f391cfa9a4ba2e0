"""The configs of every job with its defaults, which are in the tables of `nsneg_jax.jobs.fields`.

Recipes are in configs/.
"""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from nsneg_jax.errors import UsageError
from nsneg_jax.files import data_root
from nsneg_jax.jobs.fields.field import config_of
from nsneg_jax.jobs.fields.rows.evaluation import EVALUATION, TEST_SET
from nsneg_jax.jobs.fields.rows.finetuning import FINETUNING
from nsneg_jax.jobs.fields.rows.pretraining import PRETRAINING
from nsneg_jax.jobs.fields.rows.probing import PROBING

VARIANTS = ("", "paper", "tiny")
# recipes for one small machine
SMALL = ("small", "cifar10", "cifar100", "stl10", "fashion_mnist")
# where Debian's package dataset-fashion-mnist puts the files
_FASHION_MNIST = "/usr/share/datasets/fashion-mnist"
_FASHION_PART = "train[:20%]"  # 12,000 images
# the network of recipes that train in minutes on CPUs
_SMALLEST = {"arch": "resnet8", "dim": 64, "width": 32, "stem": "small_stride2", "bn_groups": 1}
WHOLE = 224  # `resize` of sets whose files were cropped to 224 px before their release


def check_variant(variant: str, variants: Sequence[str]) -> None:
    """Raises UsageError if `variant` is not one of `variants`."""
    if variant not in variants:
        names = ", ".join(repr(name) for name in variants)
        raise UsageError(
            f"The config has no variant {variant!r}. Give one of {names}; '' is the default."
        )


def pretraining(variant: str = "") -> ConfigDict:
    """Returns the config of MoCo-v2 pre-training without non-semantic negatives.

    Args:
        variant: '' is recipe B, the command in the original's README ("MoCo*", the
            hyper-parameters of IFM); 'paper' is recipe A, the paper's Table 1; 'tiny' is a small
            encoder on the built-in shapes; those of `SMALL` are for one small machine.

    Raises:
        UsageError: there is no such variant.
    """
    check_variant(variant, (*VARIANTS, *SMALL))
    config = config_of(PRETRAINING)
    config.update(_small(variant))
    if variant == "paper":
        config.update(
            {
                "batch_size": 128,
                "model": {"bn_groups": 4},  # 32 images each; the paper's GPUs are not known
                "moco": {"momentum": 0.999},
                "optimizer": {"learning_rate": 0.03},
            }
        )
    if variant == "tiny":
        config.update(
            {
                "batch_size": 96,
                "epochs": 30,
                "collapse_steps": 400,
                "data": {
                    "source": "shapes:4000",
                    "image_size": 32,
                    "resize": 0,
                    "threads": 2,
                    "workers": 0,
                },
                # The colours of shapes identify each image, and half a shape of 32 px shows little
                # of the whole: with the published views nothing is learnt in minutes.
                "views": {
                    "crop_scale": (0.5, 1.0),
                    "jitter": (0.6, 0.6, 0.6, 0.3),
                    "grayscale_probability": 0.5,
                    "blur_probability": 0.0,
                },
                "model": _SMALLEST,
                "moco": {"queue_size": 1000},
                "optimizer": {"learning_rate": 0.12},
                "checkpoint": {"every_steps": 400},
            }
        )
    return config


def two_views(variant: str = "") -> ConfigDict:
    """Returns the config that BYOL, SimCLR and MoCo-v3 change, without non-semantic negatives.

    Args:
        variant: '' is for ImageNet-100 with the batch of recipe B; 'paper' has the batch, optimiser
            and length that BYOL and MoCo-v3 share for ImageNet-1K; 'tiny' is a small encoder on the
            built-in shapes.

    Raises:
        UsageError: there is no such variant.
    """
    check_variant(variant, VARIANTS)
    config = pretraining("tiny" if variant == "tiny" else "")
    config.model.bn_groups = 1  # all three normalise over the whole batch
    if variant == "tiny":
        config.model.head_hidden = 256
        return config
    # LARS and the rates of the papers: 0.3 at a batch of 256, by the batch.
    config.model.dim = 256
    config.optimizer.update(
        {"name": "lars", "learning_rate": 0.6, "weight_decay": 1e-6, "warmup_epochs": 10}
    )
    if variant == "paper":
        config.update({"batch_size": 4096, "epochs": 300})
        config.data.source = f"folder:{data_root()}/imagenet"
        config.optimizer.learning_rate = 4.8
    return config


def _small(variant: str) -> dict[str, Any]:
    """Returns what a recipe of `SMALL` changes; nothing for other variants."""
    if variant in ("small", "stl10"):
        # ResNet-18 as of ImageNet on 96 px, with MoCo-v2's rate for this batch.
        common: dict[str, Any] = {
            "batch_size": 256,
            "data": {"image_size": 96},
            "model": {"arch": "resnet18"},
            "moco": {"queue_size": 4096},
            "optimizer": {"learning_rate": 0.06},
        }
        if variant == "small":
            return common
        whole = {"source": f"stl10:{data_root()}", "split": "unlabeled", "eval_split": "test"}
        return common | {
            "epochs": 100,
            "data": {"image_size": 96, "resize": WHOLE, **whole},
            "moco": {"queue_size": 16384},
        }
    if variant in ("cifar10", "cifar100"):
        # Queue, temperature, rate and decay of MoCo's demo on CIFAR-10, whose authors found that a
        # longer queue adds nothing.
        return {
            "knn_every_epochs": 10,
            "data": {
                "source": f"{variant}:{data_root()}",
                "eval_split": "test",
                "image_size": 32,
                "resize": WHOLE,
            },
            "views": {"blur_probability": 0.0},
            "model": {"arch": "resnet18", "stem": "small"},
            "moco": {"queue_size": 4096, "temperature": 0.1},
            "optimizer": {"learning_rate": 0.06, "weight_decay": 5e-4},
        }
    if variant == "fashion_mnist":
        return {
            "batch_size": 128,
            "epochs": 6,
            "data": {
                "source": f"idx:{_FASHION_MNIST}",
                "split": _FASHION_PART,
                "eval_split": "test",
                "image_size": 28,
                "resize": WHOLE,
                "threads": 2,
                "workers": 0,
            },
            # The pictures are grey: of the jitter only brightness and contrast change them.
            "views": {"blur_probability": 0.0},
            "model": _SMALLEST,
            "moco": {"queue_size": 4096},
            "optimizer": {"learning_rate": 0.12},
        }
    return {}


def probing() -> ConfigDict:
    """Returns the config of a linear probe, with the original's values; also for kNN, features."""
    return config_of(PROBING)


def finetuning() -> ConfigDict:
    """Returns the config of fine-tuning on all labels."""
    return config_of(FINETUNING)


def evaluation() -> ConfigDict:
    """Returns the config of an evaluation on many test sets; `sets` is empty, see `test_set`."""
    config = config_of(EVALUATION)
    config.sets = ConfigDict()
    return config


def test_set(source: str, split: str = ".", **changes: Any) -> ConfigDict:
    """Returns an entry of `sets`: where the images are and how to evaluate them.

    Args:
        source, split: values of these fields.
        changes: values of other fields by name.
    """
    values = {field.name: field.value for field in TEST_SET}
    return ConfigDict(values | {"source": source, "split": split} | changes)
