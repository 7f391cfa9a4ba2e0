"""Data sets of tensorflow_datasets, read without TensorFlow.

They must be prepared as array_record files, which allow random access. Names are
'NAME[/CONFIG][:VERSION]', such as 'imagenet2012' or 'imagenet_v2/matched-frequency:3.0.0'.
"""

import hashlib
import json
import os
import re
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from tqdm import tqdm

from nsneg_jax.errors import UsageError
from nsneg_jax.extras import needed
from nsneg_jax.files import expand, user_cache, write_npz
from nsneg_jax.input.decode import UnreadableImage
from nsneg_jax.input.sources import storage
from nsneg_jax.input.sources.classes import Choice
from nsneg_jax.input.sources.folders.names import Names
from nsneg_jax.input.sources.records import RecordSource

_SPEC = re.compile(r"(?P<name>\w+)(?:/(?P<config>[^:/\s]+))?(?::(?P<version>\d+\.\d+\.\d+))?")
_FILE_FEATURES = ("file_name", "filename")
_NAMES = ("utf-8", "surrogateescape")  # encoding of file names, which may be no UTF-8
_SCAN_THREADS, _SCAN_RECORDS = 8, 64


class NotPrepared(UsageError):
    """A data set is missing or in an unreadable format; the message says how to prepare it."""


class Tfds(RecordSource):
    """One split of a prepared data set as a `Source`.

    It uses the features 'image', 'label' and, if there is one, 'file_name'. Classes are the sorted
    names of the labels, and images are ordered by class and file name. So labels and order are
    those of a folder with the same files, however TFDS numbers and shuffles them.

    This needs all labels beforehand, and TFDS stores each label in the record of its image, so all
    records are read once, undecoded. The labels are kept in the user's cache folder
    ($XDG_CACHE_HOME/nsneg_jax, by default ~/.cache/nsneg_jax), because the data set's folder may be
    shared or read-only. If the cache cannot be written, every start reads the records again.

    Args:
        spec: the data set.
        split: one of its splits, or a part such as 'train[:10%]'; 'val' means 'validation' if there
            is no 'val', and '.' means the only split, or else 'validation'.
        classes, partial: see `Folder`, with label names for folders. Without `classes` all names
            are classes, even those without an image.
        data_dir: folder of the data sets; '' leaves the choice to TFDS, $TFDS_DATA_DIR or
            ~/tensorflow_datasets.

    Attributes:
        present: see `Folder`.

    Raises:
        NotPrepared: the data set is missing, or not in array_record files.
        UsageError: the name, split or a class is unknown, or there are no labelled images.
    """

    def __init__(
        self,
        spec: str,
        split: str,
        classes: Sequence[str] | None = None,
        partial: bool = False,
        data_dir: str = "",
    ) -> None:
        builder = _find(spec, data_dir)
        split = _split(builder, spec, split)
        self.name = f"tfds:{spec} [{split}]"
        names = _label_names(builder, self.name)
        self._folder = str(builder.data_path)
        self._data = _open(builder, spec, split, decoded=True)
        labels, files = _labels_and_files(builder, self.name, spec, split)
        paths = [
            f"{names[label].replace('/', '_')}/{os.path.basename(file) or f'{number:08}'}"
            for number, (label, file) in enumerate(zip(labels.tolist(), files, strict=True))
        ]
        choice = Choice(self.name, names, labels, paths, classes, partial)
        self.classes, self.labels, self.present = choice.classes, choice.labels, choice.present
        self._records = choice.records
        self.paths = Names.of(paths[record] for record in choice.records.tolist())

    def location(self, index: int) -> str:
        """Returns where image `index` is, for messages."""
        return f"{self.path(index)} of {self.name}"

    def files(self) -> Sequence[str]:
        """Returns the paths of the prepared files of all splits."""
        if storage.is_remote(self._folder):
            return [self._folder]
        return [os.path.join(self._folder, name) for name in sorted(os.listdir(self._folder))]

    def encoded(self, index: int) -> bytes:
        """Returns the bytes of image file `index`.

        Raises:
            UnreadableImage: its record is damaged.
        """
        record = self._records[index]
        try:
            return self._data[record]["image"]
        # A damaged file raises RuntimeError; parsing it may raise anything.
        except Exception as error:
            raise UnreadableImage(self.location(index), str(error)) from error


def preparation(spec: str, data_dir: str = "") -> str:
    """Returns the command that prepares a data set for this program."""
    return f"tfds build {spec} --file_format=array_record --data_dir={data_dir}"


def not_prepared(spec: str, data_dir: str) -> NotPrepared:
    """Makes the error for a missing data set, with the command that prepares it."""
    where = _data_dir(data_dir)
    return NotPrepared(
        f"tfds:{spec} is not prepared in {where}. Prepare it with `{preparation(spec, where)}` "
        f"{_NEEDS_TENSORFLOW}, or say where it is with --config.data.tfds_dir=DIR or "
        "$TFDS_DATA_DIR."
    )


_NEEDS_TENSORFLOW = (
    "(this, unlike reading, needs TensorFlow: best in a separate environment with `pip install "
    "tensorflow tensorflow-datasets`)"
)


def _data_dir(given: str) -> str:
    from tensorflow_datasets.core import constants

    return expand(given or os.environ.get("TFDS_DATA_DIR", "") or constants.DATA_DIR)


