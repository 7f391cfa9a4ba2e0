"""The interface of data sets, and opening them by the name in a config."""

import os
import re
from collections.abc import Sequence

from nsneg_jax.errors import UsageError
from nsneg_jax.files import expand
from nsneg_jax.input.sources import storage
from nsneg_jax.input.sources.arrays.source import SCHEMES, Arrays, advised
from nsneg_jax.input.sources.lists.class_list import class_names
from nsneg_jax.input.sources.protocol import FileSource, Source

_SHAPES_SIZE = 4000
# a part of a split, in the notation of TFDS
_PART = re.compile(r"(?P<split>.+)\[(?:(?P<low>[0-9]{1,3})%)?:(?:(?P<high>[0-9]{1,3})%)?\]")
_SHAPES = re.compile(r"shapes(?:/(?P<version>\w+))?(?::(?P<size>[0-9]+))?(?:@(?P<seed>[0-9]+))?")


def open_source(
    spec: str,
    split: str,
    *,
    image_size: int,
    classes: str = "",
    tfds_dir: str = "",
    labels: str = "",
) -> Source:
    """Opens the data set that `data.source` names.

    Args:
        spec: 'folder:ROOT' (see `Folder`), 'arrayrecord:ROOT' (see `ArrayRecord`),
            'tfds:NAME[/CONFIG][:VERSION]' (see `Tfds`), 'hf:PATH' (see `HuggingFace`),
            'cifar10:PATH', 'cifar100:PATH', 'stl10:PATH' or 'idx:PATH' (see `Arrays`), or
            'shapes[/VERSION][:SIZE][@SEED]', the built-in procedural images (see `Shapes`):
            'shapes' are 4000 of version 'clean' and seed 0, 'shapes/sketch:1000@7' are a thousand
            of version 'sketch' and seed 7.
        split: 'train', 'val' or any other split of the data set; of image files also a part of
            one, such as 'train[:80%]' or 'train[80%:]', see `derived.part_of`.
        image_size: side of the procedural images in pixels; files keep their size.
        classes: classes of files to use, see `class_names`; '' uses all.
        tfds_dir: folder of TFDS data sets; '' leaves the choice to TFDS.
        labels: file with the classes of the images of a folder, see `Folder`.

    Raises:
        UsageError: the data set is unknown, or cannot be used.
    """
    if is_files(spec):
        names = class_names(classes) if classes else None
        return open_files(spec, split, names, tfds_dir=tfds_dir, labels=labels)
    shapes = _SHAPES.fullmatch(spec)
    if shapes:
        from nsneg_jax.input.shapes.source import Shapes

        if classes:
            raise UsageError(
                f"data.classes is {classes!r}, but the built-in shapes always have all classes. "
                "Leave it empty."
            )
        if labels:
            raise UsageError(_only_for_folders(labels, spec))
        return Shapes(
            split,
            image_size=image_size,
            size=int(shapes["size"] or _SHAPES_SIZE),
            seed=int(shapes["seed"] or 0),
            version=shapes["version"] or "clean",
        )
    raise UsageError(
        f"data.source is {spec!r}, but must be 'folder:PATH' (any folder of images; with classes "
        f"PATH/{split}/CLASS/), 'arrayrecord:PATH' (packed by `nsneg prepare arrayrecord`), "
        "'tfds:NAME[/CONFIG][:VERSION]', 'hf:PATH[/CONFIG]' (a local data set of Hugging Face), "
        "'cifar10:PATH', 'cifar100:PATH', 'stl10:PATH', 'idx:PATH' (MNIST, Fashion-MNIST) or "
        "'shapes[/VERSION][:SIZE][@SEED]' (built in), such as "
        "'shapes', 'shapes:1000' or 'shapes/sketch:1000@7'. Set it with "
        "--config.data.source=folder:PATH."
    )


def is_files(spec: str) -> bool:
    """Returns whether `spec` names a data set of image files."""
    scheme, _, rest = spec.partition(":")
    return scheme in ("folder", "arrayrecord", "tfds", "hf", *SCHEMES) and bool(rest)


def is_arrays(spec: str) -> bool:
    """Returns whether `spec` names a data set in files of arrays, such as CIFAR."""
    scheme, _, rest = spec.partition(":")
    return scheme in SCHEMES and bool(rest)


def open_files(
    spec: str,
    split: str,
    classes: Sequence[str] | None = None,
    *,
    partial: bool = False,
    tfds_dir: str = "",
    labels: str = "",
) -> FileSource:
    """Opens a data set of image files, see `is_files`.

    Args:
        spec, split, tfds_dir, labels: see `open_source`.
        classes, partial: see `Folder`.

    Raises:
        UsageError: the data set cannot be used.
    """
    if part := _PART.fullmatch(split):
        from nsneg_jax.input.sources.derived import part_of

        name, low, high = part["split"], int(part["low"] or 0), int(part["high"] or 100)
        whole = open_files(spec, name, classes, partial=partial, tfds_dir=tfds_dir, labels=labels)
        return part_of(whole, low, high, split)
    scheme, _, rest = expand(spec).partition(":")
    if scheme == "folder":
        from nsneg_jax.input.sources.folders.folder import Folder

        with advised(scheme, rest):
            return Folder(rest, split, classes, partial, labels)
    if labels:
        raise UsageError(_only_for_folders(labels, spec))
    if scheme in SCHEMES:
        with advised(scheme, rest):
            return Arrays(scheme, rest, split, classes, partial)
    if scheme == "hf":
        from nsneg_jax.input.sources.huggingface.source import HuggingFace

        return HuggingFace(rest, split, classes, partial)
    if scheme == "arrayrecord":
        from nsneg_jax.input.sources.packed import ArrayRecord

        return ArrayRecord(rest, split, classes, partial)
    from nsneg_jax.input.sources.tfds import Tfds

    return Tfds(rest, split, classes, partial, tfds_dir)


def _only_for_folders(labels: str, spec: str) -> str:
    return (
        f"The labels {labels} are for images in folders, but {spec} has its own. Leave data.labels "
        "empty, or the field labels of the test set."
    )


def of_files(spec_or_folder: str) -> str:
    """Completes a data set of image files given to a command: a folder may omit 'folder:'."""
    return spec_or_folder if is_files(spec_or_folder) else f"folder:{spec_or_folder}"


def data_set_name(spec_or_folder: str) -> str:
    """Names what is made from a data set: 'imagenet100' for 'folder:/data/imagenet100/'."""
    scheme, _, rest = of_files(spec_or_folder).partition(":")
    if scheme == "tfds":
        return re.split("[/:]", rest)[0]
    if not storage.is_remote(rest):
        rest = os.path.abspath(rest)
    return rest.rstrip("/").rpartition("/")[2]
