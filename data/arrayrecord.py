"""Packs image files into a few large ones, for network file systems and object stores.

    python -m data.arrayrecord --source datasets/imagenet100 --out datasets/imagenet100-packed

SOURCE is any folder of images, or a named data set ('tfds:imagenet2012', 'hf:PATH'). OUT gets the
splits as `--config.data.source=arrayrecord:OUT` reads them (nsneg_jax/input/sources/packed.py).
Files are kept byte for byte; --resize_short reduces larger images. Every shard is read back before
it gets its name, so run the same command again to complete a stopped run. --verify reads and
compares all of OUT. Exit status: 0 complete, 1 --verify found a fault, 75 stopped by
a signal.
"""

import argparse
import hashlib
import itertools
import os
import shutil
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import simplejpeg
from tqdm import tqdm

from nsneg_jax.errors import EXPLAINED, UsageError, escape_output, tell
from nsneg_jax.files import data_root, expand, inside, write_whole
from nsneg_jax.input.crops import resize_short
from nsneg_jax.input.decode import decode_image
from nsneg_jax.input.sources import storage
from nsneg_jax.input.sources.lists.class_list import class_names
from nsneg_jax.input.sources.packed import (
    INDEX,
    NAMES,
    Index,
    Shard,
    add_record,
    open_shards,
    read_index,
    records_digest,
)
from nsneg_jax.input.sources.source import (
    FileSource,
    data_set_name,
    of_files,
    open_files,
)
from nsneg_jax.training.signals import ended_by_signals

# ImageNet gives 1024 shards of 1251 images, about 140 MB each.
_IMAGES_A_SHARD, _MOST_SHARDS = 1000, 1024
# Images are compressed already; one record per group allows random access.
_WRITER_OPTIONS = "group_size:1,uncompressed"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    escape_output()
    try:
        with ended_by_signals("finished shards stay; run the same command again to go on"):
            options = parse(arguments)
            if options.verify:
                results = [verify(folder) for folder in _made_splits(options)]
                return 0 if all(results) else 1
            # Open all splits first, so that a missing one is not found after hours.
            sources = {split: _open(options, split) for split in options.splits}
            for split, source in sources.items():
                pack(source, storage.join(options.out, split), options)
            return 0
    except EXPLAINED as error:
        return tell(error)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line; argparse exits with status 2 on a malformed one.

    Raises:
        UsageError: a value is out of range.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__}.arrayrecord",
        description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--source",
        type=expand,
        default=f"{data_root()}/imagenet100",
        help="folder of images, or 'tfds:NAME', 'hf:PATH' ...",
    )
    parser.add_argument(
        "--out",
        type=expand,
        default="",
        help="folder to make, local or gs://BUCKET/FOLDER; '': $NSNEG_DATA/NAME-packed",
    )
    parser.add_argument("--splits", default="train,val", help="names separated by commas")
    parser.add_argument("--classes", default="", help="only these: names, or a file with them")
    parser.add_argument("--labels", default="", help="file with classes of a folder's images")
    parser.add_argument("--tfds_dir", default="", help="of 'tfds:' sources; '': TFDS's default")
    parser.add_argument("--resize_short", default="none", help="shorter side in pixels, or 'none'")
    parser.add_argument("--quality", type=int, default=95, help="of JPEGs made by resizing")
    parser.add_argument("--shards", type=int, default=0, help="per split; 0: one per 1000 images")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="to read and resize")
    parser.add_argument("--verify", action="store_true", help="check what is in OUT, make nothing")
    options = parser.parse_args(arguments)
    options.out = options.out or f"{data_root()}/{data_set_name(options.source)}-packed"
    if options.resize_short != "none" and not options.resize_short.isdecimal():
        raise UsageError(
            f"--resize_short is {options.resize_short!r}, but must be a number of pixels, such as "
            "256, or 'none'."
        )
    short = options.resize_short
    options.resize_short = None if short == "none" else int(short)
    ranges = {"shards": (0, 99999), "threads": (1, 999), "quality": (1, 100)}
    if options.resize_short is not None:
        ranges["resize_short"] = (8, 99999)
    for name, (least, most) in ranges.items():
        if not least <= getattr(options, name) <= most:
            raise UsageError(
                f"--{name} is {getattr(options, name)}, but must be from {least} to {most}."
            )
    options.splits = [name.strip() for name in options.splits.split(",") if name.strip()]
    if not options.splits:
        raise UsageError("--splits names no split. Give names separated by commas.")
    for split in set(options.splits) - {"."}:  # that is OUT itself
        inside(Path(options.out), split)
    return options


