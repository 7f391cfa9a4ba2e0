"""Makes ImageNet-100, the paper's 100 classes of ImageNet, from a folder or the official archives.

    python -m data.imagenet100 --source IMAGENET --out datasets/imagenet100

IMAGENET holds either `train/WNID/*.JPEG` and `val/WNID/*.JPEG` (or `val/*.JPEG`, as in Kaggle's
ILSVRC/Data/CLS-LOC), or the archives as downloaded: ILSVRC2012_img_train.tar,
ILSVRC2012_img_val.tar. Labels of validation images in no folders are in
ILSVRC2012_devkit_t12.tar.gz or Kaggle's LOC_val_solution.csv. Files get their names when they are
complete; run the same command again to complete a stopped run. Exit status: 0 all counts are right,
1 some are wrong, 75 stopped by a signal.
"""

import argparse
import os
import shutil
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from nsneg_jax.errors import EXPLAINED, UsageError, escape_output, printable, tell
from nsneg_jax.files import check_plain, data_root, expand, is_plain
from nsneg_jax.input.sources import storage
from nsneg_jax.input.sources.folder import IMAGE_ENDINGS
from nsneg_jax.input.sources.lists.class_list import class_names
from nsneg_jax.input.sources.lists.labels import DEVKIT, KAGGLE, Labels, found_labels
from nsneg_jax.training.signals import ended_by_signals

CLASS_LIST = Path(__file__).parent / "imagenet100.tsv"
ARCHIVES = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}
# All 100 classes of the paper; each class of ImageNet has 732 to 1300 training images.
TRAIN_IMAGES = 126_689
TRAIN_RANGE = (732, 1300)
VAL_PER_CLASS = 50
_PARTIAL = ".partial"


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
        "--devkit", type=expand, help=f"labels of validation images; SOURCE/{DEVKIT} by default"
    )
    parser.add_argument(
        "--val-labels", type=expand, help=f"the same as text: one wnid per line, or {KAGGLE}"
    )
    options = parser.parse_args(arguments)
    try:
        with ended_by_signals("finished files stay; run the same command again to go on"):
            options.out = storage.local_folder(options.out or f"{data_root()}/imagenet100", "--out")
            classes = tuple(sorted(set(class_names(options.classes))))
            splits = [split.strip() for split in options.splits.split(",")]
            check_plain("--classes", classes)
            check_plain("--splits", splits)
            # Report what is missing before unpacking, which takes hours.
            work = {split: plan(options, split, classes) for split in splits}
            differences = []
            for split, make in work.items():
                make()
                counts = {wnid: len(_images(Path(options.out, split, wnid))) for wnid in classes}
                print(f"{split}: {sum(counts.values())} images of {len(classes)} classes")
                whole = options.classes == str(CLASS_LIST)
                differences += check(split, counts, classes, TRAIN_IMAGES if whole else None)
    except EXPLAINED as error:
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
        found = {wnid: _images(folder / wnid) for wnid in classes}
        loose = _images(folder)
        if loose and not any(found.values()):
            found = _by_wnid(folder, loose, _val_labels(options, folder), classes)
        missing = [wnid for wnid in classes if not found[wnid]]
        if missing:
            raise UsageError(
                f"{len(missing)} of the {len(classes)} classes have no image in {folder}, the "
                f"first is {missing[0]}. Complete the source, or give another list with --classes."
            )
        return partial(_from_folder, found, out, options.link)
    if archive.is_file() and split == "train":
        return partial(_from_archive, archive, out, classes, _train_members)
    if archive.is_file() and split == "val":
        members = partial(_val_members, labels=_val_labels(options, source))
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


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(
            Path(entry.path)
            for entry in entries
            if entry.name.lower().endswith(IMAGE_ENDINGS)
            and not entry.name.startswith(".")
            and not entry.is_dir()
        )


def _by_wnid(
    folder: Path, images: Sequence[Path], labels: Labels, classes: Sequence[str]
) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {wnid: [] for wnid in classes}
    for path in images:
        wnid = labels.of(path.name, folder.name)
        if wnid is None:
            raise UsageError(
                f"{labels.path} does not name the image {path}. Complete it, or give other labels "
                "with --devkit or --val-labels."
            )
        if wnid in found:
            found[wnid].append(path)
    return found


def _from_folder(found: Mapping[str, Sequence[Path]], out: Path, link: str) -> None:
    for wnid, images in tqdm(found.items(), out.name, unit="class"):
        (out / wnid).mkdir(parents=True, exist_ok=True)
        for source in images:
            target = out / wnid / source.name
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
                base = os.path.basename(name)
                if not is_plain(base):
                    raise tarfile.ReadError(f"{printable(name)!r} is no name of a file")
                target = out / wnid / base
                if not _whole(target, size):
                    _unfinished(target).unlink(missing_ok=True)  # it might be a link
                    with open(_unfinished(target), "xb") as unfinished:
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


def _val_members(archive: tarfile.TarFile, wanted: frozenset[str], labels: Labels) -> Members:
    """Yields the images of an archive without folders."""
    for member in archive:
        if not member.isfile() or not member.name.lower().endswith(IMAGE_ENDINGS):
            continue
        wnid = labels.of(os.path.basename(member.name), "val")
        if wnid is None:
            raise tarfile.ReadError(f"{member.name} has no label in {labels.path}")
        if wnid in wanted:
            yield wnid, member.name, member.size, archive.extractfile(member)


def _val_labels(options: argparse.Namespace, folder: Path) -> Labels:
    """Finds the labels of the validation images, which are in `folder` or in an archive there."""
    path = options.val_labels or options.devkit or found_labels(str(folder))
    if not path:
        raise UsageError(
            f"There are no labels of the validation images in {folder} or above it. Give "
            f"ImageNet's {DEVKIT} with --devkit, or Kaggle's {KAGGLE}, or a text file with one "
            "wnid per line and image, with --val-labels."
        )
    return Labels(path)


if __name__ == "__main__":
    sys.exit(main())
