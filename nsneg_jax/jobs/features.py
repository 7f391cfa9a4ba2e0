"""The features job: writes the features of a trained encoder to a file."""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from nsneg_jax.evaluation.features import Extractor, Features
from nsneg_jax.evaluation.protocols.finite import check_features
from nsneg_jax.files import write_npz, write_whole
from nsneg_jax.input.splits import open_split
from nsneg_jax.jobs.frozen import feature_settings
from nsneg_jax.jobs.opening import open_frozen
from nsneg_jax.jobs.validation import validate_features
from nsneg_jax.pretrained import load_pretrained
from nsneg_jax.training.unreadable import UnreadableImages
from nsneg_jax.training.workdir import FEATURES


def write_features(
    config: ConfigDict, workdir: Path, devices: Sequence[jax.Device] | None = None
) -> Path:
    """Writes the features of `data.eval_split` to WORKDIR/features.npz and returns its path.

    With `features_format='safetensors'` the file is WORKDIR/features.safetensors. It holds
    `features` float32 [n, F], `labels` int32 [n], `indices` int32 [n] (the place of each image in
    the split; images that cannot be read are left out) and the class names: the array `classes` in
    npz, the metadata entry `classes`, one name per line, in safetensors.

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
    source = open_split(settings.data, settings.data.eval_split)
    pretrained = load_pretrained(settings.pretrained, run.dtype, run.precision)
    run.claim()
    print(f"encoder  {pretrained.origin}\ndata     {source.name}: {len(source):,} images")
    run.print_views(source)
    extract = Extractor(pretrained.encoder, settings.reading, run.dtype, run.devices)
    unreadable = UnreadableImages(workdir, len(source), settings.data.max_bad_fraction)
    found = extract(pretrained.params, pretrained.stats, source, unreadable)
    check_features(found.features, source.name)
    path = workdir / f"{FEATURES}.{settings.features_format}"
    if jax.process_index() == 0:
        _WRITERS[settings.features_format](path, found, source.classes)
    n, values = found.features.shape
    print(f"done: {n:,} features of {values} values in {path}")
    return path


def _write_npz(path: Path, found: Features, classes: tuple[str, ...]) -> None:
    # Features hardly compress.
    write_npz(path, {**found._asdict(), "classes": np.array(classes)}, compressed=False)


def _write_safetensors(path: Path, found: Features, classes: tuple[str, ...]) -> None:
    from safetensors.numpy import save_file

    # Names that are no UTF-8 are escaped.
    metadata = {"classes": "\n".join(classes).encode("utf-8", "backslashreplace").decode()}
    write_whole(path, lambda partial_path: save_file(found._asdict(), partial_path, metadata))


_WRITERS = {"npz": _write_npz, "safetensors": _write_safetensors}
