"""Loads trained encoders from runs, exported folders, and PyTorch and safetensors files."""

from pathlib import Path
from typing import Any

from nsneg_jax import pretrained
from nsneg_jax.embedding import Pretrained
from nsneg_jax.errors import UsageError
from nsneg_jax.files import user_path
from nsneg_jax.pretrained import assemble, check_computation, view_geometry
from nsneg_jax.pytorch import states
from nsneg_jax.pytorch.files import SAFETENSORS_SUFFIX, TORCH_SUFFIXES
from nsneg_jax.pytorch.hub import layout
from nsneg_jax.pytorch.importing import (
    classifier_of,
    recognise_file,
    recorded_classes,
    recorded_views,
)
from nsneg_jax.pytorch.layouts import QUERY
from nsneg_jax.pytorch.names import from_state_dict


def load(
    path: str | Path,
    dtype: str = "float32",
    precision: str = "float32",
    *,
    image_size: int | None = None,
    resize: int | None = None,
) -> Pretrained:
    """Loads an encoder from wherever it is.

    Args:
        path: a workdir, a checkpoint folder, a folder in the layout of `hub.layout`, or a PyTorch
            or safetensors file.
        dtype, precision, image_size, resize: see `pretrained.load_pretrained`.

    Raises:
        UsageError: there is no encoder, it cannot be read, or it has another kind.
    """
    given: dict[str, Any] = {"image_size": image_size, "resize": resize}
    place = user_path(str(path))
    named_so = place.name.endswith((*TORCH_SUFFIXES, SAFETENSORS_SUFFIX))
    if layout.is_hub_folder(place) or place.is_file() or (named_so and not place.is_dir()):
        return _from_file(place, dtype, precision, **given)
    if not place.exists() and not str(path).startswith(pretrained.UNTRAINED):
        raise UsageError(
            f"There is no folder {place}. Give a run's workdir, a checkpoint in it such as "
            "WORKDIR/checkpoints/400, a folder that was exported, or a PyTorch or safetensors file."
        )
    return pretrained.load_pretrained(path, dtype, precision, **given)


def _from_file(
    path: Path, dtype: str, precision: str, image_size: int | None, resize: int | None
) -> Pretrained:
    """Loads the encoder in a file or exported folder, as importing it and then loading would."""
    check_computation(dtype, precision)
    found, _, record = recognise_file(path)
    is_pretraining = found.kind == states.PRETRAINING
    arrays = found.encoders[QUERY if is_pretraining else ""]
    classifier = None if is_pretraining else classifier_of(arrays)
    return assemble(
        found.model,
        from_state_dict(arrays, found.params),
        from_state_dict(arrays, found.stats),
        dtype=dtype,
        precision=precision,
        views=view_geometry(found.model, recorded_views(record), image_size, resize),
        origin=str(path),
        classifier=classifier,
        classes=recorded_classes(record, classifier),
    )
