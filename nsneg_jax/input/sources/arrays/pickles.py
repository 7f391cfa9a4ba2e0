"""Reads pickles of plain values and NumPy arrays, such as CIFAR's, without running code in them.

A pickle names the functions that rebuild its values, and the ordinary reader calls whatever it
names. This one knows the names that a NumPy array needs and no other, and calls stand-ins of its
own for these, so that a pickle gives values or is refused. (PyTorch's files have a reader of
PyTorch's; see `nsneg_jax.pytorch.files`.)
"""

import codecs
import io
import pickle
from typing import Any

import numpy as np

_BYTES = ("u1", "|u1", "B", "uint8")  # names of the type of a byte


class Refused(ValueError):
    """A pickle is damaged, or asks for more than plain values; the text is a clause."""


def read_pickle(data: bytes) -> Any:
    """Returns the values of a pickle of Python 2 or 3.

    Args:
        data: the bytes of the file.

    Returns:
        The value. Arrays of bytes are uint8 arrays; strings of Python 2 are bytes.

    Raises:
        Refused: it is damaged, or asks for anything but plain values and arrays of bytes.
    """
    try:
        return _arrays(_Reader(io.BytesIO(data), encoding="bytes").load())
    except Refused:
        raise
    # Damage raises nearly anything: UnpicklingError, EOFError, KeyError, MemoryError ...
    except Exception as error:
        raise Refused(f"it is damaged ({str(error) or type(error).__name__})") from error


class _Type:
    """Stands for the type of an array's elements."""

    def __init__(self, name: Any = "", *_: Any) -> None:
        self.name = name.decode("latin-1") if isinstance(name, bytes) else str(name)

    def __setstate__(self, state: Any) -> None:
        """Ignores byte order and fields, which bytes have not."""


class _Array:
    """Stands for an array."""

    def __init__(self) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def array(self) -> np.ndarray:
        _, shape, kind, by_columns, content = self.state
        if not isinstance(kind, _Type) or kind.name not in _BYTES or not isinstance(content, bytes):
            raise Refused("it has an array of something else than bytes")
        flat = np.frombuffer(content, np.uint8)
        return flat.reshape(shape, order="F" if by_columns else "C")


class _Rebuild:
    """Stands for NumPy's function that makes an array to be filled."""

    __slots__ = ()

    def __call__(self, *_: Any) -> _Array:
        return _Array()


class _Encode:
    """Stands for `codecs.encode`, by which Python 3 writes bytes for Python 2."""

    __slots__ = ()

    def __call__(self, text: Any, encoding: Any) -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
            raise Refused("it has bytes in an unusual form")
        return codecs.encode(text, "latin-1")


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        stand_ins: dict[tuple[str, str], Any] = {
            ("numpy.core.multiarray", "_reconstruct"): _Rebuild(),
            ("numpy._core.multiarray", "_reconstruct"): _Rebuild(),
            ("numpy", "ndarray"): None,  # an argument of the function that is ignored
            ("numpy", "dtype"): _Type,
            ("_codecs", "encode"): _Encode(),
        }
        if (module, name) not in stand_ins:
            raise Refused(
                f"it asks for {module}.{name}, which is no plain data and could run code, so it "
                "was not read and nothing of it ran"
            )
        return stand_ins[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise Refused("it refers to other files")


def _arrays(value: Any) -> Any:
    """Replaces the stand-ins of arrays in a value and in its dicts."""
    if isinstance(value, _Array):
        return value.array()
    if isinstance(value, dict):
        return {key: _arrays(each) for key, each in value.items()}
    return value
