"""The fields of a pre-training. Sizes "at 224" are for `data.image_size` 224 and scale with it."""

from collections.abc import Collection

from nsneg_jax.files import data_root
from nsneg_jax.jobs.fields.field import Field
from nsneg_jax.jobs.fields.kinds import Choice, Each, Number, Pair, Text, Whole
from nsneg_jax.jobs.fields.rows import contrast, shared, siamese
from nsneg_jax.jobs.fields.rows.shared import switch
from nsneg_jax.jobs.fields.rows.transformer import TRANSFORMER


def _methods() -> Collection[str]:
    from nsneg_jax.jobs.build import METHODS

    return METHODS


def _networks() -> Collection[str]:
    from nsneg_jax.models import NETWORKS

    return NETWORKS


def _stems() -> Collection[str]:
    from nsneg_jax.models.resnet import STEMS

    return STEMS


PRETRAINING = (
    Field(
        "job",
        "pretrain",
        Choice(("pretrain",)),
        "job to run; only 'pretrain' reads these fields",
        is_wordy=True,
    ),
    Field(
        "method",
        "moco",
        Choice(_methods),
        "pre-training method: 'moco', 'byol', 'simclr', 'mocov3' or one registered in "
        "nsneg_jax.jobs.build",
        is_wordy=True,
    ),
    Field(
        "pretrained",
        "",
        Text(),
        "encoder to start from: a workdir, or a checkpoint folder in it, of the same network; '' = "
        "initial weights drawn from the seed",
    ),
    Field(
        "seed",
        0,
        shared.SEED,
        "seed of initial weights, data order and every draw",
        shared.SEED_REASON,
    ),
    Field(
        "batch_size",
        512,
        shared.BATCH,
        "images per step, over all devices; a multiple of their number and of model.bn_groups, at "
        "least 2 per group",
    ),
    Field("epochs", 200, shared.EPOCHS, "passes over the images, full batches only"),
    Field(
        "total_steps",
        0,
        shared.STEPS_OR_0,
        "steps to stop after; 0 = epochs * floor(images / batch_size)",
        shared.COUNTED,
    ),
    Field("log_every_steps", 20, shared.STEPS, "steps between lines of metrics.jsonl"),
    Field(
        "knn_every_epochs",
        -1,
        Whole(0, shared.MOST_EPOCHS, (-1,)),
        "epochs between measurements of kNN and probe (with labels), RankMe and deviation of "
        "features, and once more after the last epoch; -1 = 10, without what the data lack, with "
        "at most 131,072 training images; 0 = never",
    ),
    switch("pictures", True, "whether to draw views and negatives before the first step"),
    Field(
        "on_collapse",
        "warn",
        Choice(("warn", "stop")),
        "if the embeddings collapse: 'warn', or save and 'stop'",
        is_wordy=True,
    ),
    Field(
        "collapse_steps",
        2000,
        shared.STEPS,
        "steps whose mean shows a collapse, not counting as many first ones",
    ),
    *shared.running("step"),
    *shared.logging(""),
    Field(
        "data.source",
        lambda: f"folder:{data_root()}/imagenet100",
        Text("'folder:PATH', for example", needed=True),
        "images: 'folder:PATH', 'arrayrecord:PATH', 'tfds:NAME[/CONFIG][:VERSION]', "
        "'hf:PATH[/CONFIG]', 'cifar10:PATH', 'cifar100:PATH', 'stl10:PATH', 'idx:PATH' (MNIST's "
        "files) or, built in, 'shapes[/VERSION][:SIZE][@SEED]'",
        named_default="folder:$NSNEG_DATA/imagenet100",
    ),
    shared.TFDS_DIR,
    Field(
        "data.split",
        "train",
        Text("a split of data.source", needed=True),
        "images trained on, with or without labels; all of a folder that has no splits",
    ),
    Field(
        "data.eval_split",
        "val",
        Text("a split of data.source", needed=True),
        "images classified by kNN and probe during training; without labels these are left out",
    ),
    shared.CLASSES,
    shared.LABELS,
    Field("data.image_size", 224, shared.SIDE, "side of a view in pixels", shared.FEWEST_PIXELS),
    Field(
        "data.resize",
        256,
        shared.RESIZE,
        "kNN and probe: pixels at 224 of the shorter side before the central crop; 0 = crop only",
        shared.RESIZE_REASON,
    ),
    *shared.loaders("decode and crop"),
    shared.MAX_BAD,
    Field(
        "views.order",
        "v2",
        Choice(("v2", "v1")),
        "order of operations: 'v2' = jitter, grayscale; 'v1' = grayscale, jitter",
        is_wordy=True,
    ),
    Field(
        "views.crop_scale",
        (0.2, 1.0),
        shared.AREA,
        "area of a random crop as a fraction of the image",
        shared.AREA_REASON,
    ),
    Field(
        "views.jitter",
        (0.4, 0.4, 0.4, 0.1),
        Each(
            (
                ("brightness", Number(0, 10)),
                ("contrast", Number(0, 10)),
                ("saturation", Number(0, 10)),
                ("hue", Number(0, 0.5)),
            )
        ),
        "strengths of the jitter; 0 leaves one out",
        "factors are drawn up to 1 + strength, and hues in turns",
    ),
    Field("views.jitter_probability", 0.8, shared.CHANCE, "chance of a jitter; 0 leaves it out"),
    Field("views.grayscale_probability", 0.2, shared.CHANCE, "chance that a view is grey"),
    Field("views.blur_probability", 0.5, shared.CHANCE, "chance of a blur; 0 leaves it out"),
    Field(
        "views.blur_sigma",
        (0.1, 2.0),
        Pair(Number(0.001, 128)),
        "sigma of the blur in pixels, less than half of data.image_size",
        "the time of a blur grows with its largest sigma",
    ),
    Field("views.flip_probability", 0.5, shared.CHANCE, "chance of a horizontal flip"),
    switch(
        "views.round_down",
        False,
        "whether brightness, contrast and saturation round down to whole grey levels, as in the "
        "original, whose views are darker by 0.4 of 255 levels per operation",
    ),
    Field(
        "model.arch",
        "resnet50",
        Choice(_networks),
        "network: 'resnet8' (three basic blocks), 'resnet18', 'resnet34', 'resnet50', 'resnet101', "
        "'vit_tiny', 'vit_small', 'vit_base' or one registered in nsneg_jax.models",
        is_wordy=True,
    ),
    Field("model.dim", 128, Whole(1, 65536), "length of the embedding"),
    switch("model.mlp", True, "whether the projection head has a hidden layer (MoCo-v2)"),
    *siamese.HEAD,
    Field(
        "model.width",
        64,
        Whole(1, 2048),
        "channels of the first stage; 64 in all published networks; a ViT has 3, 6 or 12 times as "
        "many features",
    ),
    Field(
        "model.stem",
        "imagenet",
        Choice(_stems),
        "first layers: 'imagenet' (7x7 stride 2, max-pool); for images of 64 px and less 'small' "
        "(3x3 stride 1) or 'small_stride2' (3x3 stride 2)",
        is_wordy=True,
    ),
    Field(
        "model.bn_groups",
        8,
        Whole(1, 2**19),
        "groups of the batch with separate batch-norm statistics, one per GPU of the original; a "
        "divisor of batch_size, with 2 images or more per group",
    ),
    Field(
        "model.bn_running",
        "first",
        Choice(("first", "mean")),
        "running statistics of the 'first' group, or 'mean' of all",
        is_wordy=True,
    ),
    *TRANSFORMER,
    Field(
        "model.dtype",
        "float32",
        Choice(shared.dtypes),
        "of the computation: 'float32', 'bfloat16' or 'float64'",
        is_wordy=True,
    ),
    Field(
        "model.precision",
        "tensorfloat32",
        Choice(shared.precisions),
        "precision of float32 products: 'float32', 'tensorfloat32' (GPUs round to 11 bits, as in "
        "PyTorch's convolutions) or 'default' (TPUs round to 8 bits)",
        is_wordy=True,
    ),
    Field(
        "moco.queue_size",
        16384,
        Whole(1, 2**31 - 1),
        "K, keys kept as negatives; batch_size or more",
    ),
    Field(
        "moco.momentum",
        0.99,
        Number(0, 1, below=True),
        "m of the key encoder",
        "with 1 the key encoder would stay as it began",
    ),
    Field(
        "moco.temperature",
        0.2,
        shared.TEMPERATURE,
        "divides the similarities",
        shared.TEMPERATURE_REASON,
    ),
    switch("moco.merge_passes", True, "whether key and negatives share one forward pass"),
    Field(
        "moco.shuffle",
        "device",
        Choice(("device", "data")),
        "how shuffling BN moves crops: 'device' = between devices, 'data' = each process loads its "
        "own; may change on resume, and so may shard_queue",
        is_wordy=True,
    ),
    switch(
        "moco.shard_queue",
        False,
        "whether to split the queue over the devices, for large K; K must then be a multiple of "
        "the number of devices",
    ),
    siamese.SYMMETRIC,
    *siamese.SIAMESE,
    *contrast.NEGATIVES,
    *contrast.LOSS,
    shared.OPTIMIZER,
    Field(
        "optimizer.learning_rate",
        0.8,
        shared.RATE,
        "rate of the first epoch, not scaled by the batch",
        shared.RATE_REASON,
    ),
    *shared.scheduling(milestones=(120, 160), weight_decay=1e-4),
    Field(
        "optimizer.anchor",
        0.0,
        Number(0, 1000),
        "weight of half the squared distance of the backbone to its `pretrained` weights (L2-SP); "
        "0 = none",
        "the backbone would not move at larger ones",
    ),
    switch(
        "optimizer.shard",
        False,
        "whether to split the optimiser's state over the devices, for large networks; may change "
        "on resume",
    ),
    Field(
        "optimizer.accumulate",
        1,
        Whole(1, 2**19),
        "parts of the queries whose gradients are summed before the update, for less memory; the "
        "step is that of the whole batch, and each device must have whole batch-norm groups in "
        "each part; may change on resume",
    ),
    Field("checkpoint.every_steps", 500, shared.STEPS, "steps between checkpoints"),
    Field("checkpoint.keep", 2, Whole(1, 1_000_000), "latest checkpoints kept"),
    Field(
        "checkpoint.keep_every_epochs",
        0,
        shared.EPOCHS_OR_0,
        "epochs between checkpoints that are kept besides; 0 = none (the original's 10)",
    ),
)
