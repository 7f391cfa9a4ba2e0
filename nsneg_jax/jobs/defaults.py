"""The fields of every job's config: their defaults and meanings. Recipes are in configs/.

The comment above or beside a default explains the field, and `--help` shows it
(`nsneg_jax.jobs.fields`). If it gives no range, any value is valid. Sizes in pixels "at 224" are
for `data.image_size` 224 and scale with it.
"""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from nsneg_jax.errors import UsageError
from nsneg_jax.files import data_root

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
    config = ConfigDict(
        {
            "job": "pretrain",  # job to run; only 'pretrain' reads these fields
            "method": "moco",  # pre-training method, a name registered in nsneg_jax.jobs.build
            "seed": 0,  # seed of initial weights, data order and every draw; 0 or greater
            # images per step, over all devices; a multiple of their number and of model.bn_groups
            "batch_size": 512,
            "epochs": 200,  # passes over the images, full batches only; greater than 0
            "total_steps": 0,  # steps to stop after; 0 = epochs * floor(images / batch_size)
            "log_every_steps": 20,  # steps between lines of metrics.jsonl; greater than 0
            "knn_every_epochs": 0,  # epochs between measurements of the kNN accuracy; 0 = never
            "pictures": True,  # whether to draw views and negatives before the first step
            "on_collapse": "warn",  # if the embeddings collapse: 'warn', or save and 'stop'
            # steps whose mean shows a collapse, not counting as many first ones; greater than 0
            "collapse_steps": 2000,
            # minutes without a step after which the stacks of all threads are written; 0 = never
            "watchdog_minutes": 30.0,
            # GPUs: whether to use only operations that repeat to the bit, which takes longer
            "deterministic": False,
            "data": {
                # images: 'folder:PATH', 'arrayrecord:PATH', 'tfds:NAME[/CONFIG][:VERSION]',
                # 'hf:PATH[/CONFIG]' or, built in, 'shapes[/VERSION][:SIZE][@SEED]'
                "source": f"folder:{data_root()}/imagenet100",
                "tfds_dir": "",  # folder of 'tfds:' data sets; '' = $TFDS_DATA_DIR or TFDS's own
                # images trained on, with or without labels; all of a folder that has no splits
                "split": "train",
                # images classified by kNN during training; without labels it is left out
                "eval_split": "val",
                "classes": "",  # used: '' = all; names with commas, or a file of one per line
                # file with the class of each image in no class folder: a table of image and class,
                # ImageNet's devkit; '' = class folders, or Kaggle's LOC_val_solution.csv if found
                "labels": "",
                "image_size": 224,  # side of a view in pixels, 8 or more
                # kNN: pixels at 224 of the shorter side before the central crop; 0 = crop only
                "resize": 256,
                # threads that decode and crop, without workers; -1 = by the number of processors
                "threads": -1,
                # processes that decode and crop; 0 = threads; -1 = one per processor, one less with
                # more than 4, and 16 per accelerator at most
                "workers": -1,
                # images that may be unreadable, as a part of all, 0 to 1; more stop the run
                "max_bad_fraction": 0.001,
            },
            "views": {
                # order of operations: 'v2' = jitter, grayscale; 'v1' = grayscale, jitter
                "order": "v2",
                # area of a random crop as a fraction of the image (smallest, largest), in (0, 1]
                "crop_scale": (0.2, 1.0),
                # strengths of brightness, contrast, saturation (0 or greater) and hue (0 to 0.5)
                "jitter": (0.4, 0.4, 0.4, 0.1),
                "jitter_probability": 0.8,  # chance of a jitter, 0 to 1; 0 leaves it out
                "grayscale_probability": 0.2,  # chance that a view is grey, 0 to 1
                "blur_probability": 0.5,  # chance of a blur, 0 to 1
                "blur_sigma": (0.1, 2.0),  # sigma of the blur in pixels (smallest, largest)
                "flip_probability": 0.5,  # chance of a horizontal flip, 0 to 1
                # whether brightness, contrast and saturation round down to whole grey levels, as
                # in the original, whose views are darker by 0.4 of 255 levels per operation
                "round_down": False,
            },
            "model": {
                # network: 'resnet8' (three basic blocks), 'resnet18', 'resnet34', 'resnet50' or
                # 'resnet101'
                "arch": "resnet50",
                "dim": 128,  # length of the embedding; greater than 0
                "mlp": True,  # whether the projection head has a hidden layer (MoCo-v2)
                "width": 64,  # channels of the first stage; 64 in all published networks
                # first layers: 'imagenet' (7x7 stride 2, max-pool); for images of 64 px and less
                # 'small' (3x3 stride 1) or 'small_stride2' (3x3 stride 2)
                "stem": "imagenet",
                # groups of the batch with separate batch-norm statistics, one per GPU of the
                # original; a divisor of batch_size
                "bn_groups": 8,
                "bn_running": "first",  # running statistics of the 'first' group, or 'mean' of all
                "dtype": "float32",  # of the computation: 'float32', 'bfloat16' or 'float64'
                # precision of float32 products: 'float32', 'tensorfloat32' (GPUs round to 11 bits,
                # as in PyTorch's convolutions) or 'default' (TPUs round to 8 bits)
                "precision": "tensorfloat32",
            },
            "moco": {
                "queue_size": 16384,  # K, keys kept as negatives; batch_size or more
                "momentum": 0.99,  # m of the key encoder; 0 or greater, less than 1
                "temperature": 0.2,  # divides the similarities; greater than 0
                "merge_passes": True,  # whether key and negatives share one forward pass
                # how shuffling BN moves crops: 'device' = between devices, 'data' = each process
                # loads its own; may change on resume, and so may shard_queue
                "shuffle": "device",
                # whether to split the queue over the devices, for large K; K must then be a
                # multiple of the number of devices
                "shard_queue": False,
            },
            "negatives": {
                "kind": "none",  # kind of negative: 'none', 'patch', 'texture', 'patch+texture'
                "num": 0,  # patch negatives per image; 0 for 'none', 1 for 'texture'
                "alpha": 0.0,  # multiplies their similarity; greater than 0, but 0 for 'none'
                # 'patch+texture': multiplies the similarity of the textures; 0 = alpha
                "texture_alpha": 0.0,
                # textures: 'folder:PATH' or 'arrayrecord:PATH' with SPLIT/CLASS/NAME.png per
                # NAME.JPEG; 'made' = generated from the built-in images
                "texture_source": f"folder:{data_root()}/imagenet100-texture",
                # images without a texture: 'error' = do not start, 'skip' = leave them out
                "missing": "error",
                # side of a patch in pixels at 224 (smallest, largest), inclusive
                "patch_size": (16, 72),
                # patches: 'crops' = random ones; 'rotated', 'flipped', 'rotated+flipped' = these,
                # each in a random orientation; 'jigsaw' = those of a grid in random order
                "patch_mode": "crops",
            },
            "optimizer": {
                "name": "sgd",  # 'sgd', 'adamw', 'lars' or one registered in methods.optimizer
                "learning_rate": 0.8,  # of the first epoch; greater than 0, not scaled by the batch
                "schedule": "cosine",  # of the rate: 'cosine' or 'step'; it changes once per epoch
                "milestones": (120, 160),  # 'step': epochs where the rate falls to a tenth
                "warmup_epochs": 0,  # first epochs in which the rate grows from 0; 0 = none
                "momentum": 0.9,  # of SGD and LARS; beta_1 of AdamW; 0 or greater, less than 1
                # 0 or greater; 'sgd' decays every parameter, the others no biases or norm scales
                "weight_decay": 1e-4,
            },
            "checkpoint": {
                "every_steps": 500,  # steps between checkpoints; greater than 0
                "keep": 2,  # latest checkpoints kept; greater than 0
                # epochs between checkpoints that are kept besides; 0 = none (the original's 10)
                "keep_every_epochs": 0,
            },
        }
    )
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
    return ConfigDict(
        {
            "job": "linear",  # job to run: 'linear', or 'knn' and 'features', which do not train
            # encoder: a workdir, a checkpoint folder in it, or 'untrained:' and either of them for
            # the same network with initial weights
            "pretrained": "",
            "seed": 0,  # seed of order and crops of the training images; 0 or greater
            "batch_size": 128,  # images per step, over all devices; a multiple of their number
            "epochs": 60,  # passes over the training images; greater than 0
            # one classifier per rate, all trained in one pass; distinct, each greater than 0
            "learning_rates": (10.0,),
            # whether to evaluate the classifier in `pretrained` instead of training one
            "evaluate_only": False,
            # area of a training crop as a fraction of the image (smallest, largest), in (0, 1]
            "crop_scale": (0.08, 1.0),
            "flip_probability": 0.5,  # chance of a horizontal flip in training, 0 to 1
            "dtype": "float32",  # of the encoder: 'float32', 'bfloat16' or 'float64'
            # precision of float32 products: 'float32', 'tensorfloat32' (GPUs round to 11 bits) or
            # 'default' (TPUs round to 8 bits)
            "precision": "float32",
            # minutes without a step after which the stacks of all threads are written; 0 = never
            "watchdog_minutes": 30.0,
            # GPUs: whether to use only operations that repeat to the bit, which takes longer
            "deterministic": False,
            "data": {
                # images: 'folder:PATH', 'arrayrecord:PATH', 'tfds:NAME[/CONFIG][:VERSION]',
                # 'hf:PATH[/CONFIG]' or, built in, 'shapes[/VERSION][:SIZE][@SEED]'; '' = those of
                # the encoder's run, with its tfds_dir, classes and labels where these are '';
                # ImageNet-100 in $NSNEG_DATA if the run is unknown
                "source": "",
                "tfds_dir": "",  # folder of 'tfds:' data sets; '' = $TFDS_DATA_DIR or TFDS's own
                "split": "train",  # images trained on; the bank of kNN
                "eval_split": "val",  # images evaluated, or turned into features
                "classes": "",  # used: '' = all; names with commas, or a file of one per line
                # file with the class of each image in no class folder: a table of image and class,
                # ImageNet's devkit; '' = class folders, or Kaggle's LOC_val_solution.csv if found
                "labels": "",
                # side of a view in pixels, 8 or more; 0 = that of the encoder's run, or 224
                "image_size": 0,
                # pixels at 224 of the shorter side before the central crop; 0 = crop only;
                # -1 = that of the encoder's run, or 256
                "resize": -1,
                # threads that decode and crop, without workers; -1 = by the number of processors
                "threads": -1,
                # processes that decode and crop; 0 = threads; -1 = one per processor, one less with
                # more than 4, and 16 per accelerator at most
                "workers": -1,
                # images that may be unreadable, as a part of all, 0 to 1; more stop the run
                "max_bad_fraction": 0.001,
            },
            "optimizer": {
                "schedule": "step",  # of the rate: 'cosine' or 'step'; it changes once per epoch
                "milestones": (30, 40, 50),  # 'step': epochs where the rate falls to a tenth
                "momentum": 0.9,  # of SGD; 0 to 1
                "weight_decay": 0.0,  # on every parameter; 0 or greater
            },
            "knn": {
                "k": (20, 200),  # neighbours that vote, one accuracy per number; greater than 0
                "temperature": 0.07,  # divides the similarities in their weights; greater than 0
            },
            "features_format": "npz",  # format of the features file: 'npz' or 'safetensors'
        }
    )


