"""Data sets of tensorflow_datasets, read without TensorFlow.

They have to be prepared as array_record files, which can be read at random. Names are
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
from nsneg_jax.files import expand, user_cache, write_npz
from nsneg_jax.input.decode import decode_image, unreadable
from nsneg_jax.input.sources.classes import Choice

_SPEC = re.compile(r"(?P<name>\w+)(?:/(?P<config>[^:/\s]+))?(?::(?P<version>\d+\.\d+\.\d+))?")
_FILE_FEATURES = ("file_name", "filename")
_SCAN_THREADS, _SCAN_RECORDS = 8, 64


class NotPrepared(UsageError):
    """A data set that is not there in a form that can be read; says how to prepare it."""


class Tfds:
    """One split of a prepared data set as a `Source`.

    Of each example the features 'image' and 'label' are used, and 'file_name' if there is one.
    Classes are the names of the labels, sorted, and images are ordered by class and file name: the
    labels and the order of a folder with the same files, whatever TFDS numbers and shuffles.

    For that all labels have to be known beforehand, and TFDS keeps a label in the record of its
    image: all records are read once, undecoded. What was found is kept in the user's cache folder
    ($XDG_CACHE_HOME/nsneg_jax, by default ~/.cache/nsneg_jax), because the data set's own may be
    shared or not be written to; where the cache cannot be written, it is done at each start.

    Args:
        spec: the data set.
        split: one of its splits, or a part such as 'train[:10%]'; 'val' is 'validation' where
            there is no 'val', and '.' the only split, or else 'validation'.
        classes, partial: as of `Folder`, by the names of the labels. Without `classes` all names
            are classes, those without an image too.
        data_dir: where data sets are; '' takes TFDS's own choice, $TFDS_DATA_DIR or
            ~/tensorflow_datasets.

    Attributes:
        present: as of `Folder`.

    Raises:
        NotPrepared: it is not there, or not as array_record files.
        UsageError: a name, split or class that is not there, or no labelled images.
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
        self._data = _open(builder, spec, split, decoded=True)
        labels, files = _labels_and_files(builder, self.name, spec, split)
        paths = [
            f"{names[label].replace('/', '_')}/{os.path.basename(file) or f'{number:08}'}"
            for number, (label, file) in enumerate(zip(labels.tolist(), files, strict=True))
        ]
        choice = Choice(self.name, names, labels, paths, classes, partial)
        self.classes, self.labels, self.present = choice.classes, choice.labels, choice.present
        self._records = choice.records
        self._paths = [paths[record] for record in choice.records.tolist()]

    def __len__(self) -> int:
        """Number of images."""
        return len(self._records)

    def path(self, index: int) -> str:
        """'CLASS/NAME' of image `index`; its number as NAME where file names are not known."""
        return self._paths[index]

    def encoded(self, index: int) -> bytes:
        """The image file `index`.

        Raises:
            UnreadableImage: its record is damaged.
        """
        record = self._records[index]
        try:
            return self._data[record]["image"]
        # besides damage of the file (RuntimeError), whatever parsing it meets
        except Exception as error:
            raise unreadable(f"{self.path(index)} of {self.name}", str(error)) from error

    def image(self, index: int) -> np.ndarray:
        """Image `index` as uint8 [H, W, 3], see `decode_image`.

        Raises:
            UnreadableImage: its record is damaged, or holds no image.
        """
        return decode_image(self.encoded(index), f"{self.path(index)} of {self.name}")


def preparation(spec: str, data_dir: str = "") -> str:
    """The command that prepares a data set for this program."""
    return f"tfds build {spec} --file_format=array_record --data_dir={data_dir}"


def not_prepared(spec: str, data_dir: str) -> NotPrepared:
    """The error for a data set that is not there, with the command that prepares it."""
    where = _data_dir(data_dir)
    return NotPrepared(
        f"tfds:{spec} is not prepared in {where}. Prepare it with `{preparation(spec, where)}` "
        f"{_NEEDS_TENSORFLOW}, or say where it is with --config.data.tfds_dir=DIR or "
        "$TFDS_DATA_DIR."
    )


