"""The fields of the job finetune."""

from nsneg_jax.jobs.fields.field import Field
from nsneg_jax.jobs.fields.kinds import Choice, Number, Text, Whole
from nsneg_jax.jobs.fields.rows import shared
from nsneg_jax.jobs.fields.rows.probing import PROBING

# Which images, and how they are read and cropped: as of a probe.
_IMAGES = tuple(row for row in PROBING if row.name.startswith("data."))

FINETUNING = (
    Field("job", "finetune", Choice(("finetune",)), "job to run: 'finetune'", is_wordy=True),
    Field(
        "pretrained",
        "",
        Text(),
        "encoder to start from: a workdir, a checkpoint folder in it, or 'untrained:' and either "
        "of them for initial weights, to compare with training on labels alone",
    ),
    Field(
        "seed",
        0,
        shared.SEED,
        "seed of the classifier's initial weights, and of order and crops of the training images",
        shared.SEED_REASON,
    ),
    Field(
        "batch_size",
        256,
        shared.BATCH,
        "images per step, over all devices; a multiple of their number",
    ),
    Field("epochs", 30, shared.EPOCHS, "passes over the training images"),
    shared.CROP_SCALE,
    shared.FLIP,
    Field(
        "label_smoothing",
        0.0,
        Number(0, 0.99),
        "part of a label that is spread evenly over all classes",
        "a label that is spread whole says nothing",
    ),
    Field(
        "anchor",
        0.0,
        Number(0, 1000),
        "weight of half the squared distance to the starting weights (L2-SP); 0 = none",
        "the encoder would not move at larger ones",
    ),
    Field(
        "bn_groups",
        1,
        Whole(0, 2**20),
        "batch-norm groups of a batch, a divisor of batch_size; 0 keeps the statistics of the "
        "start",
    ),
    *shared.computation(),
    *shared.running("step"),
    *shared.logging("'finetune': "),
    *_IMAGES,
    shared.OPTIMIZER,
    Field(
        "optimizer.learning_rate",
        0.05,
        shared.RATE,
        "rate of the encoder in the first epoch, not scaled by the batch",
        shared.RATE_REASON,
    ),
    Field(
        "optimizer.classifier_factor",
        1.0,
        Number(1e-6, 1e6),
        "the classifier's rate as a multiple of the encoder's",
        "smaller ones train no classifier, larger ones end in no number",
    ),
    *shared.scheduling(milestones=(18, 24), weight_decay=0.0),
)
