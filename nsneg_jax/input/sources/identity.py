"""Which images a run was started with, kept in its checkpoints and compared when it resumes.

Names, classes, sizes and the contents of some files count; the location and the kind of source do
not, so data may move. Digests of blocks of names say where the first difference is, in some 50 KB
for the whole of ImageNet.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from nsneg_jax.errors import UsageError
from nsneg_jax.input.decode import UnreadableImage
from nsneg_jax.input.sources import storage
from nsneg_jax.input.sources.protocol import FileSource, Source, has_files

Identity = Mapping[str, Any]
_Of = TypeVar("_Of")

_LEAST_BLOCK, _MOST_BLOCKS = 1, 2000
_MOST_CLASSES = 2000
# On network storage a size costs a request, so only so many files are asked, evenly spread.
_MOST_SIZES, _MOST_CONTENTS = 2000, 32
_THREADS = 16


def identity(source: Source) -> dict[str, Any]:
    """Describes the images of a source, as plain values.

    Returns:
        'images', the number of images; 'name' of the source if its images are no files; else
        'classes', their names (none if they are more than 2,000); 'names', digests of blocks of
        equally many paths with their classes, at most 2,000 blocks; 'sizes', the bytes of up to
        2,000 files spread evenly, None where unknown; 'contents', digests of up to 32 such files,
        None where unreadable.
    """
    if not has_files(source):
        return {"images": len(source), "name": source.name}
    block = _block(len(source))
    digests = []
    for start in range(0, len(source), block):
        names = (source.path(i) for i in range(start, min(start + block, len(source))))
        digests.append(_digest(names)[:8])
    return {
        "images": len(source),
        "classes": list(source.classes) if len(source.classes) <= _MOST_CLASSES else [],
        "names": digests,
        "sizes": _asked(source, lambda source, index: source.size(index), _MOST_SIZES),
        "contents": _asked(source, _content, _MOST_CONTENTS),
    }


def fingerprint(source: Source) -> dict[str, int | str]:
    """Digests the number, names and classes of all images, to compare processes of one run."""
    path = getattr(source, "path", str)
    return {
        "images": len(source),
        "classes": _digest(source.classes)[:12],
        "names": _digest(map(path, range(len(source))))[:12],
    }


class FileState(NamedTuple):
    """State of the files of a source.

    Attributes:
        digest: of size and time of change of each file, in order.
        newest: latest time of change, in ns since 1970; 0 without files.
    """

    digest: str
    newest: int


def file_state(source: Source) -> FileState:
    """Finds whether files changed since they were looked at before.

    Paths are left to the caller, see `identity`. Images that are no files, and files in a store,
    where each would cost a request, have the state of no file.
    """
    paths = source.files() if has_files(source) else ()
    if any(storage.is_remote(path) for path in paths[:1]):
        paths = ()
    parts = [paths[start::_THREADS] for start in range(_THREADS)]
    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(lambda part: [_stamp(path) for path in part], parts))
    digest = hashlib.sha256(json.dumps(found).encode()).hexdigest()
    return FileState(digest, max((stamp[1] for part in found for stamp in part), default=0))


def _stamp(path: str) -> tuple[int, int]:
    try:
        return storage.stamp(path)
    except OSError:
        return -1, 0  # missing


def check_same_data(
    source: Source,
    now: Identity,
    before: Identity | None,
    images_before: int | None,
    run: Path,
    repaired: Sequence[str] = (),
) -> None:
    """Raises UsageError if a resumed run has other images than before; names the first difference.

    A file may change if it has become unreadable, or was so before: a training replaces such
    images.

    Args:
        source: source of the run.
        now: its `identity`.
        before: the identity that the run has kept; None for runs of versions that kept none.
        images_before: number of images before; None if unknown.
        run: workdir of the run, for the message.
        repaired: paths of files that the run could not read before.
    """
    before = before or ({} if images_before is None else {"images": images_before})
    found = difference(source, now, before, repaired)
    if found:
        raise UsageError(
            f"{source.name} differs from the images that the run in {run} was started with: "
            f"{found}. Order and labels of the data depend on it. Give the same images to resume, "
            "wherever they are now, or another --workdir for a new run."
        )


def difference(
    source: Source, now: Identity, before: Identity, repaired: Sequence[str] = ()
) -> str | None:
    """Describes the first difference between two identities; None if there is none.

    Args:
        source: the source that `now` describes.
        now, before: see `identity`; what is missing in `before` is not compared.
        repaired: see `check_same_data`.
    """
    if before.get("name", now.get("name")) != now.get("name"):
        return f"it was {before.get('name', 'image files')} and is {now.get('name', 'image files')}"
    if before.get("classes") and before["classes"] != now["classes"]:
        return _different_class(before["classes"], now["classes"])
    parts = []
    if before.get("images", now["images"]) != now["images"]:
        parts.append(f"there were {before['images']:,} images and there are {now['images']:,}")
    # Blocks of different sizes cannot be compared.
    alike = _block(before.get("images", now["images"])) == _block(now["images"])
    if alike and before.get("names", now.get("names")) != now.get("names"):
        parts.append(_different_names(source, now["names"], before["names"]))
    if parts:
        return "; ".join(parts)
    for name, most in (("sizes", _MOST_SIZES), ("contents", _MOST_CONTENTS)):
        values = zip(_spread(len(source), most), before.get(name, ()), now.get(name, ()))  # noqa: B905
        for place, was, value in values:
            if not has_files(source) or None in (was, value) or was == value:
                continue
            path = source.path(int(place))
            place_now = source.location(int(place))
            if any(each == place_now or each.endswith(f"/{path}") for each in repaired):
                continue
            if not _is_readable(source, int(place)):
                continue
            if name == "sizes":
                return f"{path} had {was:,} bytes and has {value:,}"
            return f"{path} has other contents"
    return None


def _different_class(before: list[str], now: list[str]) -> str:
    for i, (was, name) in enumerate(zip(before, now)):  # noqa: B905 - one may be longer
        if was != name:
            return f"class {i} was {was!r} and is {name!r}"
    longer = before if len(before) > len(now) else now
    first = longer[min(len(before), len(now))]
    return (
        f"there were {len(before):,} classes and there are {len(now):,}; {first!r} is "
        f"{'missing' if longer is before else 'new'}"
    )


def _different_names(source: Source, now: list[str], before: list[str]) -> str:
    block = _block(len(source))
    pairs = enumerate(zip(before, now))  # noqa: B905 - one may be longer
    place = next((i for i, (was, digest) in pairs if was != digest), min(len(before), len(now)))
    first = place * block
    last = min(first + block, len(source)) - 1
    if not has_files(source) or first > last:
        return "images are missing at the end"
    if first == last:
        return f"image {first:,} is {source.path(first)} and was another"
    return (
        f"the first other name is among images {first:,} to {last:,}, now {source.path(first)} to "
        f"{source.path(last)}"
    )


def _digest(names: Iterable[str]) -> str:
    # The bytes of file names, which may be no UTF-8.
    return hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()


def _is_readable(source: Source, index: int) -> bool:
    try:
        source.image(index)
    except UnreadableImage:
        return False
    return True


def _block(images: int) -> int:
    return max(_LEAST_BLOCK, math.ceil(images / _MOST_BLOCKS))


def _spread(images: int, most: int) -> np.ndarray:
    return np.linspace(0, images - 1, min(images, most)).astype(np.int64)


def _asked(source: FileSource, ask: Callable[[FileSource, int], _Of], most: int) -> list[_Of]:
    """Asks for a value of some images; returns [] if it is not known of any."""
    with ThreadPoolExecutor(_THREADS) as pool:
        places = _spread(len(source), most).tolist()
        found = list(pool.map(lambda index: ask(source, index), places))
    return found if any(each is not None for each in found) else []


def _content(source: FileSource, index: int) -> str | None:
    try:
        return hashlib.sha256(source.encoded(index)).hexdigest()[:8]
    except UnreadableImage:
        return None  # what needs it says so