_NEEDS_TENSORFLOW = (
    "(this, unlike reading, needs TensorFlow: best in an environment of its own with `pip install "
    "tensorflow tensorflow-datasets`)"
)


def _data_dir(given: str) -> str:
    from tensorflow_datasets.core import constants

    return expand(given or os.environ.get("TFDS_DATA_DIR", "") or constants.DATA_DIR)


def _find(spec: str, data_dir: str) -> Any:
    """The read-only builder of a prepared data set."""
    parts = _SPEC.fullmatch(spec)
    if not parts:
        raise UsageError(
            f"The data set 'tfds:{spec}' must be 'tfds:NAME[/CONFIG][:VERSION]', such as "
            "'tfds:imagenet2012' or 'tfds:imagenet_v2/matched-frequency:3.0.0'."
        )
    try:
        from tensorflow_datasets.core import read_only_builder, registered
    except ImportError as error:
        raise UsageError(
            f"tfds:{spec} needs the package tensorflow-datasets: {error}. Install it with `pip "
            "install tensorflow-datasets`; TensorFlow itself is not needed."
        ) from error
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
            f"tfds:{spec} has no split {wanted!r}, only {', '.join(there)}. Set the split to one "
            "of them."
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
    """Random access to the examples: dicts with images left encoded, or serialised ones."""
    from tensorflow_datasets.core import decode

    try:
        if decoded:
            return builder.as_data_source(split, decoders={"image": decode.SkipDecoding()})
        raw = decode.DeserializeMethod.RAW_BYTES
        return builder.as_data_source(split, deserialize_method=raw)
    except NotImplementedError as error:
        raise NotPrepared(
            f"tfds:{spec} is prepared in {builder.data_path} as {builder.info.file_format.value} "
            f"files, which cannot be read at random. Prepare it with "
            f"`{preparation(spec, 'ANOTHER_FOLDER')}` {_NEEDS_TENSORFLOW} and set "
            "--config.data.tfds_dir=ANOTHER_FOLDER."
        ) from error
    except (ValueError, AssertionError) as error:
        raise UsageError(f"tfds:{spec} has no split {split!r}: {error}.") from error


def _labels_and_files(
    builder: Any, name: str, spec: str, split: str
) -> tuple[np.ndarray, list[str]]:
    """Label and file name ('' if not known) of each example in the order of the records."""
    from etils import epath

    info = epath.Path(builder.data_path) / "dataset_info.json"
    examples = builder.info.splits[split].num_examples
    key = [str(builder.data_path), split, examples, info.stat().mtime]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]
    cache = user_cache() / f"labels-{builder.name}-{digest}.npz"
    try:
        with np.load(cache) as kept:
            labels, files = kept["labels"], bytes(kept["files"]).decode().split("\n")
        if len(labels) != examples or len(files) != examples:
            raise ValueError(f"it has {len(labels)} labels of {examples}")
        return labels, files
    except FileNotFoundError:
        pass
    except Exception as error:  # of a damaged file there are many
        print(f"{cache} cannot be read ({error}) and is made anew", file=sys.stderr)
    records = _open(builder, spec, split, decoded=False)
    print(f"reading the labels of {name}, once: {len(records):,} records", file=sys.stderr)
    labels, files = _scan(records, name)
    arrays = {"labels": labels, "files": np.frombuffer("\n".join(files).encode(), np.uint8)}
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
                text = file.bytes_list.value[0].decode() if file else ""
                found.append((fields["label"].int64_list.value[0], text))
            except Exception as error:
                raise UsageError(
                    f"Record {number} of {name} cannot be read: {error}. Prepare the data set anew."
                ) from error
        return found

    starts = range(0, len(records), _SCAN_RECORDS)
    with ThreadPoolExecutor(_SCAN_THREADS) as pool:
        # shown only if it takes long
        groups = tqdm(pool.map(read, starts), total=len(starts), unit="group", delay=5)
        found = [each for group in groups for each in group]
    return np.array([label for label, _ in found], np.int64), [file for _, file in found]
