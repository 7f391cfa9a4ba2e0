"""Features that say what they are: a row per image with its name, split and label, as one file."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nsneg_jax.errors import UsageError
from nsneg_jax.extras import needed
from nsneg_jax.files import write_npz, write_safetensors, write_whole
from nsneg_jax.input.sources.classes import UNLABELLED

FORMATS = ("npz", "safetensors", "parquet")
_ABOUT = "about"
_ROWS_AT_ONCE = 8192  # of a Parquet file
# safetensors reads no header of more than 100 MB, and texts are in the header.
_MOST_TEXT = 90_000_000


@dataclass(frozen=True, eq=False, kw_only=True)
class Table:
    """Features of n images.

    Attributes:
        features: float32 [n, F].
        labels: int32 [n], indices into `classes`; 0 if the classes are unknown.
        indices: int32 [n], places of the images in their split.
        names: n names: the path of an image below the folder of its split, or as its data set names
            it.
        splits: n names of splits; '' of images without one.
        classes: names of the classes; `UNLABELLED` if they are unknown.
        about: what the features are of, plain values: 'encoder', 'source', 'folders' (by split, if
            the images are files in folders), 'image_size', 'resize', 'dtype' and 'precision'.
    """

    features: np.ndarray
    labels: np.ndarray
    indices: np.ndarray
    names: Sequence[str]
    splits: Sequence[str]
    classes: tuple[str, ...] = UNLABELLED
    about: Mapping[str, Any] = field(default_factory=dict)


def check_format(form: str, names: Iterable[str] = ()) -> None:
    """Checks before any work that a table can be written.

    Args:
        form: one of `FORMATS`.
        names: names of its images.

    Raises:
        UsageError: pyarrow is not installed, or the names are too many for safetensors.
    """
    if form == "parquet":
        with needed("parquet", "A Parquet file"):
            import pyarrow.parquet  # noqa: F401
    if form == "safetensors":
        size = sum(len(_plain(name)) for name in names)
        if size > _MOST_TEXT:
            raise UsageError(
                f"The names of the images have {size:,} bytes, but a safetensors file holds at "
                f"most {_MOST_TEXT:,} bytes of text. Write npz or parquet."
            )


def write_table(path: Path, table: Table, form: str) -> None:
    """Writes a table, completely or not at all.

    npz has arrays of the names of `Table`, and 'about' as JSON. safetensors has the numbers as
    tensors and the texts as metadata, one per line. Parquet has the columns name, split, label,
    class, index and features, a list of F floats; label and class are null where unknown.

    Args:
        path: file to write.
        table: the features.
        form: one of `FORMATS`.
    """
    _WRITERS[form](path, table)


def read_table(path: Path) -> Table:
    """Reads a file of `write_table`, also of earlier versions, which had no names.

    Args:
        path: the file; its suffix is one of `FORMATS`.

    Raises:
        UsageError: it is missing or damaged, or pyarrow is not installed.
    """
    form = path.suffix.removeprefix(".")
    if form not in FORMATS or not path.is_file():
        raise UsageError(f"There is no file {path} that ends in .{', .'.join(FORMATS)}.")
    check_format(form)
    try:
        return _READERS[form](path)
    except Exception as error:  # NumPy, safetensors and Arrow have errors of their own
        raise UsageError(
            f"The features in {path} cannot be read: {error}. Write them again."
        ) from error


def _write_npz(path: Path, table: Table) -> None:
    arrays = {
        "features": table.features,
        "labels": table.labels,
        "indices": table.indices,
        "classes": np.array(table.classes, str),
        "names": np.array(table.names, str),
        "splits": np.array(table.splits, str),
        _ABOUT: np.array(json.dumps(table.about)),
    }
    write_npz(path, arrays, compressed=False)  # features hardly compress


def _read_npz(path: Path) -> Table:
    with np.load(path) as file:
        found = dict(file)
    return _table(
        found,
        classes=found["classes"].tolist(),
        names=found["names"].tolist() if "names" in found else None,
        splits=found["splits"].tolist() if "splits" in found else None,
        about=str(found[_ABOUT]) if _ABOUT in found else "{}",
    )


def _write_safetensors(path: Path, table: Table) -> None:
    texts = {"classes": table.classes, "names": table.names, "splits": table.splits}
    metadata = {name: "\n".join(map(_plain, lines)) for name, lines in texts.items()}
    arrays = {name: getattr(table, name) for name in ("features", "labels", "indices")}
    write_safetensors(path, arrays, metadata | {_ABOUT: json.dumps(table.about)})


def _read_safetensors(path: Path) -> Table:
    from safetensors import safe_open

    with safe_open(str(path), framework="numpy") as file:
        texts = file.metadata() or {}
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return _table(
        found,
        classes=texts.get("classes", "").split("\n"),
        names=texts["names"].split("\n") if "names" in texts else None,
        splits=texts["splits"].split("\n") if "splits" in texts else None,
        about=texts.get(_ABOUT, "{}"),
    )


def _write_parquet(path: Path, table: Table) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    labels = pa.array(table.labels, pa.int32())
    if table.classes == UNLABELLED:
        labels = pa.nulls(len(table.labels), pa.int32())
    width = table.features.shape[1]
    schema = pa.schema(
        [
            pa.field("name", pa.string()),
            pa.field("split", pa.string()),
            pa.field("label", pa.int32()),
            pa.field("class", pa.string()),
            pa.field("index", pa.int32()),
            pa.field("features", pa.list_(pa.float32(), width)),
        ],
        metadata={
            _ABOUT: json.dumps(table.about),
            "classes": json.dumps([_escaped(name) for name in table.classes]),
        },
    )

    def rows(start: int) -> Any:
        part = slice(start, start + _ROWS_AT_ONCE)
        flat = pa.array(np.ascontiguousarray(table.features[part]).reshape(-1))
        found = labels[part]
        columns = [
            pa.array([_escaped(name) for name in table.names[part]], pa.string()),
            pa.array([name or None for name in map(_escaped, table.splits[part])], pa.string()),
            found,
            pa.array(
                [None if i is None else _escaped(table.classes[i]) for i in found.to_pylist()],
                pa.string(),
            ),
            pa.array(table.indices[part], pa.int32()),
            pa.FixedSizeListArray.from_arrays(flat, width),
        ]
        return pa.Table.from_arrays(columns, schema=schema)

    def write(partial: Path) -> None:
        texts = ["name", "split", "class"]
        with parquet.ParquetWriter(
            partial,
            schema,
            use_dictionary=texts,
            # numbers of features hardly compress
            compression=dict.fromkeys(texts, "zstd"),
        ) as writer:
            for start in range(0, len(table.labels), _ROWS_AT_ONCE):
                writer.write_table(rows(start))

    write_whole(path, write)


def _read_parquet(path: Path) -> Table:
    from pyarrow import parquet

    table = parquet.read_table(path)
    metadata = table.schema.metadata
    column = table["features"].combine_chunks()
    width = column.type.list_size
    flat = column.flatten().to_numpy(zero_copy_only=False)
    labels = table["label"].fill_null(0).to_numpy()
    return _table(
        {
            "features": flat.reshape(-1, width),
            "labels": labels.astype(np.int32),
            "indices": table["index"].to_numpy().astype(np.int32),
        },
        classes=json.loads(metadata[b"classes"]),
        names=table["name"].to_pylist(),
        splits=[name or "" for name in table["split"].to_pylist()],
        about=metadata[_ABOUT.encode()].decode(),
    )


def _table(
    arrays: Mapping[str, np.ndarray],
    *,
    classes: Iterable[str],
    names: Sequence[str] | None,
    splits: Sequence[str] | None,
    about: str,
) -> Table:
    indices = arrays["indices"]
    return Table(
        features=arrays["features"],
        labels=arrays["labels"],
        indices=indices,
        names=[str(index) for index in indices.tolist()] if names is None else names,
        splits=[""] * len(indices) if splits is None else splits,
        classes=tuple(classes),
        about=json.loads(about),
    )


def _escaped(name: str) -> str:
    """Escapes the bytes of file names that are no UTF-8, which Parquet and JSON do not hold."""
    return name.encode("utf-8", "backslashreplace").decode()


def _plain(name: str) -> str:
    """Escapes, besides, what would end a line."""
    return _escaped(name).replace("\n", "\\n")


_WRITERS: dict[str, Callable[[Path, Table], None]] = {
    "npz": _write_npz,
    "safetensors": _write_safetensors,
    "parquet": _write_parquet,
}
_READERS: dict[str, Callable[[Path], Table]] = {
    "npz": _read_npz,
    "safetensors": _read_safetensors,
    "parquet": _read_parquet,
}
