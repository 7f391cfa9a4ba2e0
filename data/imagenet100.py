"""Makes ImageNet-100, the paper's 100 classes of ImageNet, from a folder or the official archives.

    python -m data.imagenet100 --source IMAGENET --out datasets/imagenet100

IMAGENET holds either `train/WNID/*.JPEG` and `val/WNID/*.JPEG`, or the archives as downloaded:
ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and, for the labels of the latter,
ILSVRC2012_devkit_t12.tar.gz. Files get their names when they are complete; run the same command
again to complete a stopped run. Exit status: 0 all counts are right, 1 some are wrong.
"""

import argparse
import io
import os
import re
import shutil
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

from scipy.io import loadmat
from scipy.io.matlab import MatReadError
from tqdm import tqdm

from nsneg_jax.errors import UsageError, escape_output, printable, tell
from nsneg_jax.files import data_root, expand
from nsneg_jax.input.sources import storage
from nsneg_jax.input.sources.folder import IMAGE_ENDINGS
from nsneg_jax.input.sources.source import class_names

CLASS_LIST = Path(__file__).parent / "imagenet100.tsv"
ARCHIVES = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
# All 100 classes of the paper; each class of ImageNet has 732 to 1300 training images.
TRAIN_IMAGES = 126_689
TRAIN_RANGE = (732, 1300)
VAL_PER_CLASS = 50
_PARTIAL = ".partial"

# The devkit's numbers of the classes, and the number of each validation image.
_META = "data/meta.mat"
_LABELS = "data/ILSVRC2012_validation_ground_truth.txt"
# Errors of reading a file that is not the devkit.
_UNREADABLE = (
    *(OSError, EOFError, tarfile.TarError, zlib.error, MatReadError),
    *(LookupError, ValueError, TypeError, NotImplementedError),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    escape_output()
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__}.imagenet100", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "--source", required=True, type=expand, help="ImageNet: folders or archives"
    )
    parser.add_argument(
        "--out", type=expand, help="folder to make; $NSNEG_DATA/imagenet100 by default"
    )
    parser.add_argument("--classes", default=str(CLASS_LIST), help="file with one wnid per line")
    parser.add_argument("--splits", default="train,val", help="separated by commas")
    parser.add_argument(
        "--link",
        choices=("symlink", "hard", "copy"),
        default="symlink",
        help="how to place files from a folder; files from archives are always written",
    )
    parser.add_argument(
        "--devkit", type=expand, help=f"labels of {ARCHIVES['val']}; SOURCE/{DEVKIT} by default"
    )
    parser.add_argument(
        "--val-labels", type=expand, help="the same as text: one wnid per line and image"
    )
    options = parser.parse_args(arguments)
    try:
        options.out = storage.local_folder(options.out or f"{data_root()}/imagenet100", "--out")
        classes = tuple(sorted(set(class_names(options.classes))))
        # Report what is missing before unpacking, which takes hours.
        work = {split: plan(options, split, classes) for split in options.splits.split(",")}
        differences = []
        for split, make in work.items():
            make()
            counts = {wnid: len(_images(Path(options.out, split, wnid))) for wnid in classes}
            print(f"{split}: {sum(counts.values())} images of {len(classes)} classes")
            whole = options.classes == str(CLASS_LIST)
            differences += check(split, counts, classes, TRAIN_IMAGES if whole else None)
    except UsageError as error:
        return tell(error)
    for difference in differences:
        print(difference, file=sys.stderr)
    return 1 if differences else 0


def plan(options: argparse.Namespace, split: str, classes: tuple[str, ...]) -> Callable[[], None]:
    """Returns the function that makes one split.

    Raises:
        UsageError: the source has no such split, or cannot be used.
    """
    source, out = Path(options.source), Path(options.out) / split
    folder, archive = source / split, source / ARCHIVES.get(split, f"{split}.tar")
    if folder.is_dir():
        if out.exists() and folder.samefile(out):
            raise UsageError(f"--out is {options.out}, which is the source. Give another folder.")
        missing = [wnid for wnid in classes if not (folder / wnid).is_dir()]
        if missing:
            raise UsageError(
                f"{len(missing)} of the {len(classes)} classes have no folder in {folder}, the "
                f"first is {missing[0]}. Complete the source, or give another list with --classes."
            )
        return partial(_from_folder, folder, out, classes, options.link)
    if archive.is_file() and split == "train":
        return partial(_from_archive, archive, out, classes, _train_members)
    if archive.is_file() and split == "val":
        members = partial(_val_members, labels=_val_labels(options))
        return partial(_from_archive, archive, out, classes, members)
    raise UsageError(
        f"There is neither a folder {folder} nor an archive {archive}. Give ImageNet's folder with "
        "--source; its splits are 'train' and 'val'."
    )


def check(
    split: str, counts: Mapping[str, int], classes: tuple[str, ...], train_images: int | None
) -> list[str]:
    """Returns one line per wrong number of images.

    Args:
        split: 'val' must have 50 images per class, 'train' as many as ImageNet's classes have.
        counts: number of images by class.
        classes: the expected classes.
        train_images: number of all training images; None if unknown.
    """
    low, high = TRAIN_RANGE if split == "train" else (VAL_PER_CLASS, VAL_PER_CLASS)
    expected = f"{low} to {high}" if split == "train" else str(low)
    wrong = [
        f"{split}/{wnid} has {counts[wnid]} images, expected {expected}"
        for wnid in classes
        if not low <= counts[wnid] <= high
    ]
    total = sum(counts.values())
    if split == "train" and train_images is not None and total != train_images:
        wrong.append(f"train has {total} images, expected {train_images}")
    return wrong


