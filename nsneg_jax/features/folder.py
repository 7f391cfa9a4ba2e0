"""Embeds the images of any folder, without labels or a config."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from nsneg_jax.embedding import BATCH_SIZE, Pretrained
from nsneg_jax.errors import UsageError, printable
from nsneg_jax.evaluation.features import Extractor
from nsneg_jax.evaluation.passes import Reading, described, shows_little, view_of
from nsneg_jax.evaluation.protocols.finite import check_features
from nsneg_jax.features.table import Table, check_format, write_table
from nsneg_jax.input.loading import AUTOMATIC, report
from nsneg_jax.input.samples import Unreadable
from nsneg_jax.input.sources import storage
from nsneg_jax.input.sources.classes import UNLABELLED
from nsneg_jax.input.sources.folders.folder import Folder
from nsneg_jax.parallel import mesh


class Embedded(NamedTuple):
    """What was written.

    Attributes:
        table: the features.
        skipped: images that cannot be read, in the order in which they were found.
    """

    table: Table
    skipped: tuple[Unreadable, ...]


def open_folder(folder: str) -> Folder:
    """Opens all images below a folder, whatever folders they are in.

    Args:
        folder: local or as 'gs://BUCKET/FOLDER'.

    Raises:
        UsageError: it is missing, no folder, or has no image.
    """
    if not storage.is_folder(folder):
        there = storage.exists(folder)
        what = "is a file" if there else "is missing"
        mend = "Give the folder that it is in" if there else "Correct the path"
        raise UsageError(
            f"The folder of images {printable(folder)} {what}. {mend}; all images below it are "
            "embedded."
        )
    return Folder(folder, ".", UNLABELLED)


def embed_folder(
    encoder: Pretrained,
    source: Folder,
    out: Path,
    form: str,
    batch_size: int = BATCH_SIZE,
    devices: Sequence[jax.Device] | None = None,
) -> Embedded:
    """Writes the features of the images in a folder; names and skips what cannot be read.

    Args:
        encoder: the encoder.
        source: from `open_folder`.
        out: file to write.
        form: one of `table.FORMATS`.
        batch_size: images per pass, rounded up to a multiple of the number of devices.
        devices: devices to split the batch over, by default all.

    Raises:
        UsageError: the size of the encoder's images is unknown, or no image can be read.
        RunError: a feature is not finite; no file is written.
    """
    if encoder.image_size is None or encoder.resize is None:
        raise UsageError(
            f"{encoder.origin} does not record the size of the images that its encoder was trained "
            "on. Give it with --image_size=PIXELS --resize=PIXELS; --resize=0 crops without "
            "resizing."
        )
    check_format(form, (source.file_name(index) for index in range(len(source))))
    mesh.use_dtype(encoder.dtype)
    split = mesh.data_mesh(devices)
    size, resize = encoder.image_size, encoder.resize
    batch = -(-batch_size // split.size) * split.size
    print(f"encoder  {encoder.origin}")
    print(f"images   {len(source):,} image files in {printable(source.folder)}")
    view = view_of(source, resize, size)
    print(f"views    {described(view)}", flush=True)
    if shows_little(view, resize):
        print("note     --resize=256 would show more of a picture", flush=True)
    skipped: list[Unreadable] = []

    def skip(found: Unreadable) -> None:
        report(found)
        skipped.append(found)

    reading = Reading(batch, size, resize, threads=AUTOMATIC, workers=AUTOMATIC)
    extract = Extractor(encoder.encoder, reading, encoder.dtype, split)
    found = extract(encoder.params, encoder.stats, source, skip)
    if not len(found.features):
        first = skipped[0]
        raise UsageError(
            f"None of the {len(source):,} image files in {printable(source.folder)} can be read, "
            f"so nothing is written. The first is {printable(first.path)}: {first.reason}."
        )
    check_features(found.features, source.folder)
    about = {
        "encoder": encoder.encoder_origin,
        "source": f"folder:{source.folder}",
        "folders": {"": source.folder},
        "image_size": size,
        "resize": resize,
        "dtype": encoder.dtype,
        "precision": encoder.encoder.precision,
    }
    table = Table(
        **found._asdict(),
        names=[source.file_name(index) for index in found.indices.tolist()],
        splits=[""] * len(found.indices),
        about=about,
    )
    write_table(out, table, form)
    return Embedded(table, tuple(skipped))
