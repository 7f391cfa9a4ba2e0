"""Computes what the page of a run shows of its images: features, and answers to cue conflicts."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from nsneg_jax.analysis.similarities import config_of
from nsneg_jax.errors import UsageError
from nsneg_jax.evaluation.cue_conflict import CueFolder, named_cues
from nsneg_jax.features.table import FORMATS, read_table
from nsneg_jax.files import expand, read_json
from nsneg_jax.input.crops import central_view
from nsneg_jax.input.decode import UnreadableImage
from nsneg_jax.input.labelled import scaled_resize
from nsneg_jax.input.sources.protocol import Source
from nsneg_jax.input.sources.source import is_files, open_source
from nsneg_jax.input.splits import open_split
from nsneg_jax.pretrained import load_pretrained
from nsneg_jax.report.page.conflicts import Example
from nsneg_jax.report.page.gallery import Gallery, encoded, spread_over_classes
from nsneg_jax.training.checkpoints.checkpoint import find_checkpoint
from nsneg_jax.training.workdir import CONFIG, FEATURES

_BATCH = 64


def of_encoder(run: Path, images: int) -> Gallery:
    """Computes the features of images of a pre-training's validation split.

    They are spread evenly over its classes. Without such a split they are of the training split.

    Args:
        run: workdir of a pre-training, for its latest checkpoint, or a checkpoint folder in it.
        images: number of images, at most; those that cannot be read are left out.

    Raises:
        UsageError: the run has no checkpoint or config.json, or its data are not there.
    """
    folder = find_checkpoint(run)
    data = config_of(folder).data
    source = _validation(data)
    # What is embedded are views, which must not be resized again.
    pretrained = load_pretrained(folder, image_size=data.image_size, resize=0)
    places, pictures, features = [], [], []
    wanted = spread_over_classes(np.asarray(source.labels), images)
    for start in range(0, len(wanted), _BATCH):
        views = []
        for place in wanted[start : start + _BATCH].tolist():
            try:
                views.append(_view(source, place, data))
            except UnreadableImage:
                continue
            places.append(place)
        if views:
            features.append(pretrained.embed(views, batch_size=_BATCH))
            pictures += [encoded(view) for view in views]
    if not places:
        raise UsageError(f"None of the images of {source.name} can be read.")
    about = f"{source.name}, {len(places):,} of {len(source):,} images"
    indices = np.array(places, np.int32)
    labels = np.asarray(source.labels, np.int32)[indices]
    found = np.concatenate(features)
    return Gallery(found, labels, tuple(source.classes), indices, tuple(pictures), about)


def of_features(run: Path, images: int) -> Gallery:
    """Reads features that a features job has left, with their images if these are at hand.

    They are spread evenly over the classes.

    Args:
        run: workdir of the job.
        images: number of images, at most.

    Raises:
        UsageError: there are no features, or the file is damaged.
    """
    table = read_table(_stored(run))
    split = table.splits[0] if table.splits else ""
    rows = np.flatnonzero([each == split for each in table.splits])
    wanted = rows[spread_over_classes(table.labels[rows], images)]
    features, labels, indices = (
        each[wanted] for each in (table.features, table.labels, table.indices)
    )
    data = ConfigDict(read_json(run / CONFIG, "Run the job again.")["data"])
    split = split or data.eval_split  # earlier versions did not write it
    about, pictures = f"{data.source} [{split}]", []
    try:
        source = open_split(data, split)
        pictures = [encoded(_view(source, place, data)) for place in indices.tolist()]
    except (UsageError, UnreadableImage, IndexError):
        pictures = []  # the features are worth a map without them
    about += f", {len(wanted):,} of {len(rows):,} images"
    return Gallery(features, labels, table.classes, indices, tuple(pictures), about)


def conflicts(run: Path, name: str, wanted: Sequence[str]) -> dict[str, Example]:
    """Reads images of a set of cue conflicts, with their textures.

    Args:
        run: workdir of an evaluation.
        name: name of the set.
        wanted: names of images, as in WORKDIR/NAME.csv.

    Returns:
        The images by name, those that are there.

    Raises:
        UsageError: the images are not there.
    """
    config = read_json(run / CONFIG, "Run the evaluation again.")
    try:
        settings, size = config["sets"][name], config["data"]["image_size"]
        resize = scaled_resize(settings["resize"], size)
    except KeyError as error:
        raise UsageError(
            f"{run / CONFIG} lacks {error}: an earlier version wrote it. Run the evaluation again."
        ) from None
    source: Any
    if is_files(settings["source"]):
        root = expand(settings["source"]).partition(":")[2]
        source = CueFolder(root, settings["split"])
        names = [source.path(i).rpartition("/")[2] for i in range(len(source))]
    else:
        source = open_source(settings["source"], settings["split"], image_size=size)
        names = [str(i) for i in range(len(source))]
    shapes, textures = named_cues(source, source.classes)
    places = {each: place for place, each in enumerate(names)}
    found = {}
    for each in wanted:
        place = places.get(each)
        if place is None:
            continue
        with suppress(UnreadableImage):
            picture = encoded(central_view(source.image(place), size, resize))
            found[each] = Example(picture, str(shapes[place]), str(textures[place]))
    return found


def _validation(data: ConfigDict) -> Source:
    """Opens the validation split, or the training split where there is no other."""
    try:
        return open_split(data, data.eval_split)
    except UsageError:
        return open_split(data, data.split)


def _view(source: Source, place: int, data: ConfigDict) -> np.ndarray:
    """Returns an image as classifiers are tested on it, uint8 [S, S, 3]."""
    size = data.image_size
    return central_view(source.image(place), size, scaled_resize(data.resize, size))


def _stored(run: Path) -> Path:
    """Returns the file of a features job, the newest if it was run in several formats."""
    found = [path for form in FORMATS if (path := run / f"{FEATURES}.{form}").exists()]
    if not found:
        raise UsageError(f"There are no features in {run}. Run the job again.")
    return max(found, key=lambda path: path.stat().st_mtime)
