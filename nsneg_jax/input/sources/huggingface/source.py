"""A local data set of Hugging Face as a source of images."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nsneg_jax.errors import UsageError
from nsneg_jax.extras import needed
from nsneg_jax.input.decode import UnreadableImage
from nsneg_jax.input.sources import storage
from nsneg_jax.input.sources.classes import UNLABELLED, Choice
from nsneg_jax.input.sources.folders.names import Names
from nsneg_jax.input.sources.huggingface.records import ArrowRecords, ParquetRecords
from nsneg_jax.input.sources.huggingface.splits import find_files
from nsneg_jax.input.sources.records import RecordSource

_LABELS = ("label", "labels")
_IMAGES = ("image", "img")


class HuggingFace(RecordSource):
    """One split of a data set of Hugging Face on a local disk, as a `Source`.

    It has an image column and, for labels, a column of class names or numbers. As in a folder,
    classes are sorted by name, and images by class and file name; an image without a file name has
    the number of its row.

    Args:
        where: PATH or PATH/CONFIG of a folder that `save_to_disk` made, or of Parquet files in the
            hub's layout; '#COLUMN' at the end names the column of labels, by default 'label' or the
            only column of classes.
        split: one of its splits; '.' means the only one, or else 'validation', and so does 'val'.
        classes, partial: see `Folder`, with names of labels for folders.

    Attributes:
        present: see `FileSource`.
        stored: int64 [len], rows of the images. Reading in their order is quicker.

    Raises:
        UsageError: there is no such data set, split, column or class, or pyarrow is missing.
    """

    def __init__(
        self, where: str, split: str, classes: Sequence[str] | None = None, partial: bool = False
    ) -> None:
        self.name = f"hf:{where} [{split}]"
        if storage.is_remote(where):
            raise UsageError(f"hf:{where} is in a store. Copy the data set to a local folder.")
        with needed("hf", f"hf:{where}"):
            import pyarrow
            import yaml  # noqa: F401
        path, _, column = where.partition("#")
        files = find_files(path.rstrip("/"), split)
        self._files = files.paths
        self._folder = os.path.dirname(files.paths[0])
        try:
            # The name of the column of images is not needed to read the schema.
            schema = _records(files.paths, files.is_parquet, "").schema()
            features = {**files.features, **_features_of(schema)}
            image = _image_column(self.name, schema, features)
            self._records = _records(files.paths, files.is_parquet, image)
            label = column or _label_column(self.name, schema, features)
            if label and label not in schema.names:
                raise UsageError(
                    f"{self.name} has no column {label!r}. Its columns are "
                    f"{', '.join(schema.names)}."
                )
            stems = _file_names(self._records.paths())
            names, labels = _labels(self._records, label, features.get(label))
        except (OSError, pyarrow.ArrowException) as error:
            raise UsageError(
                f"{self.name} cannot be read: {error}. Copy the data set again."
            ) from error
        if (labels < 0).all():
            self._take_unlabelled(stems, classes)
        else:
            paths = [
                f"{names[number].replace('/', '_') if number >= 0 else ''}/{stem}"
                for number, stem in zip(labels.tolist(), stems, strict=True)
            ]
            choice = Choice(self.name, names, labels, paths, classes, partial)
            self.classes, self.labels, self.present = choice.classes, choice.labels, choice.present
            self.stored = choice.records
            self.paths = Names.of(paths[row] for row in choice.records.tolist())
        _note_compression(self.name, self._records)

    def _take_unlabelled(self, stems: Sequence[str], classes: Sequence[str] | None) -> None:
        if classes is not None and tuple(classes) != UNLABELLED:
            raise UsageError(
                f"{self.name} has no classes: it has no column of labels, or no image has a "
                "label. Name the column as hf:PATH#COLUMN, or leave data.classes empty."
            )
        self.classes = UNLABELLED
        self.stored = np.array(sorted(range(len(stems)), key=lambda row: stems[row]), np.int64)
        self.labels, self.present = np.zeros(len(stems), np.int32), np.zeros(1, np.int32)
        self.paths = Names.of(stems[row] for row in self.stored.tolist())

    def location(self, index: int) -> str:
        """Returns where image `index` is, for messages."""
        return f"{self.path(index)} of {self.name}"

    def files(self) -> Sequence[str]:
        """Returns the paths of the Arrow or Parquet files, without images that they only name."""
        return self._files

    def encoded(self, index: int) -> bytes:
        """Returns the bytes of the file of image `index`.

        Raises:
            UnreadableImage: its record is empty, or cannot be read.
        """
        name = self.location(index)
        try:
            data, path = self._records[int(self.stored[index])]
            if data is None and path:
                return storage.read_bytes(os.path.join(self._folder, path))
        except Exception as error:  # pyarrow has errors of many types
            if isinstance(error, IndexError):
                raise
            raise UnreadableImage(name, str(error)) from error
        if data is None:
            raise UnreadableImage(name, "the record is empty")
        return data


def _records(files: Sequence[str], is_parquet: bool, image: str) -> ArrowRecords | ParquetRecords:
    return ParquetRecords(files, image) if is_parquet else ArrowRecords(files, image)


def _features_of(schema: Any) -> dict[str, Any]:
    """Returns the features that `datasets` has put into the metadata of a schema."""
    try:
        given = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return given if isinstance(given, dict) else {}


def _image_column(name: str, schema: Any, features: Mapping[str, Any]) -> str:
    import pyarrow as pa

    found = [each for each, kind in features.items() if _type(kind) == "Image"] or [
        field.name
        for field in schema
        if (pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0)
        or (pa.types.is_binary(field.type) and field.name in _IMAGES)
    ]
    best = next((each for each in _IMAGES if each in found), found[0] if len(found) == 1 else None)
    if best is None or best not in schema.names:
        raise UsageError(
            f"{name} must have one column of images, or one named 'image', but its columns are "
            f"{', '.join(schema.names)}. Choose a data set of images."
        )
    return best


def _label_column(name: str, schema: Any, features: Mapping[str, Any]) -> str:
    """Returns the column of labels; '' if there is none."""
    for each in _LABELS:
        if each in schema.names:
            return each
    found = [each for each in schema.names if _type(features.get(each)) == "ClassLabel"]
    if len(found) > 1:
        raise UsageError(
            f"{name} has several columns of classes: {', '.join(found)}. Name one at the end of "
            f"the source, such as hf:PATH#{found[0]}."
        )
    return found[0] if found else ""


def _type(feature: Any) -> str:
    return str(feature.get("_type", "")) if isinstance(feature, Mapping) else ""


def _labels(
    records: ArrowRecords | ParquetRecords, name: str, feature: Any
) -> tuple[list[str], np.ndarray]:
    """Returns the names of classes, and int64 labels of the rows, -1 for none."""
    if not name:
        return [], np.full(len(records), -1)
    import pyarrow as pa
    import pyarrow.compute as pc

    column = records.column(name)
    if pa.types.is_integer(column.type):
        labels = pc.fill_null(column, -1).to_numpy().astype(np.int64)
        names = list(feature.get("names") or ()) if isinstance(feature, Mapping) else []
        return names or [str(i) for i in range(int(labels.max(initial=-1)) + 1)], labels
    texts = column.cast(pa.string()).to_pylist()
    names = sorted({text for text in texts if text is not None})
    numbers = {text: number for number, text in enumerate(names)}
    return names, np.array([numbers.get(text, -1) for text in texts], np.int64)


def _file_names(paths: Sequence[str | None]) -> list[str]:
    """Returns the file name of each image, or the number of its row."""
    return [os.path.basename(path or "") or f"{row:08}" for row, path in enumerate(paths)]


def _note_compression(name: str, records: ArrowRecords | ParquetRecords) -> None:
    size = records.group_bytes() if isinstance(records, ParquetRecords) else 0
    if size > 2**20:
        print(
            f"note: the images of {name} are compressed in groups of {size / 1e6:.0f} MB, each of "
            "which is decoded to read one image. Pack the data set to train on it: `python -m "
            "data.arrayrecord --source hf:PATH` (docs/data.md).",
            file=sys.stderr,
        )
