"""The features job: writes the features of a trained encoder to a file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from nsneg_jax.evaluation.features import Extractor, Features
from nsneg_jax.evaluation.protocols.finite import check_features
from nsneg_jax.features.table import Table, check_format, write_table
from nsneg_jax.input.sources.protocol import Source, image_name
from nsneg_jax.input.splits import check_classes, open_split
from nsneg_jax.jobs.frozen import FeatureSettings, feature_settings
from nsneg_jax.jobs.opening import Run, open_frozen
from nsneg_jax.jobs.validation import validate_features
from nsneg_jax.pretrained import load_pretrained
from nsneg_jax.training.unreadable import UnreadableImages
from nsneg_jax.training.workdir import FEATURES


def write_features(
    config: ConfigDict, workdir: Path, devices: Sequence[jax.Device] | None = None
) -> Path:
    """Writes the features of splits to WORKDIR/features.npz and returns its path.

    The splits are those of `features_splits`, or `data.eval_split`. `features_format` gives the
    suffix and the format of the file; `features.table.write_table` says what it holds. Images that
    cannot be read are left out.

    Args:
        config: config of the job; see configs/linear.py.
        workdir: folder for the file and config.json.
        devices: devices to split the batch over, by default all.

    Raises:
        UsageError: the config, the encoder or the data do not fit.
        RunError: a feature is not finite; no file is written.
    """
    run, config = open_frozen(config, workdir, devices, validate_features)
    settings = feature_settings(config)
    form = settings.features_format
    sources = {split: open_split(settings.data, split) for split in settings.splits}
    first, *others = sources.values()
    for other in others:
        check_classes(first, other)
    check_format(form, (name for each in sources.values() for name in _names(each)))
    pretrained = load_pretrained(settings.pretrained, run.dtype, run.precision)
    run.claim()
    print(f"encoder  {pretrained.origin}")
    for source in sources.values():
        print(f"data     {source.name}: {len(source):,} images")
    run.print_views(first)
    extract = Extractor(pretrained.encoder, settings.reading, run.dtype, run.devices)
    images = sum(map(len, sources.values()))
    unreadable = UnreadableImages(workdir, images, settings.data.max_bad_fraction)
    found = {}
    for split, source in sources.items():
        found[split] = extract(pretrained.params, pretrained.stats, source, unreadable)
        check_features(found[split].features, source.name)
    path = workdir / f"{FEATURES}.{form}"
    if jax.process_index() == 0:
        about = _about(run, settings, sources, pretrained.encoder_origin)
        write_table(path, _table(found, sources, about), form)
    n, values = sum(len(each.labels) for each in found.values()), found[settings.splits[0]]
    left_out = f", {images - n:,} left out" if n < images else ""
    print(f"done: {n:,} features of {values.features.shape[1]} values in {path}{left_out}")
    return path


def _table(found: dict[str, Features], sources: dict[str, Source], about: dict[str, Any]) -> Table:
    parts = list(found.values())
    arrays = {
        # without a copy of the features of a single split
        name: getattr(parts[0], name)
        if len(parts) == 1
        else np.concatenate([getattr(part, name) for part in parts])
        for name in Features._fields
    }
    names = [
        image_name(sources[split], index)
        for split, part in found.items()
        for index in part.indices.tolist()
    ]
    splits = [split for split, part in found.items() for _ in range(len(part.labels))]
    classes = next(iter(sources.values())).classes
    return Table(**arrays, names=names, splits=splits, classes=classes, about=about)


def _about(
    run: Run, settings: FeatureSettings, sources: dict[str, Source], encoder: str
) -> dict[str, Any]:
    folders = {split: getattr(source, "folder", None) for split, source in sources.items()}
    return {
        "encoder": encoder,
        "source": settings.data.source,
        "folders": {split: folder for split, folder in folders.items() if folder},
        "image_size": settings.reading.image_size,
        "resize": settings.reading.resize,
        "dtype": run.dtype,
        "precision": run.precision,
    }


def _names(source: Source) -> Sequence[str]:
    return [image_name(source, index) for index in range(len(source))]
