"""Features of a trained encoder, of all images of a source; the job that writes them to a file."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from nsneg_jax.evaluation.passes import central_batches, one_late, open_split
from nsneg_jax.files import write_npz, write_whole
from nsneg_jax.input.labelled import steps_per_pass
from nsneg_jax.input.sources.source import Source
from nsneg_jax.jobs.validation import claim_workdir, validate_features
from nsneg_jax.methods.probe import frozen_features
from nsneg_jax.models.encoder import Encoder, Tree
from nsneg_jax.parallel import mesh
from nsneg_jax.pretrained import load_pretrained
from nsneg_jax.training.metrics import Progress

_BATCHES_A_LINE = 100  # of the log


class Features(NamedTuple):
    """`features` float32 [n, F] and `labels` int32 [n] of all images of a source, in its order."""

    features: np.ndarray
    labels: np.ndarray


class Extractor:
    """Pooled features in inference mode, in a program compiled once.

    Args:
        encoder: the network.
        data: a config's `data` section.
        batch_size: over all devices.
        dtype: of the computation.
        devices: the batch is split over them.
    """

    def __init__(
        self, encoder: Encoder, data: ConfigDict, batch_size: int, dtype: str, devices: Mesh
    ) -> None:
        self._features = compile_features(encoder, dtype, devices)
        self._batches = partial(central_batches, data, batch_size, devices=devices)
        self._batch_size = batch_size
        self._is_compiled = False

    def __call__(self, params: Tree, stats: Tree, source: Source) -> Features:
        """The features of `source`, every process has all of them.

        Args:
            params, stats: of the encoder.
            source: of the images.
        """
        batch, total = self._batch_size, steps_per_pass(len(source), self._batch_size)
        found = None
        with Progress(total, 0, unit="batch") as display:
            if not self._is_compiled:
                display.compiling("the features")
            batches = self._batches(source=source)
            running = (self._features(params, stats, each["image"]) for each in batches)
            for done, features in enumerate(one_late(running)):
                if not self._is_compiled:
                    display.first("batch")
                    self._is_compiled = True
                if found is None:
                    found = np.empty((total * batch, features.shape[1]), np.float32)
                found[done * batch : (done + 1) * batch] = features
                display.advance(done + 1)
                if (done + 1) % _BATCHES_A_LINE == 0 or display.is_due():
                    display.show(done + 1, f"{(done + 1) * batch:,} images")
        return Features(found[: len(source)], np.asarray(source.labels))


def compile_features(encoder: Encoder, dtype: str, devices: Mesh) -> Callable:
    """The program that takes params, stats and uint8 images [N, S, S, 3], split over the devices.

    It returns float32 features [N, F], whole on each device.
    """

    def features(params: Tree, stats: Tree, images: jax.Array) -> jax.Array:
        backbone = {"params": params, "stats": stats}
        return frozen_features(encoder, dtype, backbone, images).astype(jnp.float32)

    whole, split = mesh.replicated(devices), mesh.split_batch(devices)
    return jax.jit(features, in_shardings=(whole, whole, split), out_shardings=whole)


def write_features(
    config: ConfigDict, workdir: Path, devices: Sequence[jax.Device] | None = None
) -> Path:
    """The features job: writes those of `data.eval_split` to WORKDIR/features.npz.

    With `features_format='safetensors'` it is WORKDIR/features.safetensors. Either holds
    `features` float32 [n, F], `labels` int32 [n] and, as npz, `classes`, their names.

    Args:
        config: of the job; see configs/linear.py.
        workdir: for the file and config.json.
        devices: to split the batch over, by default all there are.

    Raises:
        UsageError: the config, the encoder or the data do not fit.
    """
    mesh.use_dtype(config.dtype)
    devices = mesh.data_mesh(devices)
    validate_features(config, devices.size)
    source = open_split(config.data, config.data.eval_split)
    pretrained = load_pretrained(config.pretrained, config.dtype, config.precision)
    claim_workdir(config, workdir, resuming=False)
    print(
        f"encoder  {pretrained.origin}\ndata     {source.name}: {len(source):,} images", flush=True
    )
    extract = Extractor(pretrained.encoder, config.data, config.batch_size, config.dtype, devices)
    found = extract(pretrained.params, pretrained.stats, source)
    path = workdir / f"features.{config.features_format}"
    if jax.process_index() == 0:
        _WRITERS[config.features_format](path, found, source.classes)
    n, values = found.features.shape
    print(f"done: {n:,} features of {values} values in {path}")
    return path


def _write_npz(path: Path, found: Features, classes: tuple[str, ...]) -> None:
    # features hardly compress
    write_npz(path, {**found._asdict(), "classes": np.array(classes)}, compressed=False)


def _write_safetensors(path: Path, found: Features, classes: tuple[str, ...]) -> None:
    from safetensors.numpy import save_file

    metadata = {"classes": "\n".join(classes)}
    write_whole(path, lambda partial_path: save_file(found._asdict(), partial_path, metadata))


_WRITERS = {"npz": _write_npz, "safetensors": _write_safetensors}
