"""The kNN job."""

from collections.abc import Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from nsneg_jax.evaluation.features import Extractor
from nsneg_jax.evaluation.neighbours import accuracies
from nsneg_jax.input.splits import check_pair, open_labelled
from nsneg_jax.jobs.frozen import knn_settings
from nsneg_jax.jobs.opening import open_frozen
from nsneg_jax.jobs.validation import validate_knn
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
