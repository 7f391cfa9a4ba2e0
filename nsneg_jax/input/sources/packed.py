"""Image files packed into a few large files, which suit network file systems and object stores.

`nsneg prepare arrayrecord` makes them. ROOT/SPLIT holds

    00000-of-00016.array_record ...   one record per image: the bytes of the image file
    names.txt                         paths of the images in the order of the records, one per line,
                                      in the bytes of the file system
    index.json                        an `Index`

so that classes, labels and names are known without reading a record.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nsneg_jax.errors import UsageError, printable
from nsneg_jax.files import earlier_data, is_plain
from nsneg_jax.input.decode import UnreadableImage
from nsneg_jax.input.sources import storage
from nsneg_jax.input.sources.classes import UNLABELLED, Choice
from nsneg_jax.input.sources.names import Names
from nsneg_jax.input.sources.records import RecordSource

INDEX, NAMES = "index.json", "names.txt"
FORMAT = "nsneg_jax images, version 1"
# Lines that lead out of the folder: they begin with '/', or have a part '..' or '.'.
_OUTSIDE = re.compile(rb"^(?:/.*|(?:.*/)?\.\.?(?:/.*)?)$", re.MULTILINE)


@dataclass(frozen=True)
class Shard:
    """One file of records.

    Attributes:
        file: name of the file.
        images: number of records.
        bytes: size of the file.
        sha256: digest of the records in order, each after its length in 8 bytes (little-endian).
    """

    file: str
    images: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Index:
    """The description of a split.

    Attributes:
        source: name of the data set it was made from.
        resize_short: largest shorter side of an image in pixels; None keeps files unchanged.
        quality: quality of resized JPEGs; None without resizing.
        classes: names of the classes, sorted.
        images: number of images.
        names_sha256: digest of names.txt.
        shard_count: number of shards to make.
        shards: the shards in order; empty until all are made.
        format: name and version of the format.
    """

    source: str
    resize_short: int | None
    quality: int | None
    classes: tuple[str, ...]
    images: int
    names_sha256: str
    shard_count: int
    shards: tuple[Shard, ...] = ()
    format: str = FORMAT

    def to_json(self) -> bytes:
        """Returns the bytes of index.json, in UTF-8; names that have none are escaped."""
        text = json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"
        return text.encode("utf-8", "backslashreplace")


def read_index(folder: str) -> Index | None:
    """Reads the index in a folder; returns None if there is none.

    Raises:
        UsageError: the index is damaged, or has another version.
    """
    path = storage.join(folder, INDEX)
    if not storage.exists(path):
        return None
    try:
        fields: dict[str, Any] = json.loads(storage.read_bytes(path))
        if fields.get("format") != FORMAT:
            raise ValueError(f"its format is {fields.get('format')!r}, not {FORMAT!r}")
        fields["shards"] = tuple(Shard(**shard) for shard in fields["shards"])
        fields["classes"] = tuple(fields["classes"])
        outside = [shard.file for shard in fields["shards"] if not is_plain(shard.file)]
        if outside:
            raise ValueError(f"the shard {outside[0]!r} is not in its folder")
        return Index(**fields)
    except (ValueError, TypeError, KeyError, AttributeError, OSError, RecursionError) as error:
        raise UsageError(
            f"{path} is no index of packed images: {error}. Copy it again, or {_ANEW}."
        ) from error


class ArrayRecord(RecordSource):
    """One split of packed images as a `Source`, in the same order as the folder it was made from.

    Args:
        root: folder with the splits, local or as 'gs://BUCKET/FOLDER'.
        split: name of a split; '.' if index.json lies directly in `root`.
        classes, partial: see `Folder`.

    Attributes:
        present: see `Folder`.

    Raises:
        UsageError: there is no such split, it is unfinished or incomplete, or see `Folder`.
    """

    def __init__(
        self,
        root: str,
        split: str,
        classes: Sequence[str] | None = None,
        partial: bool = False,
    ) -> None:
        self.name = f"arrayrecord:{root} [{split}]"
        self._folder = root.rstrip("/") if split in (".", "") else storage.join(root, split)
        index = read_index(self._folder)
        if index is None:
            raise UsageError(_no_index(root, split))
        _check_whole(self._folder, index)
        paths = _read_names(self._folder, index)
        labels = _labels(self._folder, index.classes, paths)
        names = index.classes
        if names == UNLABELLED and classes is not None and tuple(classes) != UNLABELLED:
            raise UsageError(
                f"{self.name} has no classes: the images were packed without. Leave data.classes "
                "empty, or pack them again from folders with classes."
            )
        choice = Choice(self._folder, names, labels, paths, classes, partial)
        self.classes, self.labels, self.present = choice.classes, choice.labels, choice.present
        self._records = choice.records
        self.paths = paths.take(choice.records)
        self._data = open_shards(self._folder, index.shards)
        self._files = (INDEX, NAMES, *(shard.file for shard in index.shards))

    def location(self, index: int) -> str:
        """Returns where image `index` is, for messages."""
        return f"{self._folder}/{self.path(index)}"

    def files(self) -> Sequence[str]:
        """Returns the paths of index, names and shards."""
        return [storage.join(self._folder, file) for file in self._files]

    def encoded(self, index: int) -> bytes:
        """Returns the bytes of image file `index`.

        Raises:
            UnreadableImage: its record is damaged.
        """
        try:
            return self._data[self._records[index]]
        except RuntimeError as error:
            raise UnreadableImage(self.location(index), str(error)) from error


@dataclass(frozen=True)
class _Instruction:
    """Names all records of a shard, so that `ArrayRecordDataSource` need not open it to count."""

    filename: str
    skip: int
    take: int
    examples_in_shard: int


def open_shards(folder: str, shards: Sequence[Shard]) -> Any:
    """Opens the records of all shards for random access, as bytes. Thread-safe.

    Reading a damaged record raises RuntimeError.
    """
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    if storage.is_remote(folder) and not folder.startswith("gs://"):
        raise UsageError(
            f"Packed images can be in local folders or gs://, but {folder} is neither. Copy them "
            "to either, or mount the store."
        )
    return ArrayRecordDataSource(
        [
            _Instruction(storage.join(folder, shard.file), 0, shard.images, shard.images)
            for shard in shards
        ]
    )


def records_digest() -> Any:
    """Starts a digest of records, for `add_record`."""
    return hashlib.sha256()


def add_record(digest: Any, record: bytes) -> None:
    digest.update(len(record).to_bytes(8, "little"))
    digest.update(record)


def _no_index(root: str, split: str) -> str:
    make = f"Make it with `nsneg prepare arrayrecord --source FOLDER --out {root}`."
    if not storage.is_folder(root):
        return f"There are no packed images at {root}. {make}{earlier_data(root)}"
    there = [
        name
        for name in storage.folders(root)
        if storage.exists(storage.join(storage.join(root, name), INDEX))
    ]
    return (
        f"There is no {INDEX} in {storage.join(root, split)}. Splits of packed images in {root}: "
        f"{', '.join(there) or 'none'}. Set the split to one of them. {make}"
    )


def _check_whole(folder: str, index: Index) -> None:
    if len(index.shards) != index.shard_count:
        raise UsageError(
            f"The packed images in {folder} are not finished. Run the command that makes them, "
            "`nsneg prepare arrayrecord`, again with the same options."
        )
    for shard in index.shards:
        path = storage.join(folder, shard.file)
        try:
            size = storage.size(path)
        except OSError as error:
            raise UsageError(f"{path} is missing: {error}. Copy it again, or {_ANEW}.") from error
        if size != shard.bytes:
            raise UsageError(
                f"{path} has {size:,} bytes, but {shard.bytes:,} were written. Copy it again, or "
                f"{_ANEW}."
            )


_ANEW = "remove it and run `nsneg prepare arrayrecord` again with the same options"


def _read_names(folder: str, index: Index) -> Names:
    path = storage.join(folder, NAMES)
    try:
        data = storage.read_bytes(path)
    except OSError as error:
        raise UsageError(f"{path} is missing: {error}. Copy it again, or {_ANEW}.") from error
    if hashlib.sha256(data).hexdigest() != index.names_sha256:
        raise UsageError(
            f"{path} does not belong to {INDEX} beside it. Copy both again, or {_ANEW}."
        )
    outside = _OUTSIDE.search(data)
    if outside:
        line = outside[0].strip().decode("utf-8", "surrogateescape")
        raise UsageError(
            f"{path} has the name {printable(line)}, which is not of a file below its folder. Get "
            f"the set from elsewhere, or {_ANEW}."
        )
    return Names.of_lines(data)


def _labels(folder: str, classes: Sequence[str], paths: Sequence[str]) -> np.ndarray:
    if tuple(classes) == UNLABELLED:
        return np.zeros(len(paths), np.int64)
    numbers = {name: label for label, name in enumerate(classes)}
    try:
        return np.array([numbers[path.partition("/")[0]] for path in paths], np.int64)
    except KeyError as error:
        raise UsageError(
            f"{folder}/{NAMES} has an image of the class {error}, which is not in {INDEX} beside "
            f"it. Copy both again, or {_ANEW}."
        ) from error
