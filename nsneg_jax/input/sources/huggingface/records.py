"""Random access to the images in Arrow and Parquet files, by threads and by worker processes."""

import mmap
from collections import OrderedDict
from collections.abc import Sequence
from threading import BoundedSemaphore, Lock
from typing import Any

import numpy as np

# Columns of row groups that are kept decoded, per process.
_KEPT_BYTES = 512 * 2**20
# Row groups that are decoded at once; `datasets` makes groups of 100 MB.
_DECODED_AT_ONCE = 4
# A page's header and levels, which are between the values of two pages, are shorter.
_MOST_BETWEEN = 2**16
_COMPARED = 16


class Lazy:
    """Records that open their files when they are first used, in each process anew."""

    def __init__(self) -> None:
        self._opened: Any = None
        self._lock = Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in _OF_PROCESS}

    def __setstate__(self, state: dict[str, Any]) -> None:
        Lazy.__init__(self)
        vars(self).update(state)

    def opened(self) -> Any:
        if self._opened is None:
            with self._lock:
                if self._opened is None:
                    self._opened = self._open()
        return self._opened

    def _open(self) -> Any:
        raise NotImplementedError


_OF_PROCESS = ("_opened", "_lock")


class ArrowRecords(Lazy):
    """Rows of Arrow files, as `datasets` saves them, mapped into memory.

    Args:
        files: paths of the files, in order.
        image: name of the column of images.
    """

    def __init__(self, files: Sequence[str], image: str) -> None:
        super().__init__()
        self._files, self._image = tuple(files), image

    def __len__(self) -> int:
        return sum(map(len, self._tables()))

    def column(self, name: str) -> Any:
        """Returns a column, as chunks of pyarrow."""
        import pyarrow as pa

        return pa.concat_tables([each.select([name]) for each in self._tables()]).column(0)

    def paths(self) -> list[str | None]:
        """Returns the paths of the images."""
        return _paths(self.column(self._image))

    def schema(self) -> Any:
        """Returns the schema of the first file."""
        return self._tables()[0].schema

    def __getitem__(self, row: int) -> tuple[bytes | None, str | None]:
        """Returns the bytes and the path of the image in a row; either may be None."""
        starts, chunks = self.opened()
        place = int(np.searchsorted(starts, row, "right")) - 1
        return _image_at(chunks[place], int(row - starts[place]))

    def _tables(self) -> list[Any]:
        import pyarrow as pa

        found = []
        for path in self._files:
            mapped = pa.memory_map(path)
            try:
                found.append(pa.ipc.open_stream(mapped).read_all())
            except pa.ArrowInvalid:
                found.append(pa.ipc.open_file(path).read_all())
        return found

    def _open(self) -> tuple[np.ndarray, list[Any]]:
        chunks = [chunk for table in self._tables() for chunk in table[self._image].chunks]
        return np.cumsum([0, *map(len, chunks)])[:-1], chunks


