"""The robustness table: evaluates a trained probe on ImageNet-100 and its shifted versions.

    python main.py --config=configs/evaluate.py --workdir=runs/eval --config.pretrained=runs/linear

default, paper   the data set of the probe as `clean`, the others in folders below $NSNEG_DATA, by
                 default datasets/ (docs/robustness.md says where to get each); missing sets are
                 listed and the rest runs.
tfds             data sets of TFDS where it has them (docs/robustness.md), folders otherwise.
small            the validation or test pictures of the probe's run, clean and with ImageNet-C's
                 corruptions made here.
tiny             the versions of the built-in shapes, for the tiny configs.
shape            the probe's images without their shapes, details, areas or colours, by degree, and
                 cue conflicts (docs/shape.md); tiny_shape: on the built-in shapes.
tiny_texture     textures made of the built-in shapes, and these themselves, by class.
columns          the versions of your own pictures that `nsneg compare` makes (docs/compare.md).

Set a folder with --config.sets.sketch.source=folder:/data/sketch (or arrayrecord:PATH, tfds:NAME).
Run some of the sets with --config.only=clean,sketch. To add your own set, write a config file that
adds to `sets`.
"""

from typing import Any

from ml_collections import ConfigDict

from nsneg_jax.evaluation.protocols.objectnet import BORDER
from nsneg_jax.evaluation.released import RELEASED
from nsneg_jax.files import data_root
from nsneg_jax.jobs import defaults
from nsneg_jax.jobs.defaults import WHOLE, test_set

VARIANTS = ("", "paper", "tfds", "small", "tiny", "tiny_texture", "shape", "tiny_shape", "columns")


def get_config(variant: str = "") -> ConfigDict:
    defaults.check_variant(variant, VARIANTS)
    root = f"folder:{data_root()}"
    rendition = f"{root}/imagenet-r"
    config = defaults.evaluation()
    config.sets.update(
        {
            "clean": test_set("", "val"),
            "corruption": test_set(f"{root}/imagenet-c", "", protocol="corruption", resize=WHOLE),
            "sketch": test_set(f"{root}/imagenet-sketch"),
            "stylized": test_set(f"{root}/stylized-imagenet", "val"),
            "rendition_100way": test_set(rendition),
            "rendition_19way": test_set(rendition, answers="present"),
            "v2": test_set(f"{root}/imagenetv2-matched-frequency-format-val", names="index"),
            "a": test_set(f"{root}/imagenet-a"),
            "texture": test_set(f"{root}/imagenet100-texture", "val", protocol="texture", resize=0),
            "a_restricted": test_set(f"{root}/imagenet-a", answers="imagenet-a"),
            "corruption_bar": test_set(
                f"{root}/imagenet-c-bar",
                "",
                protocol="corruption",
                benchmark="imagenet-c-bar",
                resize=WHOLE,
            ),
            "real": test_set("", "val", protocol="real", labels=f"{data_root()}/real.json"),
            "objectnet": test_set(
                f"{root}/objectnet-1.0", "images", protocol="objectnet", border=BORDER
            ),
            "cue_conflict": test_set(f"{root}/cue-conflict", protocol="cue_conflict", resize=WHOLE),
        }
    )
    if variant == "tfds":
        for name, each in config.sets.items():
            if RELEASED[name].tfds:
                each.source = f"tfds:{RELEASED[name].tfds}"
    if variant == "small":
        config.sets = ConfigDict(
            {
                "clean": test_set("", "val"),
                "corruption": test_set("", "val", protocol="corruption", generate=True),
            }
        )
    if variant.startswith("tiny"):
        config.data.update({"image_size": 32, "threads": 2, "workers": 0})
        plain: dict[str, Any] = {"split": "test", "resize": 0}
        config.sets = ConfigDict(
            {
                "clean": test_set("shapes:1000", **plain),
                "corruption": test_set("shapes:500", **plain, protocol="corruption", generate=True),
                "sketch": test_set("shapes/sketch:1000", **plain),
                "stylized": test_set("shapes/stylized:1000", **plain),
                "rendition": test_set("shapes/rendition:1000", **plain),
                "cue_conflict": test_set("shapes/conflict:1000", **plain, protocol="cue_conflict"),
            }
        )
    if variant == "tiny_texture":
        config.sets = ConfigDict(
            {
                "clean": test_set("shapes:1000", **plain),
                "texture": test_set("shapes:500", **plain, protocol="texture", generate=True),
            }
        )
    suppression: dict[str, Any] = {
        "protocol": "corruption",
        "benchmark": "suppression",
        "generate": True,
    }
    if variant == "shape":
        config.sets = ConfigDict(
            {
                "clean": test_set("", "val"),
                "suppression": test_set("", "val", **suppression),
                "cue_conflict": config.sets.cue_conflict,
            }
        )
    if variant == "tiny_shape":
        config.sets = ConfigDict(
            {
                "clean": test_set("shapes:1000", **plain),
                "suppression": test_set("shapes:1000", **plain, **suppression),
                "cue_conflict": test_set("shapes/conflict:1000", **plain, protocol="cue_conflict"),
            }
        )
    if variant == "columns":
        root = "folder:runs/compare/pictures-32"
        whole = {"resize": 0}  # they are made in the size of the views
        config.sets = ConfigDict(
            {name: test_set(root, name, **whole) for name in ("clean", "restyled", "edges")}
        )
        config.sets.shuffled = test_set(root, "shuffled", **whole)
        config.sets.corruption = test_set(f"{root}/corruption", "", protocol="corruption", **whole)
    return config.lock()