def pack(source: FileSource, folder: str, options: argparse.Namespace) -> None:
    """Packs the missing parts of a split into a folder.

    Raises:
        UsageError: the source cannot be used, or the folder was begun with other options or images.
        OSError: the folder cannot be written.
    """
    # Records may have any order: the paths in names.txt give the images theirs. Some sources are
    # much quicker to read in their own.
    order = getattr(source, "stored", np.arange(len(source))).argsort(kind="stable")
    names = _names(source, order.tolist())
    resizing = options.resize_short is not None
    shards = options.shards or min(max(round(len(source) / _IMAGES_A_SHARD), 1), _MOST_SHARDS)
    index = Index(
        source=source.name,
        resize_short=options.resize_short,
        quality=options.quality if resizing else None,
        classes=tuple(source.classes),
        images=len(source),
        names_sha256=hashlib.sha256(names).hexdigest(),
        shard_count=min(shards, len(source)),
    )
    finished = _claim(folder, index)
    _write(storage.join(folder, NAMES), names)
    bounds = np.linspace(0, index.images, index.shard_count + 1).round().astype(int).tolist()
    files = [f"{i:05}-of-{index.shard_count:05}.array_record" for i in range(index.shard_count)]
    known = {shard.file: shard for shard in finished.shards}
    made = []
    with tqdm(total=index.images, unit="image", smoothing=0.05, desc=folder) as progress:
        for file, (first, last) in zip(files, itertools.pairwise(bounds), strict=True):
            shard = _there(folder, file, last - first, known.get(file))
            if shard is None:
                shard = _make_shard(
                    source, order[first:last].tolist(), folder, file, options, progress
                )
            else:
                progress.update(last - first)
            made.append(shard)
    _write(storage.join(folder, INDEX), replace(index, shards=tuple(made)).to_json())
    size = sum(shard.bytes for shard in made)
    print(f"{folder}: {index.images:,} images in {len(made)} shards, {size:,} bytes")


def verify(folder: str) -> bool:
    """Compares all records of a split with its index; prints the faults, or that there are none."""
    index = read_index(folder)
    if index is None or len(index.shards) != index.shard_count:
        print(f"{folder}: not finished; run the command that makes it again")
        return False
    wrong = []
    names = storage.read_bytes(storage.join(folder, NAMES))
    if hashlib.sha256(names).hexdigest() != index.names_sha256:
        wrong.append(f"{NAMES} does not belong to {INDEX}")
    if sum(shard.images for shard in index.shards) != index.images:
        wrong.append(f"the shards of {INDEX} do not add up to its {index.images:,} images")
    for shard in tqdm(index.shards, unit="shard", desc=folder):
        path = storage.join(folder, shard.file)
        try:
            size = storage.size(path)
            problem = f"{size:,} bytes, not {shard.bytes:,}" if size != shard.bytes else ""
            problem = problem or (
                "" if _digest(folder, shard) == shard.sha256 else "contents differ from the index"
            )
        except (OSError, RuntimeError) as error:
            problem = str(error)
        if problem:
            wrong.append(f"{shard.file}: {problem}")
    for each in wrong:
        print(f"{folder}: {each}")
    if wrong:
        print("Remove these files and run the command that makes them again.")
    else:
        print(f"{folder}: {index.images:,} images in {len(index.shards)} shards are as written")
    return not wrong


def _open(options: argparse.Namespace, split: str) -> FileSource:
    classes = class_names(options.classes) if options.classes else None
    return open_files(
        of_files(options.source), split, classes, tfds_dir=options.tfds_dir, labels=options.labels
    )


def _made_splits(options: argparse.Namespace) -> list[str]:
    found = [storage.join(options.out, split) for split in options.splits]
    found = [folder for folder in found if storage.exists(storage.join(folder, INDEX))]
    if not found:
        raise UsageError(
            f"{options.out} has none of the splits {', '.join(options.splits)}. Name others with "
            "--splits."
        )
    return found


def _names(source: FileSource, order: Sequence[int]) -> bytes:
    paths = [source.path(i) for i in order]
    for i, path in zip(order, paths, strict=True):
        name = source.classes[source.labels[i]]
        if "\n" in path or not path.startswith(f"{name}/" if name else ""):
            raise UsageError(
                f"The image {path!r} of {source.name} cannot be packed: its path must be one line "
                "and begin with the name of its class. Rename it."
            )
    return "".join(f"{path}\n" for path in paths).encode("utf-8", "surrogateescape")