def evaluation() -> ConfigDict:
    """Returns the config of an evaluation on many test sets; `sets` is empty, see `test_set`."""
    return ConfigDict(
        {
            "job": "evaluate",  # job to run; only 'evaluate' reads these fields
            "pretrained": "",  # classifier: a linear probe's workdir, or a checkpoint folder in it
            "label": "",  # name of the table's row; runs of one label are pooled to mean and std
            # CSV of rows like timm's: FILE.csv makes FILE-SET.csv per set and adds a row; '' = none
            "csv": "",
            # file with one class name per line, if the classifier has no names: its first outputs
            "classes": "",
            "only": "",  # sets to evaluate: '' = all; names with commas
            "require_all": False,  # whether a missing set is an error
            "batch_size": 256,  # images per step, over all devices; a multiple of their number
            "seed": 0,  # seed of generated corruptions and bootstrap intervals; 0 or greater
            "dtype": "float32",  # of the encoder: 'float32', 'bfloat16' or 'float64'
            # precision of float32 products: 'float32', 'tensorfloat32' (GPUs round to 11 bits) or
            # 'default' (TPUs round to 8 bits)
            "precision": "float32",
            # minutes without a batch after which the stacks of all threads are written; 0 = never
            "watchdog_minutes": 30.0,
            # GPUs: whether to use only operations that repeat to the bit, which takes longer
            "deterministic": False,
            "data": {
                # side of a view in pixels, 8 or more; 0 = that of the probe's run, or 224
                "image_size": 0,
                "tfds_dir": "",  # folder of 'tfds:' data sets; '' = $TFDS_DATA_DIR or TFDS's own
                # threads that decode, without workers; -1 = by the number of processors
                "threads": -1,
                # processes that decode; 0 = threads; -1 = one per processor, one less with more
                # than 4, and 16 per accelerator at most
                "workers": -1,
            },
            "sets": {},
        }
    )