def _images(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(
            entry.name
            for entry in entries
            if entry.name.lower().endswith(IMAGE_ENDINGS) and not entry.name.startswith(".")
        )


def _from_folder(folder: Path, out: Path, classes: tuple[str, ...], link: str) -> None:
    for wnid in tqdm(classes, out.name, unit="class"):
        (out / wnid).mkdir(parents=True, exist_ok=True)
        for name in _images(folder / wnid):
            source, target = folder / wnid / name, out / wnid / name
            try:
                size = source.stat().st_size
            except OSError as error:
                raise UsageError(
                    f"{printable(str(source))} cannot be read: {error.strerror}. Replace or "
                    "remove it."
                ) from error
            if not _whole(target, size):
                _place(source, target, link)


def _whole(target: Path, size: int) -> bool:
    try:
        return target.stat().st_size == size
    except OSError:  # also for a broken link
        return False


def _place(source: Path, target: Path, link: str) -> None:
    unfinished = _unfinished(target)
    unfinished.unlink(missing_ok=True)
    try:
        if link == "symlink":
            unfinished.symlink_to(source.absolute())
        elif link == "hard":
            os.link(source, unfinished)
        else:
            shutil.copyfile(source, unfinished)
        os.replace(unfinished, target)
    except OSError as error:
        raise UsageError(
            f"{target} cannot be made ({link}): {error}. Make room, or choose another --link."
        ) from error


def _unfinished(target: Path) -> Path:
    # Hidden, so that no listing takes it for an image.
    return target.with_name(f".{target.name}{_PARTIAL}")


Members = Iterator[tuple[str, str, int, BinaryIO]]


def _from_archive(
    archive: Path,
    out: Path,
    classes: tuple[str, ...],
    members: Callable[[tarfile.TarFile, frozenset[str]], Members],
) -> None:
    wanted = frozenset(classes)
    for wnid in classes:
        (out / wnid).mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(archive, "r:") as opened:
            for wnid, name, size, file in tqdm(members(opened, wanted), out.name, unit=" files"):
                target = out / wnid / os.path.basename(name)
                if not _whole(target, size):
                    with open(_unfinished(target), "wb") as unfinished:
                        shutil.copyfileobj(file, unfinished)
                    if not _whole(_unfinished(target), size):
                        raise tarfile.ReadError(f"{name} ends early")
                    os.replace(_unfinished(target), target)
    except (tarfile.TarError, OSError) as error:
        raise UsageError(
            f"{archive} cannot be unpacked to {out}: {error}. Compare its size with the official "
            "one (docs/data.md) and download it again, or make room."
        ) from error


def _train_members(archive: tarfile.TarFile, wanted: frozenset[str]) -> Members:
    """Yields the images of an archive of archives, WNID.tar."""
    for member in archive:
        wnid = member.name.removesuffix(".tar")
        if member.isfile() and wnid in wanted:
            with tarfile.open(fileobj=archive.extractfile(member), mode="r:") as images:
                for image in images:
                    if image.isfile():
                        yield wnid, image.name, image.size, images.extractfile(image)


def _val_members(
    archive: tarfile.TarFile, wanted: frozenset[str], labels: Sequence[str]
) -> Members:
    """Yields the images ILSVRC2012_val_NUMBER.JPEG, numbered from 1."""
    for member in archive:
        number = re.search(r"_(\d+)\.\w+$", member.name)
        if not member.isfile() or not number:
            continue
        if not 1 <= int(number[1]) <= len(labels):
            raise tarfile.ReadError(f"{member.name} has no label: there are {len(labels)}")
        wnid = labels[int(number[1]) - 1]
        if wnid in wanted:
            yield wnid, member.name, member.size, archive.extractfile(member)


def _val_labels(options: argparse.Namespace) -> list[str]:
    if options.val_labels:
        try:
            labels = Path(options.val_labels).read_text().split()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--val-labels cannot be read: {error}.") from error
        wrong = next((word for word in labels if not re.fullmatch(r"n\d{8}", word)), None)
        if wrong is not None or not labels:
            raise UsageError(
                f"--val-labels {options.val_labels} must hold one wnid per line, such as "
                f"n01558993, but has {wrong!r}. Correct that line."
            )
        return labels
    return validation_wnids(options.devkit or os.path.join(options.source, DEVKIT))


def validation_wnids(path: str) -> list[str]:
    """Reads the wnids of the validation images, in the order of their numbers.

    Args:
        path: path of the devkit.

    Raises:
        UsageError: the file is not the devkit.
    """
    try:
        with tarfile.open(path) as archive:
            meta, numbers = (_member(archive, name) for name in (_META, _LABELS))
        synsets = loadmat(io.BytesIO(meta), simplify_cells=True)["synsets"]
        wnids = {int(synset["ILSVRC2012_ID"]): synset["WNID"] for synset in synsets}
        return [wnids[int(number)] for number in numbers.split()]
    except _UNREADABLE as error:
        raise UsageError(
            f"The labels of the validation images cannot be read from {path}: "
            f"{type(error).__name__}: {error}. Give ImageNet's {DEVKIT} with --devkit, or a text "
            "file with one wnid per line and image with --val-labels."
        ) from error


def _member(archive: tarfile.TarFile, ending: str) -> bytes:
    for member in archive:
        if member.isfile() and member.name.endswith(ending):
            return archive.extractfile(member).read()
    raise KeyError(f"there is no {ending} in it")


if __name__ == "__main__":
    sys.exit(main())