def _claim(folder: str, index: Index) -> Index:
    """Returns the index in the folder, which is made if missing.

    Raises:
        UsageError: the index there belongs to other images or options.
    """
    before = read_index(folder)
    if before is None:
        if not storage.is_remote(folder):
            os.makedirs(folder, exist_ok=True)
        _write(storage.join(folder, INDEX), index.to_json())
        return index
    # The source may have been named in another way.
    ours, theirs = (vars(replace(each, shards=(), source="")) for each in (index, before))
    differences = [
        f"{name} {'has changed' if name in ('classes', 'names_sha256') else was_is}"
        for name in ours
        if ours[name] != theirs[name]
        for was_is in [f"was {theirs[name]!r} and is {ours[name]!r}"]
    ]
    if differences:
        raise UsageError(
            f"{folder} was begun with other options or images: {'; '.join(differences)}. Give the "
            "same ones, or another folder for --out."
        )
    return before


def _there(folder: str, file: str, images: int, known: Shard | None) -> Shard | None:
    """Returns an existing shard; None if it is missing or damaged."""
    path = storage.join(folder, file)
    if not storage.exists(path):
        return None
    shard = Shard(file, images, storage.size(path), "")
    if known and (known.images, known.bytes) == (shard.images, shard.bytes):
        return known  # it was checked when it was made
    try:
        return replace(shard, sha256=_digest(folder, shard))
    except RuntimeError:
        return None


def _make_shard(
    source: FileSource,
    members: Sequence[int],
    folder: str,
    file: str,
    options: argparse.Namespace,
    progress: tqdm,
) -> Shard:
    """Writes a shard, reads it back, and only then gives it its name."""
    from array_record.python.array_record_module import ArrayRecordWriter

    def record(index: int) -> bytes:
        data = source.encoded(index)
        return (
            data
            if options.resize_short is None
            else reduced(data, source.path(index), options.resize_short, options.quality)
        )

    written = []

    def write(partial: Path) -> None:
        digest = records_digest()
        try:
            writer = ArrayRecordWriter(str(partial), _WRITER_OPTIONS)
            for data in _in_order(record, members, options.threads):
                writer.write(data)
                add_record(digest, data)
                progress.update()
            writer.close()
            shard = Shard(partial.name, len(members), partial.stat().st_size, digest.hexdigest())
            same = _digest(str(partial.parent), shard) == shard.sha256
        except RuntimeError as error:  # ArrayRecord's, for a full disk too
            raise OSError(f"{folder}/{file} cannot be written: {error}") from error
        if not same:
            raise OSError(f"{folder}/{file} differs from what was written: check the disk")
        written.append(replace(shard, file=file))

    if not storage.is_remote(folder):
        write_whole(Path(folder) / file, write)
    else:
        with tempfile.TemporaryDirectory() as here:
            partial = Path(here) / file
            write(partial)
            # An object appears only when it is complete.
            with (
                storage.remote(storage.join(folder, file)) as target,
                partial.open("rb") as data,
                target.open("wb") as there,
            ):
                shutil.copyfileobj(data, there, 1 << 24)
    return written[0]


def reduced(data: bytes, name: str, short: int, quality: int) -> bytes:
    """Converts an image file to a JPEG with a shorter side of `short` pixels; keeps smaller ones.

    Args:
        data: bytes of the file.
        name: name of the file, for the message.
        short: shorter side in pixels.
        quality: quality of the JPEG, 1 to 100; colours are halved (4:2:0).

    Raises:
        UnreadableImage: the file is no image, or damaged.
    """
    image = decode_image(data, name)
    if min(image.shape[:2]) <= short:
        return data
    smaller = np.ascontiguousarray(resize_short(image, short))
    return simplejpeg.encode_jpeg(smaller, quality, "RGB", "420")


def _in_order(
    make: Callable[[int], bytes], members: Sequence[int], threads: int
) -> Iterator[bytes]:
    """Yields make(i) for each i; threads work some images ahead."""
    under_way: deque[Future[bytes]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for i in members:
            under_way.append(pool.submit(make, i))
            if len(under_way) > 4 * threads:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()


def _digest(folder: str, shard: Shard) -> str:
    """Returns the digest of the records in a shard's file.

    Raises:
        RuntimeError: the file is damaged, or has another number of records.
    """
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    path = storage.join(folder, shard.file)
    with ArrayRecordDataSource(path) as whole:
        if len(whole) != shard.images:
            raise RuntimeError(f"{path} has {len(whole)} records, not {shard.images}")
    digest = records_digest()
    with open_shards(folder, [shard]) as records:
        for i in range(shard.images):
            add_record(digest, records[i])
    return digest.hexdigest()


def _write(path: str, data: bytes) -> None:
    if not storage.is_remote(path):
        write_whole(Path(path), lambda partial: partial.write_bytes(data))
        return
    with storage.remote(path) as target:
        target.write_bytes(data)


if __name__ == "__main__":
    sys.exit(main())
