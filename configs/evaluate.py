"""The robustness table: a trained probe on ImageNet-100 and its shifted versions.

    python main.py --config=configs/evaluate.py --workdir=runs/eval --config.pretrained=runs/linear

default, paper   folders below $NSNEG_DATA, by default datasets/ (docs/robustness.md says where to
                 get each); what is not there is listed as missing and the rest runs.
tfds             data sets of TFDS where it has them (docs/robustness.md), folders otherwise.
tiny             the versions of the built-in shapes, for the tiny configs.

Set a folder with --config.sets.sketch.source=folder:/data/sketch (or arrayrecord:PATH, tfds:NAME),
run a part of the sets with --config.only=clean,sketch. For a set of your own, write a config file
that adds to `sets`.
"""

from ml_collections import ConfigDict

from nsneg_jax.evaluation.released import RELEASED
from nsneg_jax.files import data_root
from nsneg_jax.jobs import defaults

VARIANTS = ("", "paper", "tfds", "tiny")


def test_set(source: str, split: str = ".", **changes) -> ConfigDict:
    """A set: where its images are and how they are asked for."""
    fields = {
        # 'folder:PATH', 'arrayrecord:PATH', 'tfds:NAME[/CONFIG]' or 'shapes/VERSION:SIZE'
        "source": source,
        # folder of the class folders in PATH; of TFDS, '.' is the only split or 'validation'
        "split": split,
        "resize": 256,  # shorter side before the central crop, at 224; 0 = the central crop alone
        # 'top1'; 'corruption', CORRUPTION/SEVERITY/CLASS in PATH; 'cue_conflict', shape or texture
        "protocol": "top1",
        "answers": "all",  # arg-max over 'all' classes of the classifier or those 'present'
        "names": "class",  # of the class folders: 'class' names or 'index', those of ImageNet-1K
        "generate": False,  # of 'corruption': corrupt the clean images of `source` here
        "extra": False,  # of `generate`: the four corruptions outside the benchmark's mean too
    }
    return ConfigDict({**fields, **changes})


def get_config(variant: str = "") -> ConfigDict:
    defaults.check_variant(variant, VARIANTS)
    root = f"folder:{data_root()}"
    rendition = f"{root}/imagenet-r"
    config = ConfigDict(
        {
            "job": "evaluate",
            "pretrained": "",  # the workdir of a linear probe, or a checkpoint folder in it
            "label": "",  # name of the table's row; runs of one label are pooled to mean and std
            "classes": "",  # of a classifier that does not know: a file with a name a line
            "only": "",  # '' = all sets; names with commas
            "require_all": False,  # a missing set is an error
            "batch_size": 256,  # images a step, over all devices
            "seed": 0,  # of generated corruptions and bootstrap intervals
            "dtype": "float32",  # of the encoder: 'float32', 'bfloat16' or 'float64'
            # of products of float32 numbers: 'float32', 'tensorfloat32' (11 bits on GPUs) or
            # 'default' (8 bits on TPUs)
            "precision": "float32",
            "data": {
                "image_size": 224,  # pixels, side of a view
                "tfds_dir": "",  # of 'tfds:' data sets; '' = $TFDS_DATA_DIR or TFDS's default
                "threads": 16,  # for decoding
                "workers": 0,  # processes for decoding, 0 = threads of this one
            },
            "sets": {
                "clean": test_set(f"{root}/imagenet100", "val"),
                "corruption": test_set(f"{root}/imagenet-c", "", protocol="corruption", resize=0),
                "sketch": test_set(f"{root}/imagenet-sketch"),
                "stylized": test_set(f"{root}/stylized-imagenet", "val"),
                "rendition_100way": test_set(rendition),
                "rendition_19way": test_set(rendition, answers="present"),
                "v2": test_set(f"{root}/imagenetv2-matched-frequency-format-val", names="index"),
                "a": test_set(f"{root}/imagenet-a"),
                "cue_conflict": test_set(f"{root}/cue-conflict", protocol="cue_conflict"),
            },
        }
    )
    if variant == "tfds":
        for name, each in config.sets.items():
            if RELEASED[name].tfds:
                each.source = f"tfds:{RELEASED[name].tfds}"
    if variant == "tiny":
        config.data.update({"image_size": 32, "threads": 2})
        plain = {"split": "test", "resize": 0}
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
    return config.lock()
