"""Loads trained encoders straight from PyTorch and safetensors files."""

from pathlib import Path

from nsneg_jax.embedding import Pretrained
from nsneg_jax.pretrained import assemble, check_computation, view_geometry
from nsneg_jax.pytorch import states
from nsneg_jax.pytorch.importing import classifier_of, recognise_file
from nsneg_jax.pytorch.layouts import QUERY
from nsneg_jax.pytorch.names import from_state_dict


def load_file(
    path: Path,
    dtype: str = "float32",
    precision: str = "float32",
    *,
    image_size: int | None = None,
    resize: int | None = None,
) -> Pretrained:
    """Loads the encoder in a file, as importing it and `load_pretrained` would.

    Args:
        path: the file; see `states` for the supported kinds.
        dtype, precision, image_size, resize: see `load_pretrained`.

    Raises:
        UsageError: the file is refused.
    """
    check_computation(dtype, precision)
    found, _, _ = recognise_file(path)
    is_pretraining = found.kind == states.PRETRAINING
    arrays = found.encoders[QUERY if is_pretraining else ""]
    return assemble(
        found.model,
        from_state_dict(arrays, found.params),
        from_state_dict(arrays, found.stats),
        dtype=dtype,
        precision=precision,
        views=view_geometry(found.model, {}, image_size, resize),
        origin=str(path),
        classifier=None if is_pretraining else classifier_of(arrays),
    )
