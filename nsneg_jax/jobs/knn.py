"""The kNN job, and the kNN accuracy during pre-training."""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from nsneg_jax.evaluation.features import Extractor
from nsneg_jax.evaluation.neighbours import Monitor, accuracies
from nsneg_jax.input.samples import Unreadable
from nsneg_jax.input.sources.protocol import Source
from nsneg_jax.input.splits import (
    check_pair,
    open_labelled,
    open_split,
    tells_apart,
    without_classes,
)
from nsneg_jax.jobs.frozen import knn_settings, reading_of
from nsneg_jax.jobs.opening import open_frozen
from nsneg_jax.jobs.validation import validate_knn
from nsneg_jax.models.encoder import Encoder
from nsneg_jax.pretrained import load_pretrained
from nsneg_jax.training.unreadable import UnreadableImages


def knn(
    config: ConfigDict, workdir: Path, devices: Sequence[jax.Device] | None = None
) -> dict[str, float]:
    """Measures the kNN accuracy on `data.eval_split`, with `data.split` as the bank.

    Args:
        config: config of the job; see configs/linear.py.
        workdir: folder for results.json and config.json.
        devices: devices to split the work over, by default all.

    Returns:
        'knn_K', the accuracy in percent with K neighbours, per K in `knn.k`.

    Raises:
        UsageError: the config, the encoder or the data do not fit.
        RunError: a feature is not finite.
    """
    run, config = open_frozen(config, workdir, devices, validate_knn)
    settings = knn_settings(config)
    data = settings.data
    sources = [open_labelled(data, split, "kNN") for split in (data.split, data.eval_split)]
    check_pair(*sources)
    pretrained = load_pretrained(settings.pretrained, run.dtype, run.precision)
    run.claim()
    print(f"encoder  {pretrained.origin}")
    sizes = [f"{source.name}: {len(source):,}" for source in sources]
    print(f"data     {sizes[0]} images; {sizes[1]}")
    run.print_views(sources[1])
    extract = Extractor(pretrained.encoder, settings.reading, run.dtype, run.devices)
    unreadable = UnreadableImages(workdir, sum(map(len, sources)), data.max_bad_fraction)
    bank, queries = (
        extract(pretrained.params, pretrained.stats, source, unreadable) for source in sources
    )
    figures = accuracies(bank, queries, settings.k, settings.temperature, run.devices)
    about = {
        "job": "knn",
        "encoder": pretrained.encoder_origin,
        "encoder_seed": pretrained.encoder_seed,
        **run.computation,
    }
    path = run.write_results(about | figures | {"validation_images": len(queries.labels)})
    for k in settings.k:
        few = f" (all {len(sources[0])} of the bank)" if k > len(sources[0]) else ""
        print(f"{k} nearest{few}: {figures[f'knn_{k}']:.2f} %")
    print(f"done: {len(queries.labels):,} images counted; {path}")
    return figures


def monitored(config: ConfigDict, bank: Source) -> tuple[Source | None, str]:
    """Opens `data.eval_split` for the kNN accuracy during a pre-training.

    Args:
        config: config of a pre-training job.
        bank: the training images.

    Returns:
        The split, and ''. If either has no labels, None and a sentence that says so.

    Raises:
        UsageError: `data.eval_split` is missing, or has other classes.
    """
    queries = open_split(config.data, config.data.eval_split) if tells_apart(bank) else bank
    if not tells_apart(queries):
        return None, f"kNN is left out, because {without_classes(queries)}."
    check_pair(bank, queries)
    return queries, ""


def monitor(
    config: ConfigDict,
    bank: Source,
    queries: Source,
    encoder: Encoder,
    devices: Mesh,
    on_unreadable: Callable[[Unreadable], None],
) -> Monitor:
    """Makes the monitor of kNN accuracy during a pre-training.

    Args:
        config: config of a pre-training job.
        bank: the training images.
        queries: the images to classify, see `monitored`.
        encoder: the network.
        devices: devices to split the work over.
        on_unreadable: called for each image that cannot be read; it is left out.
    """
    reading = reading_of(config)
    return Monitor(encoder, bank, queries, reading, config.model.dtype, devices, on_unreadable)