def _find(spec: str, data_dir: str) -> Any:
    """Returns the read-only builder of a prepared data set."""
    parts = _SPEC.fullmatch(spec)
    if not parts:
        raise UsageError(
            f"The data set 'tfds:{spec}' must be 'tfds:NAME[/CONFIG][:VERSION]', such as "
            "'tfds:imagenet2012' or 'tfds:imagenet_v2/matched-frequency:3.0.0'."
        )
    with needed("tfds", f"tfds:{spec}", "TensorFlow itself is not needed."):
        from tensorflow_datasets.core import read_only_builder, registered
    given = {key: value for key, value in parts.groupdict().items() if value}
    try:
        return read_only_builder.builder_from_files(**given, data_dir=_data_dir(data_dir))
    except registered.DatasetNotFoundError as error:
        raise not_prepared(spec, data_dir) from error


def _split(builder: Any, spec: str, wanted: str) -> str:
    there = list(builder.info.splits)
    name, bracket, part = wanted.partition("[")
    if name in (".", "") and not bracket:
        if len(there) == 1:
            return there[0]
        name = "validation"
    if name == "val" and name not in there:
        name = "validation"
    if name not in there:
        raise UsageError(
            f"tfds:{spec} has no split {wanted!r}. Set the split to one of {', '.join(there)}."
        )
    return name + bracket + part


def _label_names(builder: Any, name: str) -> list[str]:
    from tensorflow_datasets.core import features

    found = builder.info.features
    image, label = (
        found[key] if isinstance(found, features.FeaturesDict) and key in found else None
        for key in ("image", "label")
    )
    if not isinstance(image, features.Image) or not isinstance(label, features.ClassLabel):
        raise UsageError(
            f"{name} must have the features 'image' (Image) and 'label' (ClassLabel), but has "
            f"{', '.join(sorted(found)) if isinstance(found, features.FeaturesDict) else found}. "
            "Choose a data set for image classification."
        )
    return label.names


def _open(builder: Any, spec: str, split: str, decoded: bool) -> Any:
    """Opens the examples for random access: dicts with encoded images, or serialised examples."""
    from tensorflow_datasets.core import decode

    try:
        if decoded:
            return builder.as_data_source(split, decoders={"image": decode.SkipDecoding()})
        raw = decode.DeserializeMethod.RAW_BYTES
        return builder.as_data_source(split, deserialize_method=raw)
    except NotImplementedError as error:
        raise NotPrepared(
            f"tfds:{spec} is prepared in {builder.data_path} as {builder.info.file_format.value} "
            f"files, which do not allow random access. Prepare it with "
            f"`{preparation(spec, 'ANOTHER_FOLDER')}` {_NEEDS_TENSORFLOW} and set "
            "--config.data.tfds_dir=ANOTHER_FOLDER."
        ) from error
    except (ValueError, AssertionError) as error:
        raise UsageError(f"tfds:{spec} has no split {split!r}: {error}.") from error


def _labels_and_files(
    builder: Any, name: str, spec: str, split: str
) -> tuple[np.ndarray, list[str]]:
    """Returns label and file name ('' if unknown) per example, in the order of the records."""
    from etils import epath

    info = epath.Path(builder.data_path) / "dataset_info.json"
    examples = builder.info.splits[split].num_examples
    key = [str(builder.data_path), split, examples, info.stat().mtime]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]
    cache = user_cache() / f"labels-{builder.name}-{digest}.npz"
    try:
        with np.load(cache) as kept:
            labels, files = kept["labels"], bytes(kept["files"]).decode(*_NAMES).split("\n")
        if len(labels) != examples or len(files) != examples:
            raise ValueError(f"it has {len(labels)} labels of {examples}")
        return labels, files
    except FileNotFoundError:
        pass
    except Exception as error:  # a damaged file may raise anything
        print(f"{cache} cannot be read ({error}) and is made again", file=sys.stderr)
    records = _open(builder, spec, split, decoded=False)
    print(f"reading the labels of {name}, once: {len(records):,} records", file=sys.stderr)
    labels, files = _scan(records, name)
    arrays = {"labels": labels, "files": np.frombuffer("\n".join(files).encode(*_NAMES), np.uint8)}
    try:
        write_npz(cache, arrays, mark=f".{os.getpid()}")  # every process may do so
    except OSError as error:
        print(f"the labels are not kept: {error}", file=sys.stderr)
    return labels, files


def _scan(records: Any, name: str) -> tuple[np.ndarray, list[str]]:
    from tensorflow_datasets.proto import tf_example_pb2

    def read(start: int) -> list[tuple[int, str]]:
        found = []
        for number in range(start, min(start + _SCAN_RECORDS, len(records))):
            try:
                fields = tf_example_pb2.Example.FromString(records[number]).features.feature
                file = next((fields[key] for key in _FILE_FEATURES if key in fields), None)
                text = file.bytes_list.value[0].decode(*_NAMES) if file else ""
                found.append((fields["label"].int64_list.value[0], text))
            except Exception as error:
                raise UsageError(
                    f"Record {number} of {name} cannot be read: {error}. Prepare the set again."
                ) from error
        return found

    starts = range(0, len(records), _SCAN_RECORDS)
    with ThreadPoolExecutor(_SCAN_THREADS) as pool:
        # shown only if it takes long
        groups = tqdm(pool.map(read, starts), total=len(starts), unit="group", delay=5)
        found = [each for group in groups for each in group]
    return np.array([label for label, _ in found], np.int64), [file for _, file in found]
