"""Kinds and rows that the tables of several jobs share."""

from collections.abc import Collection

from nsneg_jax.jobs.fields.field import Field
from nsneg_jax.jobs.fields.kinds import Choice, Names, Number, Pair, Several, Switch, Text, Whole
from nsneg_jax.training.loggers.process import SERVICES

MOST_EPOCHS = 1_000_000
MOST_STEPS = 2**31 - 1  # steps are counted in int32
COUNTED = "steps are counted in 32 bits"
SEED = Whole(0, 2**63 - 1)
SEED_REASON = (
    "JAX takes no larger one; what is drawn on devices tells seeds apart by their last 32 bits only"
)
BATCH = Whole(1, 2**20)
EPOCHS = Whole(1, MOST_EPOCHS)
STEPS = Whole(1, MOST_STEPS)
STEPS_OR_0 = Whole(0, MOST_STEPS)
EPOCHS_OR_0 = Whole(0, MOST_EPOCHS)
CHANCE = Number(0, 1)
MOMENTUM = Number(0, 0.9999)
MOMENTUM_REASON = "a mean over more than 10,000 steps forgets nothing"
RATE = Number(1e-12, 1e6)
RATE_REASON = "smaller ones change no float32 parameter, larger ones end in no number"
DECAY = Number(0, 10)
DECAY_REASON = "it shrinks parameters by this times the learning rate per step"
AREA = Pair(Number(1e-4, 1))
AREA_REASON = "a ten-thousandth of a photograph is a few pixels"
TEMPERATURE = Number(1e-3, 100)
TEMPERATURE_REASON = (
    "similarities lie between -1 and 1: below, only the largest counts; above, all are equal"
)
SIDE = Whole(8, 4096)
SIDE_OR_RUN = Whole(8, 4096, (0,))
RESIZE = Whole(224, 4096, (0,))
RESIZE_OR_RUN = Whole(224, 4096, (0, -1))
RESIZE_REASON = "it is meant for views of 224 pixels, and scales with data.image_size"
SCHEDULES = ("cosine", "step")
FEWEST_PIXELS = "networks halve an image several times"


def dtypes() -> Collection[str]:
    """Returns the names of the dtypes of a computation."""
    from nsneg_jax.parallel.mesh import DTYPES

    return DTYPES


def precisions() -> Collection[str]:
    """Returns the names of the precisions of products."""
    from nsneg_jax.models.encoder import PRECISIONS

    return tuple(PRECISIONS)


def _optimizers() -> Collection[str]:
    from nsneg_jax.methods.optimizer import OPTIMIZERS

    return OPTIMIZERS


def computation() -> tuple[Field, ...]:
    """Returns the rows of the computation of a frozen encoder."""
    return (
        Field(
            "dtype",
            "float32",
            Choice(dtypes),
            "of the encoder: 'float32', 'bfloat16' or 'float64'",
            is_wordy=True,
        ),
        Field(
            "precision",
            "float32",
            Choice(precisions),
            "precision of float32 products: 'float32', 'tensorfloat32' (GPUs round to 11 bits) or "
            "'default' (TPUs round to 8 bits)",
            is_wordy=True,
        ),
    )


TFDS_DIR = Field(
    "data.tfds_dir",
    "",
    Text(),
    "folder of 'tfds:' data sets; '' = $TFDS_DATA_DIR or TFDS's own",
)
CLASSES = Field(
    "data.classes",
    "",
    Text(),
    "used: '' = all; names with commas, or a file of one per line",
)
LABELS = Field(
    "data.labels",
    "",
    Text(),
    "file with the class of each image in no class folder: a table of image and class, ImageNet's "
    "devkit; '' = class folders, or Kaggle's LOC_val_solution.csv if found",
)
CROP_SCALE = Field(
    "crop_scale",
    (0.08, 1.0),
    AREA,
    "area of a training crop as a fraction of the image",
    AREA_REASON,
)
OPTIMIZER = Field(
    "optimizer.name",
    "sgd",
    Choice(_optimizers),
    "'sgd', 'adamw', 'lars' or one registered in methods.optimizer",
    is_wordy=True,
)
FLIP = Field("flip_probability", 0.5, CHANCE, "chance of a horizontal flip in training")
MAX_BAD = Field(
    "data.max_bad_fraction",
    0.001,
    CHANCE,
    "images that may be unreadable, as a part of all; more stop the run",
)


def scheduling(*, milestones: tuple[int, ...], weight_decay: float) -> tuple[Field, ...]:
    """Returns the rows of an encoder's optimiser after its rate, with these defaults."""
    return (
        Field(
            "optimizer.schedule",
            "cosine",
            Choice(SCHEDULES),
            "of the rate: 'cosine' or 'step'; it changes once per epoch",
            is_wordy=True,
        ),
        Field(
            "optimizer.milestones",
            milestones,
            Several(EPOCHS, 100, least=0, rising=True),
            "'step': epochs where the rate falls to a tenth",
        ),
        Field(
            "optimizer.warmup_epochs",
            0,
            EPOCHS_OR_0,
            "first epochs in which the rate grows from 0, fewer than epochs; 0 = none",
        ),
        Field(
            "optimizer.momentum",
            0.9,
            MOMENTUM,
            "of SGD and LARS; beta_1 of AdamW",
            MOMENTUM_REASON,
        ),
        Field(
            "optimizer.weight_decay",
            weight_decay,
            DECAY,
            "'sgd' decays every parameter, the others no biases or norm scales",
            DECAY_REASON,
        ),
    )


def loaders(work: str) -> tuple[Field, ...]:
    """Returns the rows of threads and processes, which do `work`."""
    return (
        Field(
            "data.threads",
            -1,
            Whole(1, 1024, (-1,)),
            f"threads that {work}, without workers; -1 = by the number of processors",
        ),
        Field(
            "data.workers",
            -1,
            Whole(0, 1024, (-1,)),
            f"processes that {work}; 0 = threads; -1 = one per processor, one less with more than "
            "4, and 16 per accelerator at most",
        ),
    )


def switch(name: str, default: bool, meaning: str) -> Field:
    """Returns the row of a field that is True or False."""
    return Field(name, default, Switch(), meaning)


def running(work: str) -> tuple[Field, ...]:
    """Returns the rows of how a job runs, which counts its progress in `work`."""
    return (
        Field(
            "watchdog_minutes",
            30.0,
            Number(0, 1e5),
            f"minutes without a {work} after which the stacks of all threads are written; "
            "0 = never",
        ),
        switch(
            "deterministic",
            False,
            "GPUs: whether to use only operations that repeat to the bit, which takes longer",
        ),
    )


def logging(what: str) -> tuple[Field, ...]:
    """Returns the rows of the services that figures are logged to; `what` says of which runs."""
    return (
        Field(
            "log.to",
            "",
            Names(SERVICES),
            f"{what}services that get the figures too, besides the files of the workdir",
        ),
        Field(
            "log.project",
            "nsneg_jax",
            Text("a project", needed=True),
            "project of W&B and Trackio, and experiment of MLflow",
        ),
    )