def test_set(source: str, split: str = ".", **changes: Any) -> ConfigDict:
    """Returns an entry of `sets`: where the images are and how to evaluate them.

    Args:
        source, split: values of these fields.
        changes: values of other fields by name.
    """
    fields = {
        # images: 'folder:PATH', 'arrayrecord:PATH', 'tfds:NAME[/CONFIG]', 'hf:PATH[/CONFIG]',
        # 'shapes/VERSION:SIZE'; '' = those of the probe's run, or ImageNet-100 in $NSNEG_DATA
        "source": source,
        # folder in PATH that holds the class folders; for TFDS, '.' is the only split, or
        # 'validation'
        "split": split,
        # pixels at 224 of the shorter side before the central crop; 224 = whole files, as released;
        # 0 = crop only, the same pixels at every data.image_size; -1 = data.resize of the probe's
        # run, or 256 (a run that only crops decides for its own images alone)
        "resize": -1,
        # measurement: 'top1'; 'corruption' (CORRUPTION/SEVERITY/CLASS in PATH); 'texture' (top-1
        # on synthesised textures of each class); 'cue_conflict' (shape or texture); 'real' (several
        # labels per image); 'objectnet'
        "protocol": "top1",
        # arg-max over 'all' classes of the classifier, those 'present', or those of 'imagenet-a'
        "answers": "all",
        "names": "class",  # names of class folders: 'class' names, or 'index' in ImageNet-1K
        # 'corruption': whether to corrupt the images of `source` here; 'texture': whether to make
        # textures of them here, of 'shapes' only
        "generate": False,
        # with `generate`: whether to add the corruptions outside the benchmark's mean,
        # ImageNet-C's four and your own
        "extra": False,
        # file with the class of each image in no class folder, see data.labels of other jobs; for
        # 'real', real.json
        "labels": "",
        # corruptions that 'corruption' looks for and averages: 'imagenet-c' or 'imagenet-c-bar'
        "benchmark": "imagenet-c",
        "border": 0,  # pixels that 'objectnet' cuts from each side of an image
    }
    return ConfigDict({**fields, **changes})
