"""The fields of the jobs linear, knn and features."""

from nsneg_jax.jobs.fields.field import Field
from nsneg_jax.jobs.fields.kinds import Choice, Several, Text, Whole
from nsneg_jax.jobs.fields.rows import shared
from nsneg_jax.jobs.fields.rows.shared import switch

JOBS = ("linear", "knn", "features")

PROBING = (
    Field(
        "job",
        "linear",
        Choice(JOBS),
        "job to run: 'linear', or 'knn' and 'features', which do not train",
        is_wordy=True,
    ),
    Field(
        "pretrained",
        "",
        Text(),
        "encoder: a workdir, a checkpoint folder in it, or 'untrained:' and either of them for the "
        "same network with initial weights",
    ),
    Field(
        "seed",
        0,
        shared.SEED,
        "seed of order and crops of the training images",
        shared.SEED_REASON,
    ),
    Field(
        "batch_size",
        128,
        shared.BATCH,
        "images per step, over all devices; a multiple of their number",
    ),
    Field("epochs", 60, shared.EPOCHS, "passes over the training images"),
    Field(
        "learning_rates",
        (10.0,),
        Several(shared.RATE, 1000),
        "one classifier per rate, all trained in one pass",
        shared.RATE_REASON,
    ),
    switch(
        "evaluate_only",
        False,
        "whether to evaluate the classifier in `pretrained` instead of training one",
    ),
    shared.CROP_SCALE,
    shared.FLIP,
    *shared.computation(),
    *shared.running("step"),
    *shared.logging("'linear': "),
    Field(
        "data.source",
        "",
        Text(),
        "images: 'folder:PATH', 'arrayrecord:PATH', 'tfds:NAME[/CONFIG][:VERSION]', "
        "'hf:PATH[/CONFIG]', 'cifar10:PATH', 'cifar100:PATH', 'stl10:PATH', 'idx:PATH' (MNIST's "
        "files) or, built in, 'shapes[/VERSION][:SIZE][@SEED]'; '' = those of the "
        "encoder's run, with its tfds_dir, classes and labels where these are ''; ImageNet-100 in "
        "$NSNEG_DATA if the run is unknown",
    ),
    shared.TFDS_DIR,
    Field(
        "data.split",
        "train",
        Text("a split of data.source", needed=True),
        "images trained on; the bank of kNN",
    ),
    Field(
        "data.eval_split",
        "val",
        Text("a split of data.source", needed=True),
        "images evaluated, or turned into features",
    ),
    shared.CLASSES,
    shared.LABELS,
    Field(
        "data.image_size",
        0,
        shared.SIDE_OR_RUN,
        "side of a view in pixels; 0 = that of the encoder's run, or 224",
        shared.FEWEST_PIXELS,
    ),
    Field(
        "data.resize",
        -1,
        shared.RESIZE_OR_RUN,
        "pixels at 224 of the shorter side before the central crop; 0 = crop only; -1 = that of "
        "the encoder's run, or 256",
        shared.RESIZE_REASON,
    ),
    *shared.loaders("decode and crop"),
    shared.MAX_BAD,
    Field(
        "optimizer.schedule",
        "step",
        Choice(shared.SCHEDULES),
        "of the rate: 'cosine' or 'step'; it changes once per epoch",
        is_wordy=True,
    ),
    Field(
        "optimizer.milestones",
        (30, 40, 50),
        Several(shared.EPOCHS, 100, least=0, rising=True),
        "'step': epochs where the rate falls to a tenth",
    ),
    Field("optimizer.momentum", 0.9, shared.MOMENTUM, "of SGD", shared.MOMENTUM_REASON),
    Field("optimizer.weight_decay", 0.0, shared.DECAY, "on every parameter", shared.DECAY_REASON),
    Field(
        "knn.k",
        (20, 200),
        Several(Whole(1, 100_000), 100),
        "neighbours that vote, one accuracy per number; of a smaller bank all vote",
    ),
    Field(
        "knn.temperature",
        0.07,
        shared.TEMPERATURE,
        "divides the similarities in their weights",
        shared.TEMPERATURE_REASON,
    ),
    Field(
        "features_format",
        "npz",
        Choice(("npz", "safetensors", "parquet")),
        "format of the features file: 'npz', 'safetensors' or 'parquet'",
        is_wordy=True,
    ),
    Field(
        "features_splits",
        "",
        Text("splits of data.source with commas"),
        "splits to turn into features, such as 'train,val'; '' = data.eval_split",
    ),
)
