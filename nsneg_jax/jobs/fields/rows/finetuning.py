"""The fields of the job finetune."""

from collections.abc import Collection

from nsneg_jax.jobs.fields.field import Field
from nsneg_jax.jobs.fields.kinds import Choice, Number, Several, Text, Whole
from nsneg_jax.jobs.fields.rows import shared
from nsneg_jax.jobs.fields.rows.probing import PROBING


def _optimizers() -> Collection[str]:
    from nsneg_jax.methods.optimizer import OPTIMIZERS

    return OPTIMIZERS


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
    Field(
        "crop_scale",
        (0.08, 1.0),
        shared.AREA,
        "area of a training crop as a fraction of the image",
        shared.AREA_REASON,
    ),
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
    Field(
        "optimizer.name",
        "sgd",
        Choice(_optimizers),
        "'sgd', 'adamw', 'lars' or one registered in methods.optimizer",
        is_wordy=True,
    ),
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
    Field(
        "optimizer.schedule",
        "cosine",
        Choice(shared.SCHEDULES),
        "of the rate: 'cosine' or 'step'; it changes once per epoch",
        is_wordy=True,
    ),
    Field(
        "optimizer.milestones",
        (18, 24),
        Several(shared.EPOCHS, 100, least=0, rising=True),
        "'step': epochs where the rate falls to a tenth",
    ),
    Field(
        "optimizer.warmup_epochs",
        0,
        shared.EPOCHS_OR_0,
        "first epochs in which the rate grows from 0, fewer than epochs; 0 = none",
    ),
    Field(
        "optimizer.momentum",
        0.9,
        shared.MOMENTUM,
        "of SGD and LARS; beta_1 of AdamW",
        shared.MOMENTUM_REASON,
    ),
    Field(
        "optimizer.weight_decay",
        0.0,
        shared.DECAY,
        "'sgd' decays every parameter, the others no biases or norm scales",
        shared.DECAY_REASON,
    ),
)
