"""The fields of an evaluation on many test sets, and of a test set."""

from collections.abc import Collection

from nsneg_jax.jobs.fields.field import Field
from nsneg_jax.jobs.fields.kinds import Choice, Text, Whole
from nsneg_jax.jobs.fields.rows import shared
from nsneg_jax.jobs.fields.rows.shared import switch


def _protocols() -> Collection[str]:
    from nsneg_jax.evaluation.sets import PROTOCOLS

    return PROTOCOLS


def _answers() -> Collection[str]:
    from nsneg_jax.evaluation.protocols.imagenet import CLASS_LISTS

    return ("all", "present", *CLASS_LISTS)


def _benchmarks() -> Collection[str]:
    from nsneg_jax.evaluation.protocols.benchmarks import BENCHMARKS

    return tuple(BENCHMARKS)


EVALUATION = (
    Field(
        "job",
        "evaluate",
        Choice(("evaluate",)),
        "job to run; only 'evaluate' reads these fields",
        is_wordy=True,
    ),
    Field(
        "pretrained",
        "",
        Text(),
        "classifier: a linear probe's workdir, or a checkpoint folder in it",
    ),
    Field(
        "label",
        "",
        Text(),
        "name of the table's row; runs of one label are pooled to mean and std",
    ),
    Field(
        "csv",
        "",
        Text(),
        "CSV of rows like timm's: FILE.csv makes FILE-SET.csv per set and adds a row; '' = none",
    ),
    Field(
        "classes",
        "",
        Text(),
        "file with one class name per line, if the classifier has no names: its first outputs",
    ),
    Field("only", "", Text(), "sets to evaluate: '' = all; names with commas"),
    switch("require_all", False, "whether a missing set is an error"),
    Field(
        "batch_size",
        256,
        shared.BATCH,
        "images per step, over all devices; a multiple of their number",
    ),
    Field(
        "seed",
        0,
        shared.SEED,
        "seed of generated corruptions and bootstrap intervals",
        shared.SEED_REASON,
    ),
    *shared.computation(),
    *shared.running("batch"),
    Field(
        "data.image_size",
        0,
        shared.SIDE_OR_RUN,
        "side of a view in pixels; 0 = that of the probe's run, or 224",
        shared.FEWEST_PIXELS,
    ),
    shared.TFDS_DIR,
    *shared.loaders("decode"),
)

# Each set has these below its own name; the order is that of `evaluation.sets.EvaluationSet`.
TEST_SET = (
    Field(
        "source",
        "",
        Text(),
        "images: 'folder:PATH', 'arrayrecord:PATH', 'tfds:NAME[/CONFIG]', 'hf:PATH[/CONFIG]', "
        "'cifar10:PATH', 'cifar100:PATH', 'stl10:PATH', 'idx:PATH', 'shapes/VERSION:SIZE'; '' = "
        "those of the probe's run, or ImageNet-100 in $NSNEG_DATA",
    ),
    Field(
        "split",
        ".",
        Text(),
        "folder in PATH that holds the class folders; for TFDS, '.' is the only split, or "
        "'validation'",
    ),
    Field(
        "resize",
        -1,
        shared.RESIZE_OR_RUN,
        "pixels at 224 of the shorter side before the central crop; 224 = whole files, as "
        "released; 0 = crop only, the same pixels at every data.image_size; -1 = data.resize of "
        "the probe's run, or 256 (a run that only crops decides for its own images alone)",
        shared.RESIZE_REASON,
    ),
    Field(
        "protocol",
        "top1",
        Choice(_protocols),
        "measurement: 'top1'; 'corruption' (CORRUPTION/SEVERITY/CLASS in PATH); 'texture' (top-1 "
        "on synthesised textures of each class); 'cue_conflict' (shape or texture); 'real' "
        "(several labels per image); 'objectnet'",
        is_wordy=True,
    ),
    Field(
        "answers",
        "all",
        Choice(_answers),
        "arg-max over 'all' classes of the classifier, those 'present', or those of 'imagenet-a'",
        is_wordy=True,
    ),
    Field(
        "names",
        "class",
        Choice(("class", "index")),
        "names of class folders: 'class' names, or 'index' in ImageNet-1K",
        is_wordy=True,
    ),
    switch(
        "generate",
        False,
        "'corruption': whether to corrupt the images of `source` here; 'texture': whether to make "
        "textures of them here, of 'shapes' only",
    ),
    switch(
        "extra",
        False,
        "with `generate`: whether to add the corruptions outside the benchmark's mean, "
        "ImageNet-C's four and your own",
    ),
    Field(
        "labels",
        "",
        Text(),
        "file with the class of each image in no class folder, see data.labels of other jobs; for "
        "'real', real.json",
    ),
    Field(
        "benchmark",
        "imagenet-c",
        Choice(_benchmarks),
        "what 'corruption' looks for and averages: 'imagenet-c', 'imagenet-c-bar' or, made here, "
        "'suppression'",
        is_wordy=True,
    ),
    Field("border", 0, Whole(0, 64), "pixels that 'objectnet' cuts from each side of an image"),
)
