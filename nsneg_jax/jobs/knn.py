"""The kNN job, and the same accuracy while an encoder is trained."""

from collections.abc import Sequence
from pathlib import Path

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from nsneg_jax.evaluation.features import Extractor
from nsneg_jax.evaluation.neighbours import Monitor, accuracies
from nsneg_jax.input.sources.source import Source
from nsneg_jax.input.splits import check_same_classes, open_split
from nsneg_jax.jobs.frozen import knn_settings, reading_of
from nsneg_jax.jobs.opening import open_run
from nsneg_jax.jobs.validation import validate_knn
from nsneg_jax.models.encoder import Encoder
from nsneg_jax.pretrained import load_pretrained


def knn(
    config: ConfigDict, workdir: Path, devices: Sequence[jax.Device] | None = None
) -> dict[str, float]:
    """Writes the kNN accuracy on `data.eval_split` with `data.split` as the bank.

    Args:
        config: of the job; see configs/linear.py.
        workdir: for results.json and config.json.
        devices: to split the work over, by default all there are.

    Returns:
        'knn_K', the accuracy in percent with K neighbours, for each K of `knn.k`.

    Raises:
        UsageError: the config, the encoder or the data do not fit.
    """
    run = open_run(
        config, workdir, devices, validate_knn, dtype=config.dtype, precision=config.precision
    )
    settings = knn_settings(config)
    data = settings.data
    sources = [open_split(data, split) for split in (data.split, data.eval_split)]
    check_same_classes(*sources)
    pretrained = load_pretrained(settings.pretrained, run.dtype, run.precision)
    run.claim()
    print(f"encoder  {pretrained.origin}")
    sizes = [f"{source.name}: {len(source):,}" for source in sources]
    print(f"data     {sizes[0]} images; {sizes[1]}", flush=True)
    extract = Extractor(pretrained.encoder, settings.reading, run.dtype, run.devices)
    bank, queries = (extract(pretrained.params, pretrained.stats, source) for source in sources)
    figures = accuracies(bank, queries, settings.k, settings.temperature, run.devices)
    about = {
        "job": "knn",
        "encoder": pretrained.encoder_origin,
        "encoder_seed": pretrained.encoder_seed,
        **run.computation,
    }
    path = run.write_results(about | figures | {"validation_images": len(queries.labels)})
    for k in settings.k:
        print(f"{k} nearest: {figures[f'knn_{k}']:.2f} %")
    print(f"done: {len(queries.labels):,} images counted; {path}")
    return figures


def monitor(config: ConfigDict, bank: Source, encoder: Encoder, devices: Mesh) -> Monitor:
    """The kNN accuracy of a pre-training, on its `data.eval_split`.

    Args:
        config: of a pre-training job.
        bank: the source trained on.
        encoder: the network.
        devices: to split the work over.

    Raises:
        UsageError: the split to classify is not there, or has other classes.
    """
    queries = open_split(config.data, config.data.eval_split)
    reading = reading_of(config)
    return Monitor(encoder, bank, queries, reading, config.model.dtype, devices)
