"""The configs of every job with its defaults, which are in the tables of `nsneg_jax.jobs.fields`.

Recipes are in configs/.
"""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from nsneg_jax.errors import UsageError
from nsneg_jax.jobs.fields.evaluation import EVALUATION, TEST_SET
from nsneg_jax.jobs.fields.field import config_of
from nsneg_jax.jobs.fields.pretraining import PRETRAINING
from nsneg_jax.jobs.fields.probing import PROBING

VARIANTS = ("", "paper", "tiny")
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
            encoder on the built-in shapes.

    Raises:
        UsageError: there is no such variant.
    """
    check_variant(variant, VARIANTS)
    config = config_of(PRETRAINING)
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


def probing() -> ConfigDict:
    """Returns the config of a linear probe, with the original's values; also for kNN, features."""
    return config_of(PROBING)


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