class ParquetRecords(Lazy):
    """Rows of Parquet files.

    A row group, of hundreds of images, can only be decoded as a whole. Where the column is not
    compressed, the first read of a group finds the places of its images in the file, and later
    reads go there. Otherwise recently decoded groups are kept.

    Args:
        files: paths of the files, in order.
        image: name of the column of images.
    """

    def __init__(self, files: Sequence[str], image: str) -> None:
        super().__init__()
        self._files, self._image = tuple(files), image

    def __len__(self) -> int:
        import pyarrow.parquet as pq

        return sum(pq.read_metadata(path).num_rows for path in self._files)

    def column(self, name: str) -> Any:
        """Returns a column, or a field COLUMN.FIELD of one, as chunks of pyarrow."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        tables = [pq.ParquetFile(path).read(columns=[name]) for path in self._files]
        return pa.concat_tables(tables).column(0)

    def paths(self) -> list[str | None]:
        """Returns the paths of the images."""
        if not _has_paths(self.schema().field(self._image).type):
            return [None] * len(self)
        return _paths(self.column(f"{self._image}.path"))

    def schema(self) -> Any:
        """Returns the schema of the first file."""
        import pyarrow.parquet as pq

        return pq.read_schema(self._files[0])

    def group_bytes(self) -> int:
        """Returns the bytes of images in the largest row group, 0 if none is compressed."""
        groups = self.opened().groups
        return max((group.bytes for group in groups if group.is_compressed), default=0)

    def __getitem__(self, row: int) -> tuple[bytes | None, str | None]:
        """Returns the bytes and the path of the image in a row; either may be None."""
        state: _Groups = self.opened()
        return state.read(row)

    def _open(self) -> "_Groups":
        return _Groups(self._files, self._image)


class _Group:
    """A row group, and the places of its images in the file once they are known."""

    def __init__(self, file: int, number: int, metadata: Any, image: str) -> None:
        self.file, self.number = file, number
        columns = [metadata.column(i) for i in range(metadata.num_columns)]
        names = (f"{image}.bytes", image)
        column = next(each for each in columns if each.path_in_schema in names)
        self.rows, self.bytes = metadata.num_rows, column.total_uncompressed_size
        self.is_compressed = column.compression != "UNCOMPRESSED"
        self.start = column.data_page_offset
        self.end = self.start + column.total_compressed_size
        self.places: np.ndarray | None = None  # int64 [rows, 2], first and last byte + 1
        self.lock = Lock()


class _Groups:
    """The open files of one process."""

    def __init__(self, files: Sequence[str], image: str) -> None:
        import pyarrow.parquet as pq

        self._files, self._image = files, image
        self._metadata = [pq.read_metadata(path) for path in files]
        self._maps = [_mapped(path) for path in files]
        self.groups = [
            _Group(file, number, metadata.row_group(number), image)
            for file, metadata in enumerate(self._metadata)
            for number in range(metadata.num_row_groups)
        ]
        self._starts = np.cumsum([0, *(group.rows for group in self.groups)])[:-1]
        self._kept: OrderedDict[int, Any] = OrderedDict()
        self._kept_lock = Lock()
        self._decoding = BoundedSemaphore(_DECODED_AT_ONCE)

    def read(self, row: int) -> tuple[bytes | None, str | None]:
        place = int(np.searchsorted(self._starts, row, "right")) - 1
        group, at = self.groups[place], int(row - self._starts[place])
        if group.places is None:
            with group.lock:  # other threads that want the same group wait for it
                if group.places is None:
                    chunk = self._decoded(place, group)
                    if not group.is_compressed:
                        group.places = _places(self._maps[group.file], group, chunk)
                    if group.places is None:
                        group.is_compressed = True  # at least not as it is in the file
                        self._keep(place, chunk, group.bytes)
                    return _image_at(chunk, at)
        first, end = group.places[at]
        return self._maps[group.file][first:end], None

    def _decoded(self, place: int, group: _Group) -> Any:
        import pyarrow.parquet as pq

        with self._kept_lock:
            if place in self._kept:
                self._kept.move_to_end(place)
                return self._kept[place]
        with self._decoding:
            file = pq.ParquetFile(self._files[group.file], metadata=self._metadata[group.file])
            table = file.read_row_group(group.number, columns=[self._image], use_threads=False)
        return table.column(0).combine_chunks()

    def _keep(self, place: int, chunk: Any, size: int) -> None:
        with self._kept_lock:
            self._kept[place] = chunk
            while (
                len(self._kept) > 1 and sum(self.groups[i].bytes for i in self._kept) > _KEPT_BYTES
            ):
                self._kept.popitem(last=False)


def _image_at(chunk: Any, row: int) -> tuple[bytes | None, str | None]:
    import pyarrow as pa

    if not pa.types.is_struct(chunk.type):
        return chunk[row].as_py(), None
    names = {field.name for field in chunk.type}
    data, path = (
        chunk.field(name)[row].as_py() if name in names else None for name in ("bytes", "path")
    )
    return data, path


def _has_paths(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_struct(kind) and kind.get_field_index("path") >= 0


def _paths(images: Any) -> list[str | None]:
    if not _has_paths(images.type):
        return [None] * len(images)
    return [path for chunk in images.chunks for path in chunk.field("path").to_pylist()]


def _places(mapped: mmap.mmap, group: _Group, chunk: Any) -> np.ndarray | None:
    """Finds the values of a group in its file; None if they are not there as they are.

    Values stand one after another, each after its length, with headers between pages.
    """
    found = np.empty((group.rows, 2), np.int64)
    at = group.start
    for row in range(group.rows):
        value, _ = _image_at(chunk, row)
        if value is None:
            return None
        begin = len(value).to_bytes(4, "little") + value[:_COMPARED]
        if mapped[at : at + len(begin)] != begin:
            at = mapped.find(begin, at, min(at + _MOST_BETWEEN, group.end))
        if at < 0 or mapped[at + 4 : at + 4 + len(value)] != value:
            return None
        found[row] = at + 4, at + 4 + len(value)
        at += 4 + len(value)
    return found


def _mapped(path: str) -> mmap.mmap:
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
