"""Reads and writes PyTorch and safetensors files as nested dicts of NumPy arrays.

torch is imported only here, and only to read or write one of its files.
"""

import argparse
import contextlib
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np

from nsneg_jax.errors import UsageError
from nsneg_jax.extras import needed
from nsneg_jax.files import write_whole
from nsneg_jax.pytorch.kinds import SAFETENSORS, kind_of

TORCH_SUFFIXES = (".pth", ".pth.tar", ".pt")
SAFETENSORS_SUFFIX = ".safetensors"
_ZIP = b"PK\x03\x04"
# A plain bag of values that training scripts save beside their weights.
_HARMLESS = (argparse.Namespace,)


def read(path: Path) -> Any:
    """Reads a file, with tensors as NumPy arrays; never executes anything in it.

    Args:
        path: a file written by `torch.save`, or a safetensors file, which becomes a dict with
            'state_dict' and the metadata of the file. The contents decide which, not the suffix.

    Returns:
        Usually a dict. Tensors that NumPy cannot hold are returned unchanged.

    Raises:
        UsageError: the file is missing, damaged, no checkpoint (the message says what it is) or
            would run code, or torch is not installed.
    """
    if not path.is_file():
        raise UsageError(f"There is no file {path}. Give a .pth, .pth.tar or .safetensors file.")
    kind, instead = kind_of(path)
    if instead:
        raise UsageError(f"{path} {instead}")
    if kind == SAFETENSORS:
        return _read_safetensors(path)
    torch = _import_torch()
    # PyTorch 2.5 and later
    allowed = getattr(torch.serialization, "safe_globals", lambda _: contextlib.nullcontext())
    try:
        # An open file, since PyTorch judges names by their suffix.
        with allowed(list(_HARMLESS)), path.open("rb") as file:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UsageError(f"{path} {_reason(path, error)}") from error
    return _map(content, torch.Tensor, _to_numpy)


def write_torch(path: Path, content: dict[str, Any]) -> None:
    """Writes a nested dict by `torch.save`, arrays as tensors; the file is never partial."""
    torch = _import_torch()
    # Copied in C order: tensors have no negative strides, and torch.save would keep odd ones.
    tensors = _map(content, np.ndarray, lambda array: torch.from_numpy(np.array(array, order="C")))
    write_whole(path, lambda partial: torch.save(tensors, partial))


def _import_torch() -> ModuleType:
    otherwise = "PyTorch's CPU build is enough. Or use .safetensors files."
    with needed("torch", "A file of PyTorch", otherwise):
        import torch
    return torch


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            return metadata | {"state_dict": {key: file.get_tensor(key) for key in file.keys()}}  # noqa: SIM118
    except (SafetensorError, TypeError) as error:
        raise UsageError(
            f"{path} cannot be read as safetensors: {_first_line(error)}. It is incomplete, "
            "damaged, or of another kind: get the file again."
        ) from error


def _reason(path: Path, error: Exception) -> str:
    """Returns why `torch.load` refused a file, to follow the file's name in a message."""
    text = str(error)
    # weights_only names the import that the pickle asks for.
    asked = re.search(r"(?:GLOBAL|Trying to load unsupported GLOBAL)\s+([\w.]+)", text)
    if isinstance(error, pickle.UnpicklingError) and asked:
        return (
            f"asks for {asked[1]}, which is no plain data and could run code, so it was not "
            "loaded and nothing of it ran. If you trust its source, save only its state_dict to a "
            "new file with PyTorch and convert that."
        )
    with path.open("rb") as file:
        archive = file.read(4) == _ZIP
    if archive or isinstance(error, EOFError) or "EOF" in text or "truncated" in text:
        return f"is incomplete or damaged{_said(error)}. Get the file again."
    return f"is no PyTorch checkpoint{_said(error)}. Give a file written by torch.save."


def _said(error: Exception) -> str:
    """Returns what a library says, unless it is PyTorch's advice to load without `weights_only`."""
    line = _first_line(error)
    return "" if "weights" in line.lower() else f": {line}"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _map(tree: Any, kind: type, convert: Callable) -> Any:
    if isinstance(tree, kind):
        return convert(tree)
    if isinstance(tree, dict):
        return {key: _map(value, kind, convert) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_map(value, kind, convert) for value in tree]
    return tree


def _to_numpy(tensor: Any) -> Any:
    import torch

    try:
        if tensor.dtype == torch.bfloat16:
            return tensor.detach().view(torch.int16).numpy().view(jnp.bfloat16)
        return tensor.detach().numpy()
    except (TypeError, RuntimeError):  # sparse, quantised and the like
        return tensor
